"""What a plugin registers for a family of checkpoints: layouts (config.json both ways, a key map) and a tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from blockzoo.blocks import BlockConfig
from blockzoo.checkpoints.keymap import KeyMap
from blockzoo.config.schema import ModelConfig
from blockzoo.errors import CheckpointError

if TYPE_CHECKING:
    from blockzoo.chat.format import ChatFormat

UNSAID = frozenset({"name", "family", "tokenizer", "requires", "init"})
"""Fields of a model's config that no layout's config.json needs to say: they do not change what it computes."""

Block = TypeVar("Block", bound=BlockConfig)


@dataclass(frozen=True)
class Sample:
    """A tiny model for the conformance suite: its config.json, and what it must compute.

    ``logits``: the first ones after the last token of the suite's input (``blockzoo.testing.families``), as another
    implementation gives them for the checkpoint that ``write_sample`` writes.
    """

    config_json: Mapping[str, Any]
    logits: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Layout:
    """One way a family is published.

    ``recognizes(config_json)``; ``read_config(config_json)`` gives a mapping as YAML would say it, for
    ``load_config``; ``write_config(config)`` gives a config.json and raises CheckpointError for a block it has
    no words for (what it says must read back as the same model, so it need not check values). ``unsaid``: fields
    of blocks that concern training only; ``harmless``: keys of its config.json that change nothing, ``outer.inner``
    where nested, beside those that are harmless in any; ``null_is_default``: keys whose null means what a key left out
    means, though the model could have none there; ``typed``: its config.json names the dtype of the weights and
    the ids of special tokens. ``samples``: tiny models that it can say, for the conformance suite. ``folder``: where in
    a published repository it lies.
    """

    keys: KeyMap
    recognizes: Callable[[Mapping[str, Any]], bool]
    read_config: Callable[[Mapping[str, Any]], dict[str, Any]]
    write_config: Callable[[ModelConfig], dict[str, Any]]
    unsaid: frozenset[str] = frozenset()
    typed: bool = True
    samples: tuple[Sample, ...] = ()
    folder: str = ""
    harmless: frozenset[str] = frozenset()
    null_is_default: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Splitting:
    """How a byte-level BPE of vocab.json and merges.txt cuts text before it merges.

    ``pattern``: a regular expression whose matches are kept apart; None: GPT-2's. ``nfc``: compose characters
    first. ``added``: (id, word, special) of the tokens beside the merged ones, where the files list none.
    """

    pattern: str | None = None
    nfc: bool = False
    added: tuple[tuple[int, str, bool], ...] = ()


@dataclass(frozen=True, eq=False)
class Family:
    """A family: ``layouts`` by the name that ``save_pretrained`` takes; ``tokenizer`` as ``load_tokenizer`` takes it.

    ``splittings``: by the tokenizer class that tokenizer_config.json names. ``chat``: how its models are talked to.
    """

    name: str
    layouts: Mapping[str, Layout]
    tokenizer: str
    stop_tokens: tuple[int, ...] = ()
    splittings: Mapping[str, Splitting] = field(default_factory=dict)
    chat: ChatFormat | None = None


def expect(block: object, kind: type[Block], what: str) -> Block:
    """A block that must be of one class for a layout's config.json to have words for it."""
    if not isinstance(block, kind):
        found = "none" if block is None else type(block).__name__
        raise CheckpointError(
            f"this layout's config.json can only say a {kind.__name__} as {what}; the model has {found}"
        )
    return block


def differences(ours: ModelConfig, said: ModelConfig, unsaid: frozenset[str] = frozenset()) -> list[str]:
    """Where two models differ, as dotted paths with both values; empty when they compute the same."""
    return list(_differences(ours, said, "", UNSAID, unsaid, ours))


def _differences(
    ours: object, said: object, path: str, skip: frozenset[str], unsaid: frozenset[str], config: ModelConfig
) -> list[str]:
    if isinstance(ours, BlockConfig) and isinstance(said, BlockConfig):
        ours, said = ours.explicit(config.dims), said.explicit(config.dims)
    if isinstance(ours, BaseModel) and isinstance(said, BaseModel) and type(ours) is type(said):
        names = [name for name in type(ours).model_fields if name not in skip]
        pairs = [(f"{path}.{name}".lstrip("."), getattr(ours, name), getattr(said, name)) for name in names]
        return [line for p, a, b in pairs for line in _differences(a, b, p, unsaid, unsaid, config)]
    if isinstance(ours, tuple) and isinstance(said, tuple) and len(ours) == len(said):
        pairs = [(f"{path}.{index}", a, b) for index, (a, b) in enumerate(zip(ours, said, strict=True))]
        return [line for p, a, b in pairs for line in _differences(a, b, p, unsaid, unsaid, config)]
    return [] if ours == said else [f"{path}: the model has {_shown(ours)}, config.json would say {_shown(said)}"]


def _shown(value: object) -> str:
    text = f"a {type(value).__name__}" if isinstance(value, BaseModel) else repr(value)
    return text if len(text) <= 100 else text[:97] + "..."
