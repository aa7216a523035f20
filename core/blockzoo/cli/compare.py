"""``blockzoo compare``: conduct an experiment, then say what came out."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from blockzoo.cli import planned
from blockzoo.cli.compare_table import DEMONSTRATION, show
from blockzoo.cli.output import note, print_json
from blockzoo.cli.reading import overrides_of
from blockzoo.cli.report import write_report
from blockzoo.errors import CheckpointError, RunError
from blockzoo.experiments.conduct import conduct
from blockzoo.experiments.estimate import dry_run
from blockzoo.experiments.executors import make_executor
from blockzoo.experiments.live import board
from blockzoo.experiments.plan import load_experiment, make_plan
from blockzoo.experiments.results import Results, collect
from blockzoo.experiments.shipped import DEMONSTRATION as DEMO
from blockzoo.experiments.shipped import find_experiment
from blockzoo.plugins import host
from blockzoo.training.distributed import ALONE, check_processes
from blockzoo.training.interrupt import Interrupted
from blockzoo.training.trackers import check_trackers

INTERRUPTED = 130


def command(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="an experiment's YAML or a shipped name; default: a demonstration"),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="override by dotted key, such as train.tokens=100000"),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "--output", metavar="FOLDER", help="where run folders are kept")] = Path(
        "runs"
    ),
    workers: Annotated[int | None, typer.Option(metavar="N", min=1, help="runs at a time (executor.workers)")] = None,
    executor: Annotated[Literal["local", "ray"] | None, typer.Option(help="who runs the runs (executor.type)")] = None,
    tracker: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="a plugin that also gets the runs' figures, such as tensorboard; repeatable"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--restart", help="keep what is done and go on, or throw it away first")
    ] = True,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="train nothing: every arm's shape and budget, runs, time and memory")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False,
) -> None:
    """Train the arms of an experiment and compare them. Finished runs are skipped, so run it again at any time."""
    registry = host().registry
    overrides = overrides_of(settings or ())
    for key, value in (("executor.workers", workers), ("executor.type", executor)):
        if value is not None:
            overrides[key] = value
    if tracker:
        overrides["train.trackers"] = tracker
    place = find_experiment(DEMO if file is None else file)
    experiment = load_experiment(place, overrides)
    check_trackers(experiment.train.trackers)
    check_processes(ALONE)
    plan = make_plan(experiment, place.parent, out, registry=registry)
    note(f"{experiment.name}: {experiment.description}" if experiment.description else experiment.name)
    if experiment.demonstration:
        note(DEMONSTRATION)
    if dry:
        estimate = dry_run(plan, registry=registry)
        print_json(estimate.as_json()) if as_json else planned.show(estimate)
        return
    try:
        with (
            contextlib.closing(make_executor(experiment.executor)) as runner,
            board(experiment.executor.workers) as watch,
        ):
            folder = conduct(
                plan,
                runner,
                registry=registry,
                watch=watch,
                command=repeated(file, settings or ()),
                restart=not resume,
            )
    except Interrupted as stop:
        note(f"blockzoo: {stop}")
        raise typer.Exit(INTERRUPTED) from stop
    results = collect(folder)
    html, unwritten = None, None
    try:
        html = write_report(results, folder)
    except CheckpointError as error:  # a full disk: what is known is still worth showing
        unwritten = error
    if as_json:
        print_json({"folder": str(folder), **results.as_json()})
    else:
        show(results, folder, html)
    raise_failures(results)
    if unwritten is not None:
        raise unwritten


def repeated(file: Path | None, settings: Sequence[str]) -> str:
    """What repeats the experiment, as one would type it."""
    words: list[Any] = ["blockzoo", "compare", *([] if file is None else [file])]
    for setting in settings:
        words += ["--set", setting]
    return shlex.join(map(str, words))


def raise_failures(results: Results) -> None:
    """Raise RunError where an arm has no verdict, or not from all its seeds. A scout may diverge: that is an answer."""
    failed = [run for arm in results.arms for run in arm.runs if run.state == "failed"]
    without = [arm.name for arm in results.arms if arm.record.problem is not None]
    said = []
    if failed:
        runs = sum(len(arm.runs) for arm in results.arms)
        names = ", ".join(dict.fromkeys(run.arm for run in failed))
        said.append(f"{len(failed)} of {runs} runs failed (of {names}); the same command tries them again")
    if without:
        said.append(f"no verdict runs of {', '.join(without)}")
    if said:
        raise RunError("; ".join(said))
