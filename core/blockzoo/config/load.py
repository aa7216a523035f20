"""YAML -> ModelConfig: parse, merge, resolve, expand, check. All that is wrong is told at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from blockzoo.blocks import (
    BASES,
    AttentionPositionConfig,
    BlockConfig,
    Cost,
    Dims,
    FFNConfig,
    MixerConfig,
    NormConfig,
    QuantizerConfig,
    ResidualConfig,
)
from blockzoo.config.expand import INHERITED, SLOTS, Choice, Layer, expand, layer_count
from blockzoo.config.extends import merged_tree
from blockzoo.config.node import DEFAULT, Node, Problems, unknown_key
from blockzoo.config.norms import norm_refusal
from blockzoo.config.parse import Parsed, Parser
from blockzoo.config.resolve import Resolver
from blockzoo.config.schema import LayerConfig, ModelConfig
from blockzoo.errors import PluginError, nearest
from blockzoo.registry import Registry

LAYER_BASES: dict[str, type[BlockConfig]] = {
    "mixer": MixerConfig,
    "ffn": FFNConfig,
    "norm": NormConfig,
    "position": AttentionPositionConfig,
    "residual": ResidualConfig,
    "quantizer": QuantizerConfig,
}
ONLY_IN_YAML = ("extends", "blocks", *INHERITED)
ROOT_KEYS = tuple(dict.fromkeys((*ModelConfig.model_fields, *ONLY_IN_YAML)))


@dataclass(frozen=True)
class Loaded:
    """A config, where each of its values was written, and which inherited positions no mixer could take."""

    config: ModelConfig
    dropped: tuple[str, ...] = ()
    _top: dict[str, str] = field(default_factory=dict, repr=False)
    _layers: tuple[dict[str, Parsed], ...] = field(default=(), repr=False)

    @cached_property
    def sources(self) -> dict[str, str]:
        """Dotted path of the expanded config -> ``file:line``, or ``default of blocks:gqa``."""
        found = dict(self._top)
        for index, layer in enumerate(self._layers):
            for slot, parsed in layer.items():
                for key, origin in parsed.origins.items():
                    found[f"layers.{index}.{slot}.{key}" if key else f"layers.{index}.{slot}"] = origin
        return found


def load_config(
    ref: str | Path | Mapping[str, Any],
    overrides: Mapping[str, object] | None = None,
    *,
    registry: Registry,
    alone: bool = False,
) -> ModelConfig:
    """The model that a shipped name, a YAML file or a mapping describes. ``overrides``: dotted keys, laid on last.
    ``alone``: it may extend a shipped config and no file.

    Raises ConfigError with everything that is wrong, each with its place.
    """
    return load(ref, overrides, registry=registry, alone=alone).config


def load(
    ref: str | Path | Mapping[str, Any],
    overrides: Mapping[str, object] | None = None,
    *,
    registry: Registry,
    alone: bool = False,
) -> Loaded:
    """``load_config``, and where each value came from."""
    problems = Problems()
    return _Assembly(merged_tree(ref, overrides, registry, problems, alone), registry, problems).run()


class _Assembly:
    """Resolves, expands and checks one merged tree."""

    def __init__(self, root: Node, registry: Registry, problems: Problems) -> None:
        self.root = root
        self.registry = registry
        self.problems = problems
        self.resolver = Resolver(root.get("blocks"), problems)
        self.parser = Parser(registry, self.resolver, problems, self._dims())
        self.layers: dict[tuple[int, ...], LayerConfig] = {}
        self.dropped: list[str] = []

    def run(self) -> Loaded:
        for key, value in self.root.mapping.items():
            if key not in ROOT_KEYS:
                self.problems.at_key(self.root, key, unknown_key(key, value, ROOT_KEYS))
        model = self._model()
        layers = [self._layer(index, layer) for index, layer in enumerate(expand(self.root, self.problems))]
        self._unused()
        self._named_plugins()
        self.problems.raise_any()
        assert model is not None
        configs = tuple(config for config, _ in layers if config is not None)
        assert len(configs) == len(layers)
        config = model.config.model_copy(update={"layers": configs})
        top = {key: origin for key, origin in model.origins.items() if key != "layers"}
        return Loaded(config, tuple(self.dropped), top, tuple(parts for _, parts in layers))

    def _dims(self) -> Dims | None:
        """What blocks may know, if that much of the config can be read; what is wrong with it is told elsewhere."""
        values = [self.root.get("d_model"), self.root.get("context_length")]
        count = layer_count(self.root, Problems())
        numbers = [node.value for node in values if node and type(node.value) is int and node.value > 0]
        if len(numbers) < 2 or count is None:
            return None
        return Dims(d_model=numbers[0], n_layers=count, context_length=numbers[1])

    def _model(self) -> Parsed | None:
        """Everything but the layers."""
        entries = {k: n for k, n in self.root.mapping.items() if k in ModelConfig.model_fields and k != "layers"}
        entries |= {key: Node({}, DEFAULT, key) for key in ("embedding", "head", "init") if self.root.get(key) is None}
        head = entries["head"]
        if head.is_mapping and head.get("norm") is None:
            if norm := self.root.get("norm"):
                entries["head"] = head.replaced({**head.mapping, "norm": norm})
            else:
                self.problems.at(
                    self.root, "missing key 'norm'; give it here or in 'head' (none leaves the final norm out)"
                )
        entries["layers"] = Node([], DEFAULT, "layers")
        model = self.parser.section(ModelConfig, self.root.replaced(entries), "the model")
        if model is not None and model.config.embedding.tied and model.config.head.quantizer is not None:
            self.problems.at_key(head, "quantizer", "the unembedding is tied: its quantizer is the embedding's")
        if model is not None:
            for section in ("embedding", "head"):
                if norm := entries[section].get("norm"):
                    self._norms(getattr(model.config, section).norm, norm)
        return model

    def _layer(self, index: int, layer: Layer) -> tuple[LayerConfig | None, dict[str, Parsed]]:
        """One layer; None where there are problems."""
        quantizer = self._slot(layer, "quantizer")
        parts = {slot: self._slot(layer, slot, quantizer) for slot in SLOTS if slot != "quantizer"}
        if any(part is None for part in parts.values()):
            return None, {}
        complete = {slot: part for slot, part in parts.items() if part is not None}
        for slot in ("norm", "residual"):
            if complete[slot].config is None:
                self.problems.at(layer[slot].node, f"a layer needs a {slot}; it can't be none")
                return None, {}
        complete["position"] = self._position(index, layer["position"], complete["position"], complete["mixer"])
        key = tuple(id(part.config) for part in complete.values())
        if key not in self.layers:
            self.layers[key] = LayerConfig(**{slot: part.config for slot, part in complete.items()})
            self._fits(self.layers[key], layer)
        return self.layers[key], complete

    def _slot(self, layer: Layer, slot: str, quantizer: Parsed | None = None) -> Parsed | None:
        if slot not in layer:
            return None
        given = quantizer if slot in ("mixer", "ffn") else None
        return self.parser.block(layer[slot].node, LAYER_BASES[slot], quantizer=given)

    def _position(self, index: int, choice: Choice, position: Parsed, mixer: Parsed) -> Parsed:
        """The position, or none where it is inherited and the mixer can't use it."""
        form = position.config.form
        takes = {"none"} if mixer.config is None else mixer.config.positions
        if form in takes:
            return position
        name = "none" if mixer.config is None else self.registry.name_of(type(mixer.config), "mixer")
        forms = ", ".join(sorted(takes))
        if choice.explicit or form == "none" or "none" not in takes:
            mend = "; write it at the model's level, where it is dropped, or 'none' in a pattern"
            mend = mend if choice.explicit else ""
            self.problems.at(choice.node, f"found a position of form '{form}'; mixer {name} takes: {forms}{mend}")
            return position
        what = self.registry.name_of(type(position.config), "position")
        self.dropped.append(f"layers.{index}.position: {what} ({form}) is dropped, mixer {name} takes {forms}")
        none = self.parser.block(_NO_POSITION, AttentionPositionConfig)
        return none or position

    def _fits(self, config: LayerConfig, layer: Layer) -> None:
        """Whether the blocks of a layer fit: the position the mixer, the norm the width, the quantizer the weights."""
        dims = self.parser.dims
        if dims is None:
            return
        mixer, ffn, position = config.mixer, config.ffn, config.position
        reasons = [] if mixer is None else list(mixer.check_position(dims, position))
        for reason in reasons:
            self.problems.at(layer["position"].node, reason)
        if refusal := norm_refusal(config, dims.d_model):
            self.problems.at(layer["norm"].node, refusal)
        if mixer is not None and mixer.quantizer is not None and not reasons:
            self._packs(layer, "mixer", mixer.quantizer, mixer.cost(dims, position, 1))
        if ffn is not None and ffn.quantizer is not None:
            self._packs(layer, "ffn", ffn.quantizer, ffn.cost(dims))

    def _norms(self, norm: NormConfig | None, node: Node) -> None:
        """Whether a norm takes the width of the residual stream."""
        if norm is not None and self.parser.dims is not None and (reason := norm.refuses(self.parser.dims.d_model)):
            self.problems.at(node, reason)

    def _packs(self, layer: Layer, slot: str, quantizer: QuantizerConfig, cost: Cost) -> None:
        matrices: dict[str, str] = {}  # a refusal -> the first that it is about
        for name, parameter in cost.parameters.items():
            if parameter.packable and (refusal := quantizer.refuses(parameter.shape)):
                matrices.setdefault(refusal, f"{slot}.{name} {parameter.shape}")
        block = self.resolver(layer[slot].node)
        own = None if block is None else block.get("quantizer")
        said = own or (layer["quantizer"].node if "quantizer" in layer else layer[slot].node)
        for refusal, matrix in sorted(matrices.items()):
            self.problems.at(said, f"{matrix}: {refusal}")

    def _unused(self) -> None:
        """Blocks that no slot names are checked too, as far as they go: they may be there for others to use."""
        for name, node in self.resolver.blocks.items():
            if name in self.resolver.used:
                continue
            resolved = self.resolver(node)
            if resolved is None:
                continue
            word = str(resolved.mapping["type"].value)
            kinds = [kind for kind in BASES if self._has(kind, word)]
            if len(kinds) == 1:
                self.parser.block(node, BASES[kinds[0]], partial=True)
            elif not kinds and word != "none":
                known = {name for kind in BASES for name in self.registry.names(kind)}
                why = f"{nearest(word, known)}{self.registry.not_loaded()}"
                self.problems.at(resolved.mapping["type"], f"no block of type '{word}'{why}")

    def _has(self, kind: str, name: str) -> bool:
        try:
            self.registry.canonical(kind, name)
        except PluginError:
            return False
        return True

    def _named_plugins(self) -> None:
        """``requires`` and ``family`` name what must be there."""
        loaded = {plugin for _, _, plugin in self.registry.things} | set(self.registry.config_folders)
        requires = self.root.get("requires")
        for node in requires.items if requires else ():
            if isinstance(node.value, str) and node.value not in loaded:
                why = self.registry.missing.get(node.value, "not installed")
                self.problems.at(node, f"plugin '{node.value}' is required and not loaded: {why}")
        family, families = self.root.get("family"), self.registry.families()
        if family and isinstance(family.value, str) and families and family.value not in families:
            self.problems.at(family, f"no family '{family.value}'{nearest(family.value, families)}")


_NO_POSITION = Node("none", DEFAULT, "position")
