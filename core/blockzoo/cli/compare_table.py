"""What ``blockzoo compare`` shows when it is done: a table, the verdicts, a text from each arm, where everything is."""

from __future__ import annotations

from pathlib import Path
from textwrap import indent

from blockzoo.cli.output import console, gigabytes, table
from blockzoo.experiments.report import words
from blockzoo.experiments.results import ArmResult, Results

DEMONSTRATION = (
    "A demonstration: this little training shows that everything works; it can't decide which architecture is better."
)
GROUPS = ("embedding", "unembedding", "mixer", "ffn", "other")
ABREAST = 6
"""Arms side by side; more go into further tables."""


def show(results: Results, folder: Path, html: Path | None) -> None:
    """Everything, on standard output."""
    record, out = results.record, console()
    title = f"{record.name} (demonstration)" if record.demonstration else record.name
    for start in range(0, len(results.arms), ABREAST):
        arms = results.arms[start : start + ABREAST]
        columns = [cells(arm, results) for arm in arms]
        rows = [[label, *(column[label] for column in columns)] for label in columns[0]]
        table("" if start else title, ["", *(arm.name for arm in arms)], rows, numbers=True)
    _show_verdicts(results)
    for arm in results.arms:
        if arm.texts:
            out.print(f"\n{arm.name} writes:", style="bold")
            for text in arm.texts:
                out.print(indent(text.rstrip(), "  | ", lambda line: True))
    out.print("\nrun folders:", style="bold")
    for arm in results.arms:
        for run in arm.runs:
            seed = f", seed {run.seed}" if len(arm.runs) > 1 else ""
            out.print(f"  {arm.name}{seed}: {folder.parent / run.folder}" + (f" ({run.error})" if run.error else ""))
    out.print(f"\nexperiment: {folder}\nreport: {html or 'none'}")
    if record.demonstration:
        out.print(f"\n{DEMONSTRATION}")


def _show_verdicts(results: Results) -> None:
    out = console()
    out.print(f"\n{words.headline(results)}", style="bold")
    out.print(words.noise(results))
    for arm in results.arms:
        found = arm.difference
        if arm.record.problem is not None:
            out.print(f"  {arm.name}: no verdict runs: {arm.record.problem}")
        elif found is not None:
            said = [words.difference(results, found), found.reason, f"what would change it: {found.advice}"]
            out.print(f"  {arm.name}: {found.verdict}: {'; '.join(part for part in said if part)}")


def cells(arm: ArmResult, results: Results) -> dict[str, str]:
    """One arm as a person reads it: label -> cell."""
    account, record, sample = arm.account, results.record, arm.sample
    counts = account["parameters"]
    seeds = f", mean of {len(results.arms[0].runs)} seeds" if len(results.arms[0].runs) > 1 else ""
    return {
        "layers x width": f"{account['n_layers']} x {account['d_model']}",
        "parameters": f"{counts['total']:,}",
        "  active": f"{counts['active']:,}",
        "  not embedding": f"{counts['non_embedding']:,}",
        **{f"  {group}": f"{counts[group]:,}" for group in GROUPS},
        f"FLOPs a token, context {record.context}": f"{account['flops_per_token']:,.0f}",
        "KV cache, 1024 tokens": gigabytes(account["kv_cache_bytes"]["1024"]),
        "trained on, tokens": _number(arm.tokens, ",.0f"),
        "learning rate": _number(arm.record.lr, ".4g"),
        f"{metric_name(record.metric)}, held out{seeds}": _number(sample.mean, ".3f"),
        "training tokens/s": _number(arm.train_tokens_per_second, ",.0f"),
        "decode tokens/s": _number(arm.decode_tokens_per_second, ",.0f"),
    }


def metric_name(metric: str) -> str:
    """A metric's key as words."""
    return metric.replace("_", " ")


def _number(value: float | None, form: str) -> str:
    return "failed" if value is None else format(value, form)
