"""Results for other programs: CSV of arms and of runs. Empty cells are what isn't known."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

from blockzoo.experiments.results import ArmResult, Results
from blockzoo.experiments.statistics import Interval


def arms_csv(results: Results) -> str:
    """A line for each arm; intervals are two columns, and no number is rounded."""
    return _csv([_arm(results, arm) for arm in results.arms])


def runs_csv(results: Results) -> str:
    """A line for each run, scouts too: what another program's statistics start from."""
    rows = [
        {
            "arm": run.arm,
            "purpose": run.purpose,
            "seed": run.seed,
            "lr": run.lr,
            "state": run.state,
            "diverged": run.diverged,
            results.record.metric: run.metric,
            **{key: value for key, value in run.figures.items() if key not in (results.record.metric, "finished")},
            "folder": run.folder,
            "error": run.error,
        }
        for arm in results.arms
        for run in (*arm.scouts, *arm.runs)
    ]
    return _csv(rows)


def _arm(results: Results, arm: ArmResult) -> dict[str, Any]:
    metric, account, sample, d = results.record.metric, arm.account, arm.sample, arm.difference
    return {
        "arm": arm.name,
        "baseline": arm.name == results.record.baseline,
        "n": sample.n,
        "diverged": len(sample.diverged),
        metric: sample.mean,
        **_ends(metric, sample.interval),
        "sigma": sample.sigma,
        **_ends("sigma", sample.sigma_interval),
        "train_loss": arm.train_loss,
        **({} if d is None else {"method": d.method, "effect": d.effect, **_ends("effect", d.interval)}),
        **({} if d is None else _ends("bootstrap", d.bootstrap)),
        **({} if d is None else {key: getattr(d, key) for key in _OF_DIFFERENCE}),
        **{key: account.get(key) for key in ("n_layers", "d_model", "aspect_ratio", "n_heads", "d_ff", "n_experts")},
        **{f"parameters_{key}": value for key, value in account["parameters"].items()},
        "lr": arm.record.lr,
        "flops_per_token": account["flops_per_token"],
        "training_flops": account["training_flops"],
        "tokens": arm.tokens,
        "seconds": arm.seconds,
        **{f"mismatch_{axis}": value for axis, value in arm.record.mismatch.items()},
        "train_tokens_per_second": arm.train_tokens_per_second,
        "prefill_tokens_per_second": arm.prefill_tokens_per_second,
        "decode_tokens_per_second": arm.decode_tokens_per_second,
        "peak_memory_bytes": arm.peak_memory_bytes,
        **{f"weight_bytes_{key}": value for key, value in account["weight_bytes"].items()},
        **{f"kv_cache_bytes_{key}": value for key, value in account["kv_cache_bytes"].items()},
        "problem": arm.record.problem,
    }


_OF_DIFFERENCE = ("p", "p_holm", "p_equal", "detectable", "more_seeds", "verdict", "reason", "advice")


def _ends(name: str, interval: Interval | None) -> dict[str, float | None]:
    return {
        f"{name}_low": None if interval is None else interval.low,
        f"{name}_high": None if interval is None else interval.high,
    }


def _csv(rows: list[dict[str, Any]]) -> str:
    columns = list({key: None for row in rows for key in row})
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: "" if _unknown(value) else value for key, value in row.items()})
    return file.getvalue()


def _unknown(value: Any) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))
