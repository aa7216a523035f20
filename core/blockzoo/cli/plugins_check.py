"""``blockzoo plugins check``: the conformance suite as a table, a readable line for each skip and each failure.

Checks of one component that end alike (its samples can't be made, say) share a line; JSON has each by itself.
"""

from __future__ import annotations

import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import typer

from blockzoo.cli.bar import counting_bar
from blockzoo.cli.output import note, print_json, table
from blockzoo.cli.reading import read_plugin
from blockzoo.errors import InputError, nearest
from blockzoo.importing import one_line
from blockzoo.testing import Check, CheckFailed, CheckSkipped, checks

Result = Literal["passed", "failed", "skipped"]
FEW = 3  # checks that end alike and are still named


@dataclass(frozen=True)
class Outcome:
    """What became of one check; ``message``: why it failed or was skipped, one line; ``traceback``: of an exception
    behind a failure.
    """

    component: str
    check: str
    result: Result
    message: str
    seconds: float
    traceback: str | None = None


def run(name: str, only: str | None, as_json: bool, tracebacks: bool = False) -> None:
    """Check a plugin by name or file, and print. Raises InputError and PluginError where there is nothing to check."""
    plugin, registry = read_plugin(name)
    wanted = _only(checks(plugin, registry), only)
    outcomes = list(_watched(wanted))
    failed = any(outcome.result == "failed" for outcome in outcomes)
    if as_json:
        counts = {"passed": 0, "failed": 0, "skipped": 0} | Counter(outcome.result for outcome in outcomes)
        print_json({"plugin": plugin, "ok": not failed, **counts, "checks": [asdict(outcome) for outcome in outcomes]})
    else:
        _print(outcomes)
        for outcome in outcomes if tracebacks else ():
            if outcome.traceback:
                note(f"{outcome.component} {outcome.check}:\n{outcome.traceback}")
    if failed:
        raise typer.Exit(1)


def _only(found: Sequence[Check], name: str | None) -> Sequence[Check]:
    """The checks of one component, or those of one name."""
    if name is None:
        return found
    answers = {check: (check.component, check.component.rpartition("/")[2], check.name) for check in found}
    wanted = [check for check in found if name in answers[check]]
    if not wanted:
        known = {answer for some in answers.values() for answer in some}
        raise InputError(f"--only: the plugin has no component or check '{name}'{nearest(name, known)}")
    return wanted


def _watched(wanted: Sequence[Check]) -> Iterator[Outcome]:
    """Run checks with a bar on standard error, where that is a terminal."""
    bar = counting_bar()
    with bar:
        task = bar.add_task("", total=len(wanted))
        for check in wanted:
            bar.update(task, description=f"{check.component} {check.name}")
            yield outcome_of(check)
            bar.advance(task)


def outcome_of(check: Check) -> Outcome:
    """Run one check. Whatever it raises is its outcome; an interrupt passes."""
    result: Result = "passed"
    message = ""
    cause: BaseException | None = None
    begin = time.perf_counter()
    try:
        check.run()
    except CheckSkipped as reason:
        result, message = "skipped", str(reason)
    except CheckFailed as failure:
        result, message, cause = "failed", str(failure), failure.__cause__
    except Exception as error:
        result, message, cause = "failed", f"raised {one_line(error)}", error
    seconds = time.perf_counter() - begin
    told = None if cause is None else "".join(traceback.format_exception(cause))
    return Outcome(check.component, check.name, result, " ".join(message.split()), seconds, told)


def _print(outcomes: Sequence[Outcome]) -> None:
    components = dict.fromkeys(outcome.component for outcome in outcomes)
    rows: list[list[object]] = []
    for component in components:
        own = [outcome for outcome in outcomes if outcome.component == component]
        counts = Counter(outcome.result for outcome in own)
        seconds = sum(outcome.seconds for outcome in own)
        rows.append([component, counts["passed"], counts["failed"], counts["skipped"], f"{seconds:.1f}"])
    table("", ("component", "passed", "failed", "skipped", "seconds"), rows, numbers=True)
    for result in ("skipped", "failed"):
        alike: dict[tuple[str, str], list[str]] = {}
        for outcome in outcomes:
            if outcome.result == result:
                alike.setdefault((outcome.component, outcome.message), []).append(outcome.check)
        for (component, message), names in alike.items():
            which = ", ".join(names) if len(names) <= FEW else f"{len(names)} checks"
            print(f"{result} {component} {which}: {message}")
    failed = sum(outcome.result == "failed" for outcome in outcomes)
    print(f"{failed} of {len(outcomes)} checks failed" if failed else f"all {len(outcomes)} checks pass or are skipped")
