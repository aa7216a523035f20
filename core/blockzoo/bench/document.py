"""From single values to the one document: medians, shares of the roof, ratios to peers."""

from __future__ import annotations

from statistics import median
from typing import Any

from blockzoo.bench.conduct import OURS, Ask, Outcome, Side
from blockzoo.bench.subject import Subject
from blockzoo.bench.traffic import decoding, prefill_flops
from blockzoo.registry import Registry

BUSY = 0.25
"""The load a core at the start from which others take too much for figures to be believed."""
RATIOS = ("decode_tokens_per_s", "prefill_tokens_per_s", "load_s", "peak_bytes")


def document(
    subject: Subject, ask: Ask, outcome: Outcome, reference: str, machine: dict[str, Any], *, registry: Registry
) -> dict[str, Any]:
    """Everything that `--json` prints. ``reference``: what the user calls the model; ``machine``: as `describe` said
    before anything ran.
    """
    roof = _roof(outcome)
    traffic = decoding(subject.config, subject.dtype, ask.prompt_tokens, ask.new_tokens)
    work = prefill_flops(subject.config, ask.prompt_tokens)
    dtype = str(subject.dtype).removeprefix("torch.")
    sides = {}
    for side in outcome.sides:
        weights = sum(traffic.weights.values()) if side.weight_bytes_per_token is None else side.weight_bytes_per_token
        figures = _figures(side, ask, outcome.roofs, weights + traffic.cache, work, dtype)
        sides[side.name] = {
            "what": side.what,
            "command": side.command,
            "versions": side.replies[0].versions if side.replies else {},
            "failed": side.failed,
            "values": side.values(),
            "bytes_per_token": weights + traffic.cache,
            "figures": figures,
        }
    found: dict[str, Any] = {
        "model": {
            "name": subject.stored.name,
            "asked": reference,
            "random_weights": subject.random,
            "layout": subject.layout,
            "stored_bytes": subject.weight_bytes,
            "dtype": dtype,
            "quantize": list(ask.quantize),
            "mapped": ask.mapped,
        },
        "asked": {
            "prompt_tokens": ask.prompt_tokens,
            "new_tokens": ask.new_tokens,
            "repeats": ask.repeats,
            "measures": list(ask.measures),
        },
        "machine": machine,
        "busy": (machine["load_average"] or 0.0) > BUSY * machine["cores"],
        "roof": roof,
        "bytes_per_token": {"weights": traffic.weights, "cache": traffic.cache, "total": traffic.total},
        "prefill_flops": work,
        "planned_bytes": subject.planned_bytes(ask.capacity, ask.prompt_tokens, registry, mapped=ask.mapped),
        "sides": sides,
        "ratios": _ratios(sides),
    }
    return found | {name: _alone(value) for name, value in outcome.alone.items()}


def _roof(outcome: Outcome) -> dict[str, Any]:
    """The best of what was measured; each by itself under ``measured``."""
    good = [roof for roof in outcome.roofs if "failed" not in roof]
    best: dict[str, Any] = {"bytes_per_s": None, "kernel": None, "refused": [], "flops_per_s": {}}
    if good:
        first = max(good, key=lambda roof: roof["bytes_per_s"])
        best = {name: first[name] for name in ("bytes_per_s", "kernel", "refused")}
        best["flops_per_s"] = {
            dtype: max(roof["flops_per_s"][dtype] for roof in good) for dtype in good[0]["flops_per_s"]
        }
    return {**best, "measured": outcome.roofs}


def _figures(
    side: Side, ask: Ask, roofs: list[dict[str, Any]], nbytes: int, work: int, dtype: str
) -> dict[str, float | None]:
    """Medians; None where nothing was measured."""
    values = side.values()
    medians = {name: median(found) if found else None for name, found in values.items()}
    decode = _over(ask.new_tokens, medians["decode_s"])
    bandwidth = [roof.get("bytes_per_s") for roof in roofs]
    products = [roof.get("flops_per_s", {}).get(dtype) for roof in roofs]
    return {
        "decode_tokens_per_s": decode,
        "decode_ms_per_token": None if decode is None else 1000 / decode,
        "share_of_bandwidth": _share(nbytes * ask.new_tokens, values["decode_s"], bandwidth),
        "prefill_tokens_per_s": _over(ask.prompt_tokens, medians["prefill_s"]),
        "share_of_matmul": _share(work, values["prefill_s"], products),
        "load_s": medians["load_s"],
        "peak_bytes": medians["peak_bytes"],
    }


def _share(work: int, seconds: list[float], roofs: list[float | None]) -> float | None:
    """The median of what each repeat reached of the better roof of those right before and right after it."""
    pairs = zip(seconds, roofs, roofs[1:], strict=False)
    shares = [work / took / max(before, after) for took, before, after in pairs if before and after]
    return median(shares) if shares else None


def _ratios(sides: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """Ours over each peer's."""
    ours = sides[OURS]["figures"] if OURS in sides else {}
    return {
        name: {key: _over(ours[key], side["figures"][key]) for key in RATIOS}
        for name, side in sides.items()
        if name != OURS
    }


def _alone(value: dict[str, Any] | str) -> dict[str, Any]:
    if isinstance(value, str):
        return {"failed": value}
    if "step_s" in value:
        value = {**value, "tokens_per_s": value["tokens_per_step"] / median(value["step_s"])}
    return {"failed": None, **value}


def _over(a: float | None, b: float | None) -> float | None:
    return a / b if a is not None and b else None
