"""``blockzoo plugins try``: the swap matrix as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from blockzoo.cli.bar import counting_bar
from blockzoo.cli.output import note, print_json, table
from blockzoo.cli.reading import read_plugin
from blockzoo.errors import InputError
from blockzoo.experiments.swap import ARCHITECTURES, Result, ops_of, stock_of, trials
from blockzoo.experiments.swap import run as run_trial
from blockzoo.registry import Registry

COLUMNS = (
    "architecture", "slot", "component", "builds", "learns", "loss", "decodes", "tokens/s",
    "parameters", "bytes", "FLOPs", "cache", "step time",
)  # fmt: skip


def run(name: str, steps: int, as_json: bool) -> None:
    """Try a plugin by name or file, and print. A combination that fails is a row, and no failure of the verb."""
    plugin, registry = read_plugin(name)
    results = _all(plugin, registry, steps)
    if as_json:
        rows = [asdict(result) | {"learns": result.learns, "decodes": result.decodes} for result in results]
        print_json({"plugin": plugin, "steps": steps, "results": rows})
        return
    table("", COLUMNS, [_row(result, stock_of(result, results)) for result in results])
    for result in results:
        if result.error:
            print(f"{result.architecture}, {result.component or 'stock'} as {result.slot or 'itself'}: {result.error}")
    for line in dict.fromkeys(f"tried {r.component}: {r.sample}" for r in results if r.sample):
        print(line)
    print(
        f"loss: nats a byte on held-out text before and after {steps} steps; decodes: cached logits equal the full"
        " pass's, or how far off they are; costs: as multiples of the stock model's"
    )


def _all(plugin: str, registry: Registry, steps: int) -> list[Result]:
    found = trials(plugin, registry)
    if not found:
        kinds = ", ".join(sorted({c.kind for c in registry.components(plugin)})) or "nothing"
        raise InputError(f"plugin '{plugin}' registers {kinds}: {_no_place(plugin, registry)}")
    bar = counting_bar()
    results = []
    with bar:
        task = bar.add_task("", total=len(found))
        for trial in found:
            bar.update(task, description=f"{trial.architecture.name} {trial.component or 'stock'} {trial.slot}")
            results.append(run_trial(trial, registry, steps))
            bar.advance(task)
    if any(not result.component and result.error for result in results):
        note("a stock model failed itself: look at its row first")
    return results


def _no_place(plugin: str, registry: Registry) -> str:
    """Why there is nothing to try: no block, or kernels for ops that no small model uses."""
    kernels = [registry.get("kernel", c.canonical) for c in registry.components(plugin) if c.kind == "kernel"]
    if not kernels:
        return "nothing that stands in a slot of a model"
    used = sorted(set().union(*(ops_of(architecture, registry) for architecture in ARCHITECTURES)))
    ops = ", ".join(sorted({f"'{op}'" for op, _ in kernels}))
    return f"none of the small models uses the op {ops}; they use {', '.join(used)}"


def _row(result: Result, stock: Result | None) -> Sequence[object]:
    reached_training = result.loss_after is not None
    loss = f"{result.loss_before:.2f} -> {result.loss_after:.2f}" if reached_training else ""
    decodes = ""
    if result.decode_error is not None:
        decodes = "yes" if result.decodes else f"off by {result.decode_error:.0e}"
    return (
        result.architecture,
        result.slot or "(stock)",
        result.component,
        "yes" if result.builds else "NO",
        ("yes" if result.learns else "NO") if reached_training else "",
        loss,
        decodes or ("" if result.error is None else "NO"),
        "" if result.tokens_per_second is None else f"{result.tokens_per_second:.0f}",
        *(
            _times(getattr(result, name), None if stock is None else getattr(stock, name), result is stock)
            for name in ("parameters", "weight_bytes", "flops_per_token", "cache_bytes", "step_seconds")
        ),
    )


def _times(value: float | None, of: float | None, is_stock: bool) -> str:
    """A cost as a multiple of the stock model's; the stock model's own as it is."""
    if value is None:
        return ""
    if is_stock:
        return f"{value * 1000:.1f} ms" if isinstance(value, float) else f"{value:,}"
    return f"{value / of:.2f}x" if of else "-"
