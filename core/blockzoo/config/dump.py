"""ModelConfig -> the mapping that loads back to it, as YAML, and its digest. Names are canonical."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import yaml
from pydantic import BaseModel

from blockzoo.blocks import BlockConfig, nested_kinds
from blockzoo.config.schema import LayerConfig, ModelConfig
from blockzoo.registry import Registry, bare

SECTIONS = ("embedding", "head", "init")


def dump(config: ModelConfig, registry: Registry) -> dict[str, Any]:
    """A mapping that ``load_config`` turns back into an equal config. Options at None are left out where that is their
    default; everything else is said."""
    found = _fields(config, registry, leave_out=("layers", *SECTIONS))
    found |= {name: _fields(getattr(config, name), registry) for name in SECTIONS}
    found["head"].setdefault("norm", "none")
    blocks: dict[str, Any] = {}
    layers = {"count": config.n_layers} | {
        slot: _slot([getattr(layer, slot) for layer in config.layers], registry, blocks)
        for slot in LayerConfig.model_fields
    }
    if blocks:
        found["blocks"] = blocks
    return {**found, "layers": layers}


def dump_yaml(config: ModelConfig, registry: Registry) -> str:
    """``dump`` as YAML, a block a line."""
    lines = []
    for key, value in dump(config, registry).items():
        if key in ("blocks", "layers"):
            lines.append(f"{key}:")
            lines += [f"  {name}: {_flow(inner)}" for name, inner in value.items()]
        else:
            lines.append(f"{key}: {_flow(value)}")
    return "\n".join(lines) + "\n"


def digest(config: ModelConfig, registry: Registry) -> str:
    """sha256 of the canonical dump without the name: equal for equal architectures, however they were written."""
    canonical = {key: value for key, value in dump(config.explicit(), registry).items() if key != "name"}
    return hashlib.sha256(json.dumps(canonical, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def dump_block(block: BlockConfig | None, registry: Registry) -> Any:
    """One block with its canonical ``type``; the word none where there is none."""
    if block is None:
        return "none"
    return {"type": registry.name_of(type(block), block.kind), **_fields(block, registry)}


def _fields(model: BaseModel, registry: Registry, leave_out: Sequence[str] = ()) -> dict[str, Any]:
    nested = nested_kinds(type(model))  # type: ignore[arg-type]  # sections refer to blocks the same way
    found: dict[str, Any] = {}
    for name, info in type(model).model_fields.items():
        value = getattr(model, name)
        if name in leave_out or (value is None and info.default is None):
            continue
        if name in nested and isinstance(value, (list, tuple)):
            found[name] = [dump_block(item, registry) for item in value]
        elif name in nested:
            found[name] = dump_block(value, registry)
        else:
            found[name] = model.model_dump(mode="json", include={name})[name]
    return found


def _slot(column: Sequence[BlockConfig | None], registry: Registry, blocks: dict[str, Any]) -> Any:
    """What one slot is, layer by layer: one block, the shortest cycle, or a list."""
    names: dict[int, str] = {}  # equal blocks are one object after loading, and a config made in code may not care
    described: dict[str, str] = {}
    distinct = {id(block): block for block in column}
    if len(distinct) == 1 or all(block == column[0] for block in distinct.values()):
        return dump_block(column[0], registry)
    for key, block in distinct.items():
        value = dump_block(block, registry)
        text = json.dumps(value, sort_keys=True)
        if value == "none":
            described[text] = "none"
        elif text not in described:
            described[text] = _new_name(bare(value["type"]), blocks)
            blocks[described[text]] = value
        names[key] = described[text]
    return _pattern([names[id(block)] for block in column])


def _new_name(word: str, blocks: dict[str, Any]) -> str:
    number = 1
    while f"{word}_{number}" in blocks:
        number += 1
    return f"{word}_{number}"


def _pattern(names: list[str]) -> dict[str, Any]:
    count = len(names)
    for period in range(1, count // 2 + 1):
        if count % period == 0 and names == names[:period] * (count // period):
            return {"cycle": names[:period]}
    runs: list[dict[str, Any]] = []
    for name in names:
        if runs and runs[-1]["use"] == name:
            runs[-1]["count"] += 1
        else:
            runs.append({"use": name, "count": 1})
    return {"runs": runs} if len(runs) <= 3 else {"list": names}


def _flow(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**9, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("...").removesuffix("\n")
