"""Reading another library's config.json: each key resolved by itself, none ignored without being known to be harmless.

Files of several library versions mix, so a key may have twins: the first that is there and not null counts. All that
is wrong is told at once: a value that can't be used is noted, and reading goes on with one that can, until ``finish``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import isfinite
from typing import Any, NoReturn, overload

from blockzoo.errors import CheckpointError

REQUIRED: Any = object()

_HARMLESS = """
_attn_implementation _attn_implementation_autoset _commit_hash _name_or_path architectures attn_implementation
attribute_map auto_map bad_words_ids begin_suppress_tokens bos_token_id cache_implementation chunk_size_feed_forward
decoder_start_token_id diversity_penalty do_sample dtype early_stopping encoder_no_repeat_ngram_size eos_token_id
exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id gradient_checkpointing
id2label initializer_range keys_to_ignore_at_inference label2id length_penalty max_length min_length model_name
model_type name_or_path no_repeat_ngram_size num_beam_groups num_beams num_labels num_return_sequences
output_attentions output_hidden_states output_router_logits output_scores pad_token_id prefix pretraining_tp
problem_type remove_invalid_values repetition_penalty return_dict return_dict_in_generate router_aux_loss_coef
sep_token_id summary_activation summary_first_dropout summary_proj_to_labels summary_type summary_use_proj
suppress_tokens task_specific_params temperature tie_last_hidden_states tokenizer_class top_k top_p torch_dtype
torchscript transformers_version typical_p unk_token_id unsloth_fixed unsloth_version use_bfloat16 use_cache
"""
HARMLESS = frozenset(_HARMLESS.split())
"""Keys that say how to generate, train, label or print, not what the model computes."""
TOKEN_IDS = frozenset(key for key in HARMLESS if key.endswith("_token_id"))
QUANTIZED = "quantization_config"
MOVED = {
    "rope_theta": "newer files keep it in 'rope_parameters': blockzoo_blocks.positions.rope_json.read_rope reads either"
}
"""Keys that stand elsewhere in files of other versions, and what a family reads them with."""


class ConfigJSON:
    """One config.json while it is read. Every method that takes ``names`` tries them in order; null is absent.

    ``outer``: what a nested object stands in, and shares its problems with.
    """

    def __init__(self, values: Mapping[str, Any], where: str = "config.json", outer: ConfigJSON | None = None) -> None:
        self.values = values
        self.where = where
        self.outer = outer
        self.seen: set[str] = set()
        self.problems: list[str] = [] if outer is None else outer.problems

    def raw(self, *names: str, default: Any = None) -> Any:
        """The value as it stands."""
        self.seen.update(names)
        return next((self.values[name] for name in names if self.values.get(name) is not None), default)

    def is_null(self, *names: str) -> bool:
        """Whether the value is there, as null. Ask where that says something else than a key left out."""
        return self.raw(*names) is None and any(name in self.values for name in names)

    @overload
    def integer(self, *names: str, default: int = ..., least: int = ..., most: int = ...) -> int: ...
    @overload
    def integer(self, *names: str, default: None, least: int = ..., most: int = ...) -> int | None: ...
    def integer(self, *names: str, default: Any = REQUIRED, least: int = 1, most: int = 2**26) -> int | None:
        """``default=None``: None where the value is absent or null."""
        value = self.raw(*names, default=default)
        if value is None and default is None:
            return None
        if type(value) is int and least <= value <= most:
            return value
        self._expected(names, value, f"a whole number from {least} to {most}")
        return max(least, 1)

    @overload
    def number(self, *names: str, default: float = ..., least: float = ...) -> float: ...
    @overload
    def number(self, *names: str, default: None, least: float = ...) -> float | None: ...
    def number(self, *names: str, default: Any = REQUIRED, least: float = 0.0) -> float | None:
        """``default=None``: None where the value is absent or null."""
        value = self.raw(*names, default=default)
        if value is None and default is None:
            return None
        if type(value) in (int, float) and abs(value) <= 1e300 and isfinite(value) and value >= least:
            return float(value)
        self._expected(names, value, f"a number of at least {least}")
        return max(least, 1.0)

    def flag(self, *names: str, default: Any = REQUIRED) -> bool:
        value = self.raw(*names, default=default)
        if type(value) is bool:
            return value
        self._expected(names, value, "true or false")
        return False

    def choice(self, name: str, choices: Mapping[str, str], default: Any = REQUIRED) -> str:
        """What ``choices`` has for the value. ``default``: the file's word, one of the keys of ``choices``."""
        value = self.raw(name, default=default)
        if isinstance(value, str) and value in choices:
            return choices[value]
        if self.raw(name) is None and default is not REQUIRED:
            words = ", ".join(map(_shown, choices))
            self.problem(
                name,
                f"is missing, and what read_config takes then, default={_shown(default)}, is none of the file's words"
                f" {words}: a default is the file's word, as if it stood there",
            )
        else:
            self._expected([name], value, f"one of {', '.join(choices)}")
        return next(iter(choices.values()))

    def mapping(self, *names: str) -> ConfigJSON | None:
        """A nested object, or None."""
        value = self.raw(*names)
        if value is None:
            return None
        if not isinstance(value, dict):
            self._expected(names, value, "an object")
            return None
        return ConfigJSON(value, f"{self.where}: {names[0]}", outer=self)

    def names(self, name: str, length: int, choices: Collection[str] | Mapping[str, Any]) -> list[Any] | None:
        """A list of ``length`` words out of ``choices``, each translated where these are a mapping, or None."""
        value = self.raw(name)
        if value is None or self.problems:  # the length may stand for one that could not be read
            return None
        if isinstance(value, list) and len(value) == length and set(map(str, value)) <= set(choices):
            return [choices[word] for word in value] if isinstance(choices, Mapping) else value
        self._expected([name], value, f"a list of {length} words out of {', '.join(choices)}")
        return None

    def must_be(self, name: str, *accepted: object) -> None:
        """Refuse a value whose meaning blockzoo does not have; absent is fine."""
        value = self.raw(name)
        if value is not None and not any(value == a and type(value) is type(a) for a in accepted):
            words = ", ".join(map(_shown, accepted))
            self.problem(name, f"is {_shown(value)}, which blockzoo does not do; it reads {words}")

    def finish(self) -> None:
        """The end of reading: raises CheckpointError with all that is wrong; of a nested object, leaves that to the
        outer one.

        A key that no one looked at is wrong, unless it is harmless or says nothing (null, false, empty).
        """
        unknown = sorted(
            key
            for key, value in self.values.items()
            if key not in self.seen and key not in HARMLESS and value not in (None, False, 0, "", [], {})
        )
        if QUANTIZED in unknown:  # its name is none that may be removed
            unknown.remove(QUANTIZED)
            self.problem(
                QUANTIZED, "says that the weights are quantized, in a way that is not read: take those that are not"
            )
        if unknown:
            self.problems.append(
                f"{self.where}: keys that blockzoo does not know: {', '.join(map(_shown, unknown[:20]))};"
                " remove those that do not change what the model computes"
            )
        if self.problems and self.outer is None:
            raise CheckpointError("\n".join(self.problems))

    def problem(self, name: str, message: str) -> None:
        """Note what is wrong with a key; ``finish`` raises it."""
        self.problems.append(f"{self.where}: '{name}' {message}")

    def fail(self, name: str, message: str) -> NoReturn:
        """Raise at once, with all that was noted: for a value without which reading can't go on."""
        self.problem(name, message)
        raise CheckpointError("\n".join(self.problems))

    def _expected(self, names: Sequence[str], value: object, what: str) -> None:
        given = next((name for name in names if self.values.get(name) is not None), None)
        if value is REQUIRED:
            hint = f"; {MOVED[names[0]]}" if names[0] in MOVED else ""
            self.problem(names[0], f"is missing{hint}")
        elif given or not self.problems:  # else a default that follows from what is wrong already
            left_out = "" if given else ", as it is left out"
            self.problem(given or names[0], f"is {_shown(value)}{left_out}; it must be {what}")


def _shown(value: object) -> str:
    words = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
