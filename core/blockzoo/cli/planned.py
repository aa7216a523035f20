"""What ``blockzoo compare --dry-run`` prints: every arm, and what the experiment will take."""

from __future__ import annotations

from collections.abc import Sequence

from blockzoo.cli.output import gigabytes, note, table
from blockzoo.experiments.axes import AXES
from blockzoo.experiments.estimate import ArmEstimate, DryRun

ABREAST = 6
"""Arms side by side; more go into further tables."""
SMALL = 0.5
"""The share of all parameters that embeddings may be without a word."""
SHAPES = ("n_layers", "d_model", "aspect_ratio", "n_heads", "d_ff", "n_experts")
GROUPS = ("embedding", "unembedding", "mixer", "ffn", "experts", "experts_active")


def show(dry: DryRun) -> None:
    """Tables of the arms, then the sums."""
    for start in range(0, len(dry.arms), ABREAST):
        arms = dry.arms[start : start + ABREAST]
        names = [f"{arm.name} (baseline)" if arm.name == dry.baseline else arm.name for arm in arms]
        table(dry.name if start == 0 else "", ["", *names], _rows(arms, dry), numbers=True)
    note("")
    for line in summary(dry):
        note(line)


def summary(dry: DryRun) -> list[str]:
    """Sentences: how many runs, how long, how much memory, and what to know about those figures."""
    most = f" to {dry.scouts_most}" if dry.scouts_most > dry.scouts else ""
    scouts = f"{dry.scouts}{most} scouting, " if dry.scouts_most else ""
    lines = [f"runs: {scouts}{dry.runs} for the verdict; {dry.tokens:,} tokens, {dry.training_flops:.3g} FLOPs"]
    threads = "1 thread" if dry.threads == 1 else f"{dry.threads} threads"
    many = f", {dry.workers} runs at a time with {threads} each" if dry.workers > 1 else ""
    if dry.seconds is None:
        lines.append("time: no arm could be measured here")
    else:
        most = "" if dry.seconds_most in (None, dry.seconds) else f" to {duration(dry.seconds_most or 0)}"
        lines.append(f"time: about {duration(dry.seconds)}{most} of training{many}; evaluation and saving not counted")
    lines.append(f"memory: about {gigabytes(dry.memory_bytes)} at a time, beside what Python and torch take")
    sizes = [arm.account["parameters"] for arm in dry.arms]
    if any(p["embedding"] + p["unembedding"] > SMALL * p["total"] for p in sizes):
        lines.append("embeddings are more than half of an arm's parameters: compare non_embedding, not total")
    return lines


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3.4 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _rows(arms: Sequence[ArmEstimate], dry: DryRun) -> list[list[str]]:
    rows = [[shape, *(_count(arm.account[shape]) for arm in arms)] for shape in SHAPES]
    for knob in dict.fromkeys(knob for arm in dry.arms for knob in arm.turned):
        rows.append([f"turned: {knob}", *(_count(arm.turned.get(knob)) for arm in arms)])
    for group in ("total", "non_embedding", "active"):
        rows.append([group, *(_count(arm.account["parameters"][group]) for arm in arms)])
    for group in GROUPS:
        if any(arm.account["parameters"][group] for arm in dry.arms):
            rows.append([f"  {group}", *(_count(arm.account["parameters"][group]) for arm in arms)])
    rows.append([f"FLOPs a token, context {dry.context}", *(_count(arm.account["flops_per_token"]) for arm in arms)])
    for context in arms[0].account["kv_cache_bytes"]:
        sizes = [gigabytes(arm.account["kv_cache_bytes"][context]) for arm in arms]
        rows.append([f"KV cache, {int(context):,} tokens", *sizes])
    for axis in AXES:
        rows.append([f"{axis} to baseline", *(_percent(arm, axis, dry.baseline) for arm in arms)])
    rows += [
        ["tokens a run", *(_count(arm.account["tokens"]) for arm in arms)],
        ["training FLOPs a run", *(f"{arm.account['training_flops']:.3g}" for arm in arms)],
        ["learning rate", *(arm.lr for arm in arms)],
        ["runs (scouting + verdict)", *(f"{arm.scouts} + {arm.runs}" for arm in arms)],
        ["time a run", *("" if arm.seconds is None else duration(arm.seconds) for arm in arms)],
        ["  from", *(arm.speed or "not measured" for arm in arms)],
        ["memory", *(_memory(arm) for arm in arms)],
    ]
    return rows


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:,}"


def _percent(arm: ArmEstimate, axis: str, baseline: str) -> str:
    return "" if arm.name == baseline or axis not in arm.mismatch else f"{arm.mismatch[axis]:+.2%}"


def _memory(arm: ArmEstimate) -> str:
    unknown = arm.memory["activations"] is None
    return gigabytes(arm.memory_bytes) + (" and activations" if unknown else "")
