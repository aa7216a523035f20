"""``blockzoo compare``: train the arms of an experiment, one after another, and set them side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import indent
from typing import Annotated, Any

import typer

from blockzoo.cli.output import console, gigabytes, note, print_json, table
from blockzoo.cli.reading import overrides_of
from blockzoo.errors import RunError
from blockzoo.experiments.config import ExperimentConfig
from blockzoo.experiments.plan import load_experiment, make_plans
from blockzoo.experiments.results import row
from blockzoo.experiments.run import make_run, run_arm
from blockzoo.plugins import host, shipped_configs
from blockzoo.training.interrupt import Interrupted
from blockzoo.training.progress import ProgressBar
from blockzoo.training.run import RunFolder

INTERRUPTED = 130
DEMONSTRATION = (
    "A demonstration: this little training shows that everything works; it can't decide which architecture is better."
)
GROUPS = ("embedding", "unembedding", "mixer", "ffn", "other")


def command(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="an experiment's YAML; default: a demonstration")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="override by dotted key, such as train.tokens=100000"),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="where run folders are kept")] = Path("runs"),
    resume: Annotated[
        bool, typer.Option("--resume/--restart", help="keep what is done and go on, or throw it away first")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False,
) -> None:
    """Train the arms of an experiment and tabulate them. Finished arms are skipped, so run it again at any time."""
    registry = host().registry
    file = shipped_configs("experiments") / "demo.yaml" if file is None else file
    experiment = load_experiment(file, overrides_of(settings or ()))
    plans = make_plans(experiment, file.parent, out, registry=registry)
    note(f"{experiment.name}: {experiment.description}" if experiment.description else experiment.name)
    if experiment.demonstration:
        note(DEMONSTRATION)
    reporter, rows = ProgressBar(), []
    for plan in plans:
        folder: RunFolder | None = None
        try:
            run = make_run(plan, registry=registry)
            if resume and run.folder.status()["state"] == "done":
                note(f"{plan.arm}: done already, {run.folder.path}")
            folder = run_arm(plan, registry=registry, reporter=reporter, restart=not resume)
            rows.append(row(plan, folder))
        except Interrupted as stop:
            note(f"blockzoo: {plan.arm}: {stop}")
            raise typer.Exit(INTERRUPTED) from stop
        except Exception as error:  # whatever it is, the other arms go on
            reporter.finish()
            note(f"blockzoo: error: {plan.arm}: {error}")
            rows.append(row(plan, folder, error=f"{type(error).__name__}: {error}"))
    if as_json:
        print_json(
            {**experiment.model_dump(mode="json", include={"name", "description", "demonstration"}), "arms": rows}
        )
    else:
        show(experiment, rows)
    failed = [one["arm"] for one in rows if one["error"]]
    if failed:
        raise RunError(
            f"{len(failed)} of {len(rows)} arms failed: {', '.join(failed)}; the same command tries them again"
        )


def show(experiment: ExperimentConfig, rows: Sequence[dict[str, Any]]) -> None:
    """The table, a text from each arm, and where the runs are."""
    columns = [cells(one, experiment.shown_context) for one in rows]
    title = f"{experiment.name} (demonstration)" if experiment.demonstration else experiment.name
    labels = list(columns[0])
    table(
        title,
        ["", *(one["arm"] for one in rows)],
        [[label, *(c[label] for c in columns)] for label in labels],
        numbers=True,
    )
    out = console()
    for one in rows:
        if one["samples"] is not None:
            out.print(f"\n{one['arm']} writes:", style="bold")
            for text in one["samples"]:
                out.print(indent(text.rstrip(), "  | ", lambda line: True))
    out.print("\nrun folders:", style="bold")
    for one in rows:
        out.print(f"  {one['arm']}: {one['folder'] or 'none: ' + str(one['error'])}")
    if experiment.demonstration:
        out.print(f"\n{DEMONSTRATION}")


def cells(one: dict[str, Any], context: int) -> dict[str, str]:
    """One arm as a person reads it: label -> cell."""
    counts = one["parameters"]
    return {
        "layers x width": f"{one['n_layers']} x {one['d_model']}",
        "parameters": f"{counts['total']:,}",
        "  active": f"{counts['active']:,}",
        "  not embedding": f"{counts['non_embedding']:,}",
        **{f"  {group}": f"{counts[group]:,}" for group in GROUPS},
        f"FLOPs a token, context {context}": f"{one['flops_per_token']:,}",
        f"KV cache, {context} tokens": gigabytes(one["kv_cache_bytes"]),
        "trained on, tokens": _number(one["tokens"], ",.0f"),
        "bits per byte, held out": _number(one["bits_per_byte"], ".3f"),
        "training tokens/s": _number(one["train_tokens_per_second"], ",.0f"),
        "decode tokens/s": _number(one["decode_tokens_per_second"], ",.0f"),
    }


def _number(value: float | None, form: str) -> str:
    return "failed" if value is None else format(value, form)
