"""``blockzoo show NAME``: a model as YAML, or every layer with the place where each of its values was written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from blockzoo.cli.output import print_json, table
from blockzoo.cli.reading import overrides_of, read_model
from blockzoo.config import Loaded, dump, dump_block, dump_yaml, load
from blockzoo.config.schema import LayerConfig, ModelConfig
from blockzoo.plugins import host
from blockzoo.registry import Registry


def command(
    model: Annotated[str, typer.Argument(help="shipped name, YAML file or checkpoint folder")],
    expanded: Annotated[bool, typer.Option("--expanded", help="every layer, with the source of each value")] = False,
    keys: Annotated[
        bool, typer.Option("--keys", help="every weight by its canonical name, with shape, dtype and role")
    ] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override, dotted key")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False,
) -> None:
    """Print a model, completely said: all that it extends, uses and inherits is in it. Or its weights' names."""
    registry = host().registry
    if Path(model).is_dir():
        loaded = Loaded(read_model(model, registry, settings or ()))
    else:
        loaded = load(model, overrides_of(settings or ()), registry=registry)
    if keys:
        weights = weights_of(loaded.config)
        print_json(weights) if as_json else table("", list(weights[0]), [list(row.values()) for row in weights])
    elif as_json:
        document = dump(loaded.config, registry)
        extra = {"sources": loaded.sources, "dropped": list(loaded.dropped)} if expanded else {}
        print_json({**document, **extra})
    elif expanded:
        print("\n".join(lines(loaded, registry)))
    else:
        print("".join(f"# {dropped}\n" for dropped in loaded.dropped) + dump_yaml(loaded.config, registry), end="")


def weights_of(config: ModelConfig) -> list[dict[str, Any]]:
    """Every tensor of the state dict, packed weights by their parts: what a family's rules name."""
    from blockzoo.accounting import parameters_of
    from blockzoo.checkpoints.tensors import wanted

    roles = {name: parameter.role.value for name, parameter in parameters_of(config).items()}
    return [
        {
            "name": name,
            "shape": list(want.shape),
            "dtype": "float" if want.dtype is None else str(want.dtype).removeprefix("torch."),
            "role": roles.get(name) or roles.get(name.rpartition(".")[0], "buffer"),
        }
        for name, want in wanted(config).items()
    ]


def lines(loaded: Loaded, registry: Registry) -> Iterator[str]:
    """The expanded model, one value a line, its source after a #."""
    said = dump(loaded.config, registry)
    rest = {key: value for key, value in said.items() if key not in ("layers", "blocks")}
    yield from _aligned([_line(path, value, loaded) for path, value in _flat(rest, "")])
    for index, layer in enumerate(loaded.config.layers):
        slots = {slot: dump_block(getattr(layer, slot), registry) for slot in LayerConfig.model_fields}
        yield ""
        yield from _aligned([_line(path, value, loaded) for path, value in _flat(slots, f"layers.{index}.")])
    for dropped in loaded.dropped:
        yield f"# {dropped}"


def _flat(values: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _line(path: str, value: Any, loaded: Loaded) -> tuple[str, str]:
    source, place = "", path
    while place and not source:  # a part of a value was written where the value was
        source = loaded.sources.get(place, "")
        place = place.rpartition(".")[0]
    return f"{path}: {value}", source


def _aligned(rows: list[tuple[str, str]]) -> Iterator[str]:
    width = max((len(text) for text, _ in rows), default=0)
    for text, source in rows:
        yield f"{text:<{width}}  # {source}" if source else text
