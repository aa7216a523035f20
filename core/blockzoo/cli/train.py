"""``blockzoo train``: one model from YAML, into a run folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from blockzoo.cli.output import note, print_json, table
from blockzoo.cli.reading import overrides_of
from blockzoo.config import load_config
from blockzoo.experiments.budget import in_tokens
from blockzoo.experiments.recipe import read_recipe
from blockzoo.plugins import host
from blockzoo.tokenizers import load_tokenizer, tokenizer_name
from blockzoo.training.config import BUDGETS
from blockzoo.training.data import prepare
from blockzoo.training.distributed import PeerFailed, World, join
from blockzoo.training.folder import RunFolder
from blockzoo.training.interrupt import Interrupted
from blockzoo.training.progress import ProgressBar
from blockzoo.training.run import Run

FAILED, INTERRUPTED = 1, 130
FIGURES = {
    "bits_per_byte": "bits per byte, held out",
    "loss": "loss, held out (nats a scored token)",
    "accuracy": "accuracy, held out",
}


def command(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="a shipped name or a YAML file: the model")],
    recipe: Annotated[Path | None, typer.Option(metavar="FILE", help="YAML with the sections train and data")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="override by dotted key: of the model, train.* or data.*"),
    ] = None,
    data: Annotated[Path | None, typer.Option(metavar="PATH", help="a text file or a folder of them")] = None,
    steps: Annotated[int | None, typer.Option(metavar="N", help="optimizer steps")] = None,
    tracker: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="a plugin that also gets the figures, such as tensorboard; repeatable"),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "--output", metavar="FOLDER", help="where run folders are kept")] = Path(
        "runs"
    ),
    resume: Annotated[
        bool, typer.Option("--resume/--restart", help="go on from the last checkpoint, or throw the run away first")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False,
) -> None:
    """Train one model. The run's folder is named by the hash of all that decides its numbers; Ctrl-C saves.

    Under torchrun all processes train it together.
    """
    mine, models = _apart(overrides_of(settings or ()))
    if data is not None:
        mine["data.path"] = str(data)
    if steps is not None:
        mine |= {**dict.fromkeys((f"train.{name}" for name in BUDGETS), None), "train.steps": steps}
    if tracker:
        mine["train.trackers"] = tracker
    try:
        with join() as world:
            run = _run(config, models, recipe, mine, out, world)
            folder = _execute(run, world, restart=not resume)
    except Interrupted as stop:
        if world.is_first:
            note(f"blockzoo: {stop}")
        raise typer.Exit(INTERRUPTED) from stop
    except PeerFailed as failure:  # which has said why
        raise typer.Exit(FAILED) from failure
    if world.is_first:
        show(folder, as_json)


def _run(
    config: str, models: Mapping[str, Any], recipe: Path | None, mine: Mapping[str, Any], out: Path, world: World
) -> Run:
    registry = host().registry
    model = load_config(config, models, registry=registry)
    plan = read_recipe(recipe, mine, context_length=model.context_length)
    name = tokenizer_name(model, registry=registry)
    with world.first_ahead():
        tokens = prepare(plan.data, load_tokenizer(name, registry=registry), name, out / "data")
        train = in_tokens(plan.train, model, out, registry=registry)
    if train is not plan.train and world.is_first:
        note(f"budget: {train.tokens:,} tokens, {train.total_steps:,} steps")
    return Run(model, train, tokens, out, registry, name)


def _execute(run: Run, world: World, *, restart: bool) -> RunFolder:
    if world.is_first:
        before = run.folder.status()["state"]
        said = {"done": "done already", "new": "new run"}.get(before, f"{before}, going on")
        note(f"{run.folder.path}: {f'{before}, begun anew' if restart and before != 'new' else said}")
        if run.train.parallel in ("ddp", "fsdp") and world.size == 1:
            note(f"train.parallel is {run.train.parallel} and this is one process: start more with torchrun")
        if before != "done" and not restart and len(run.worlds(world)) > 1:
            note("trained by another number of processes before: the last bits are not those of an undisturbed run")
    return run.execute(ProgressBar(), restart=restart, world=world)


def show(folder: RunFolder, as_json: bool) -> None:
    """The figures of a finished run."""
    result = folder.result()
    assert result is not None
    if as_json:
        print_json({"folder": str(folder.path), "model": str(folder.model), **result})
        return
    rows = [
        *((label, f"{result[name]:.4f}") for name, label in FIGURES.items() if name in result),
        ("training loss, end (nats)", f"{result['train_loss']:.4f}"),
        ("tokens", f"{result['tokens']:,}"),
        ("training tokens/s", f"{result['tokens_per_second']:,.0f}"),
        ("run folder", folder.path),
    ]
    table("", ["", folder.path.name], rows)
    note(f"try: blockzoo generate {folder.path} --prompt '...'")


def _apart(overrides: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Overrides of the recipe and overrides of the model."""
    mine = {key: value for key, value in overrides.items() if key.partition(".")[0] in ("train", "data")}
    return mine, {key: value for key, value in overrides.items() if key not in mine}
