"""What a side process reads and answers: one JSON object on standard input, one line of JSON on standard output.

All times are seconds of wall clock. Prefill is one forward of the whole prompt into an empty cache, up to the logits of
its last position only. Decoding is greedy: each step reads one token and picks the next by argmax of its logits; the
prompt's reading is not in it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

SHORT_PROMPT = 8
"""Tokens of the prompt that loading is measured with: the first ones of the prompt."""


@dataclass(frozen=True)
class Request:
    """What one side process is to measure."""

    path: str
    """What to load."""
    dtype: str
    """Of floats: "float32" or "bfloat16"."""
    threads: int
    prompt: list[int]
    """Token ids; the same for all sides."""
    new_tokens: int
    """Decoding steps in one repeat, at least 1."""
    repeats: int
    """Rounds of prefill and decoding after an uncounted one."""
    started: float = 0.0
    """`time.time()` when the process was started: loading counts from here, interpreter and imports included."""
    options: dict[str, Any] = field(default_factory=dict)
    """The side's own; a peer's come from its `Prepared`."""


@dataclass(frozen=True)
class Reply:
    """What it found. `serve` fills in `peak_bytes` where it is 0."""

    load_s: list[float] = field(default_factory=list)
    """From the start of the process to the first token that follows a prompt of `SHORT_PROMPT` tokens."""
    prefill_s: list[float] = field(default_factory=list)
    """For the prompt, one a repeat."""
    decode_s: list[float] = field(default_factory=list)
    """For `new_tokens` steps, one a repeat."""
    peak_bytes: int = 0
    """Greatest resident memory of the process over its life."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of the libraries that did it."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Whatever else was asked for."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
