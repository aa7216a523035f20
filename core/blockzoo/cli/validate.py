"""``blockzoo validate``: every error of every file, at once."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from blockzoo.accounting import account
from blockzoo.cli.output import note, print_json
from blockzoo.cli.reading import overrides_of
from blockzoo.config import load
from blockzoo.errors import BlockzooError, ConfigError
from blockzoo.plugins import host


def command(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="YAML files, or names of shipped configs")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override, dotted key")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False,
) -> None:
    """Check model files and what their blocks say of their cost, and tell which inherited positions were dropped. Exit
    status 2 when one of them is wrong.
    """
    registry = host().registry
    reports = []
    for file in files:
        report: dict[str, Any] = {"file": file, "ok": True, "problems": []}
        reports.append(report)
        try:
            loaded = load(file, overrides_of(settings or ()), registry=registry)
            account(loaded.config, context=1)
        except BlockzooError as error:
            report |= {"ok": False, "problems": _problems(error)}
            for problem in report["problems"]:
                note("blockzoo: error: " + ": ".join(part for part in problem.values() if part))
        else:
            report |= {"name": loaded.config.name, "n_layers": loaded.config.n_layers, "dropped": list(loaded.dropped)}
            if not as_json:
                print(f"ok {file}: {loaded.config.name}, {loaded.config.n_layers} layers")
                print("".join(f"  {dropped}\n" for dropped in loaded.dropped), end="")
    if as_json:
        print_json(reports)
    if not all(report["ok"] for report in reports):
        raise typer.Exit(2)


def _problems(error: BlockzooError) -> list[dict[str, str]]:
    if isinstance(error, ConfigError):
        return [{"place": problem.place, "message": problem.message} for problem in error.problems]
    return [{"place": "", "message": str(error)}]
