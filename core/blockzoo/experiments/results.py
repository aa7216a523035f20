"""The results of an experiment as data, read from run folders and never from logs."""

from __future__ import annotations

from typing import Any

from blockzoo.accounting import account
from blockzoo.experiments.plan import ArmPlan
from blockzoo.training.run import RunFolder


def row(plan: ArmPlan, folder: RunFolder | None, error: str | None = None) -> dict[str, Any]:
    """One run as a row: what is exact from accounting, what was measured from its folder, None where it isn't there."""
    cost = account(plan.model, plan.context)
    result = (folder.result() if folder else None) or {}
    sample = (folder.read("sample.json") if folder else None) or {}
    return {
        "arm": plan.arm,
        "state": folder.status()["state"] if folder else "failed",
        "error": error,
        "n_layers": plan.model.n_layers,
        "d_model": plan.model.d_model,
        "parameters": {**cost.parameters, "non_embedding": cost.non_embedding},
        "flops_per_token": cost.flops_per_token,
        "kv_cache_bytes": cost.kv_cache_bytes(),
        "tokens": result.get("tokens"),
        "seconds": result.get("seconds"),
        "train_loss": result.get("train_loss"),
        "bits_per_byte": result.get("bits_per_byte"),
        "train_tokens_per_second": result.get("tokens_per_second"),
        "decode_tokens_per_second": sample.get("decode_tokens_per_second"),
        "samples": sample.get("texts"),
        "folder": str(folder.path) if folder else None,
    }
