"""What ``blockzoo bench`` prints for people: a row a measure, a column a side, and what to hold the figures against."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from blockzoo.bench.conduct import OURS
from blockzoo.checkpoints.filling import mapped_words
from blockzoo.cli.output import console, gigabytes, table

LESS = " (less is better)"
PROMISED = 0.03
"""How far the planned peak may be from the measured one."""
RATIOS = {"decode_tokens_per_s": "decode", "prefill_tokens_per_s": "prompt", "load_s": "load", "peak_bytes": "memory"}


def show(found: dict[str, Any]) -> None:
    """The document as a table and some lines."""
    out = console()
    out.print(_title(found), style="bold", soft_wrap=True)
    sides = found["sides"]
    working = {name: side for name, side in sides.items() if side["values"]["prefill_s"]}
    if working:
        table("", ["", *working], list(_rows(found, working)), numbers=True)
    for line in _lines(found):
        out.print(line, soft_wrap=True)


def _title(found: dict[str, Any]) -> str:
    model, machine = found["model"], found["machine"]
    weights = ["random weights"] if model["random_weights"] else []
    parts = [model["name"], *weights, model["dtype"], *model["quantize"], *mapped_words(model["mapped"])]
    return f"{', '.join(parts)}; {machine['cpu']}, {_counted(machine['threads'], 'thread')}"


def _rows(found: dict[str, Any], sides: dict[str, Any]) -> Iterator[list[str]]:
    asked = found["asked"]
    measures = asked["measures"]

    def row(label: str, cell: Callable[[dict[str, Any]], str]) -> list[str]:
        return [label, *(cell(side) for side in sides.values())]

    def figure(name: str, form: Callable[[float], str]) -> Callable[[dict[str, Any]], str]:
        return lambda side: "" if side["figures"][name] is None else form(side["figures"][name])

    if "decode" in measures:
        new = asked["new_tokens"]
        yield row("decoding, tokens/s", figure("decode_tokens_per_s", _short))
        if asked["repeats"] > 1:
            yield row("  least to most", lambda side: _range([new / s for s in side["values"]["decode_s"]]))
        yield row("  ms a token", figure("decode_ms_per_token", _short))
        yield row("  bytes read a token", lambda side: gigabytes(side["bytes_per_token"]))
        yield row("  share of the roof", figure("share_of_bandwidth", "{:.2f}".format))
    if "prefill" in measures:
        tokens = asked["prompt_tokens"]
        yield row("prompt, tokens/s", figure("prefill_tokens_per_s", _short))
        if asked["repeats"] > 1:
            yield row("  least to most", lambda side: _range([tokens / s for s in side["values"]["prefill_s"]]))
        yield row("  share of the products' roof", figure("share_of_matmul", "{:.2f}".format))
    if "load" in measures:
        yield row("start to first token, s", figure("load_s", "{:.2f}".format))
    yield row("peak memory", figure("peak_bytes", lambda n: gigabytes(int(n))))
    planned = {name: gigabytes(found["planned_bytes"]) if name == OURS else "" for name in sides}
    yield ["  planned", *planned.values()]


def _lines(found: dict[str, Any]) -> Iterator[str]:
    for peer, ratios in found["ratios"].items():
        said = [
            f"{label} {ratios[name]:.2f}{LESS if name in ('load_s', 'peak_bytes') else ''}"
            for name, label in RATIOS.items()
            if ratios[name] is not None
        ]
        if said:
            yield f"{OURS} / {peer}: {', '.join(said)}"
    for name, side in found["sides"].items():
        versions = " ".join(f"{library} {version}" for library, version in side["versions"].items())
        yield (
            f"{name}: {side['failed']}"
            if side["failed"]
            else f"{name}: {', '.join(filter(None, (versions, side['what'])))}"
        )
    if "training" in found:
        yield _training(found["training"])
    if "error" in found:
        yield _error(found["error"])
    yield from _plan(found)
    yield from _roof(found)
    asked = found["asked"]
    repeats = f"medians of {asked['repeats']}" if asked["repeats"] > 1 else "one repeat"
    yield (
        f"{repeats}: {asked['new_tokens']} tokens after a prompt of {asked['prompt_tokens']};"
        " sides run in turns, a process a repeat; files are in the system's cache"
    )
    if found["busy"]:
        yield "warning: something else was computing when this began; run it again on an idle machine"


def _plan(found: dict[str, Any]) -> Iterator[str]:
    """`blockzoo plan` is held to what was measured. What it says of a mapped file is a bound."""
    peak = found["sides"].get(OURS, {}).get("figures", {}).get("peak_bytes")
    off = peak / found["planned_bytes"] - 1 if peak else 0
    if off > PROMISED or (off < -PROMISED and not found["model"]["mapped"]):
        yield f"warning: `blockzoo plan` is held to {PROMISED:.0%}: the measured peak is {off:+.1%} off the planned one"


def _training(training: dict[str, Any]) -> str:
    if training["failed"]:
        return f"training: not measured: {training['failed']}"
    return f"training: {training['tokens_per_s']:,.0f} tokens/s, {training['tokens_per_step']:,} tokens a step"


def _error(error: dict[str, Any]) -> str:
    if error["failed"]:
        return f"error: not measured: {error['failed']}"
    return (
        f"error against the exact model in float32, {error['tokens']} tokens: at most {error['relative']:.1e} of the"
        f" greatest logit, {error['kl']:.1e} nats a token, same likeliest token {error['top1']:.1%}"
    )


def _roof(found: dict[str, Any]) -> Iterator[str]:
    roof = found["roof"]
    if roof["bytes_per_s"] is None:
        yield f"the roof could not be measured: {roof['measured'][0]['failed']}"
        return
    products = ", ".join(f"{dtype} {rate / 1e12:.2f} TFLOP/s" for dtype, rate in roof["flops_per_s"].items())
    speed = f"{roof['bytes_per_s'] / 1e9:.1f} GB/s"
    times = len(roof["measured"])
    yield f"the roof, the best of {times} measurements: {speed} read ({roof['kernel']}); products {products}"
    for refused in roof["refused"]:
        yield f"warning: a plain loop measured the bandwidth, which reads less than can be read: {refused}"


def _short(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _range(values: list[float]) -> str:
    return f"{_short(min(values))} - {_short(max(values))}" if values else ""


def _counted(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
