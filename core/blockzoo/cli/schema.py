"""``blockzoo schema``: the JSON schema of model or experiment files, installed plugins included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from blockzoo.cli.output import note, print_json
from blockzoo.config import json_schema
from blockzoo.plugins import host


def command(
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write it there; default: standard output")
    ] = None,
    experiment: Annotated[
        bool, typer.Option("--experiment", help="of experiments (blockzoo compare) and not of models")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="it always is JSON; accepted like everywhere")] = False,
) -> None:
    """Print the JSON schema. Editors find it by a first line `# yaml-language-server: $schema=FILE`."""
    if experiment:
        from blockzoo.experiments.schema import experiment_schema

        schema = experiment_schema(host().registry)
    else:
        schema = json_schema(host().registry)
    if output is None:
        print_json(schema)
        return
    output.write_text(json.dumps(schema, indent=2) + "\n", encoding="utf-8")
    note(f"wrote {output}")
