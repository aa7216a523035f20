"""What ``chat`` and ``generate --chat`` share: the format that a model is talked to in, and showing what it says."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import typer

from blockzoo.chat.encoding import Prompt, prompt
from blockzoo.chat.format import ChatFormat, Settings, check_settings
from blockzoo.chat.messages import Conversation, Delta, Kind, Message, Part
from blockzoo.chat.session import Session
from blockzoo.chat.tools import read_tools
from blockzoo.cli.opening import open_config, open_tokenizer
from blockzoo.cli.output import cleaned, note, print_json
from blockzoo.config.schema import ModelConfig
from blockzoo.errors import InputError
from blockzoo.generation import Sampler
from blockzoo.model import Decoder
from blockzoo.registry import Registry
from blockzoo.tokenizers import Tokenizer
from blockzoo.tokenizers.kinds import whole

CONTEXT = 8192
"""Tokens that a conversation may hold where nobody says: a cache of a model's whole context can take gigabytes."""
PLAIN = "`blockzoo generate` continues plain text"


@dataclass(frozen=True)
class Talk:
    """All that a conversation needs but the weights."""

    config: ModelConfig
    tokenizer: Tokenizer
    format: ChatFormat
    conversation: Conversation
    settings: Settings

    def prompt(self, *messages: Message) -> Prompt:
        return prompt(self.format, self.conversation.plus(*messages), self.settings, self.tokenizer)

    def session(
        self, model: Decoder, sampling: dict[str, float | None], context: int, most: int | None, seed: int | None
    ) -> Session:
        """``sampling``: of ``Sampler``; what is None is as the format advises, unless the temperature was given."""
        given = {name: value for name, value in sampling.items() if value is not None}
        advised = {} if "temperature" in given else dict(self.format.sampling(self.settings))
        return Session(
            model,
            self.tokenizer,
            self.format,
            self.conversation,
            self.settings,
            sampler=Sampler(**{**advised, **given}),  # type: ignore[arg-type]
            context=context,
            max_new_tokens=most,
            seed=seed,
        )


def open_talk(
    ref: str, reasoning: str | None, thinking: bool | None, system: str | None, tools: Path | None, registry: Registry
) -> Talk:
    """Raises InputError where the model has no chat format, or one that can't do what is asked; reads no weights."""
    config = open_config(ref, registry=registry)
    family = None if config.family is None else registry.get("family", config.family)
    if family is None or family.chat is None:
        whose = f"its family, {family.name}, has none" if family else "its config names no family"
        those = ", ".join(sorted(name for name, one in registry.families().items() if one.chat is not None))
        raise InputError(f"{ref}: this model has no chat format: {whose} (with one: {those}); {PLAIN}")
    today = datetime.date.today().isoformat()
    settings = Settings(reasoning, thinking=thinking is not False, date=today)
    check_settings(family.chat, family.name, settings)
    conversation = Conversation(system=system, tools=() if tools is None else read_tools(tools))
    talk = Talk(config, open_tokenizer(ref, registry=registry), family.chat, conversation, settings)
    largest = max(talk.prompt().tokens)
    if largest >= config.vocab_size:
        raise InputError(
            f"{ref}: the chat format of {family.name} needs token {largest}, the model's table has {config.vocab_size}:"
            f" it was trained with another tokenizer; {PLAIN}"
        )
    return talk


def show_prompt(shown: Prompt, as_json: bool = False) -> None:
    """The exact tokens, and the same as text."""
    if as_json:
        print_json({"text": shown.text, "tokens": list(shown.tokens)})
        return
    text = cleaned(shown.text) if sys.stdout.isatty() else whole(shown.text)
    sys.stdout.write(f"{text}\n\n{len(shown.tokens)} tokens: {' '.join(map(str, shown.tokens))}\n")


class Screen:
    """Shows an answer as it comes: thinking dimmed on a terminal, else apart from the answer on standard error."""

    def __init__(self, hide_thinking: bool = False) -> None:
        self._terminal = sys.stdout.isatty()
        self._hide = hide_thinking

    def show(self, deltas: Iterable[Delta]) -> None:
        """A whole answer."""
        kind: Kind | None = None
        try:
            for delta in deltas:
                if delta.opens or kind is None:
                    self._end(kind, between=True)
                    kind = delta.part.kind
                    self._begin(delta.part)
                self._write(kind, delta.part.text)
        finally:
            self._end(kind)

    def _begin(self, part: Part) -> None:
        if part.kind == "call":
            self._write("call", f"call {part.name}: ")
        elif part.kind == "thinking" and self._hide and self._terminal:
            self._say("(thinking)", dim=True)

    def _write(self, kind: Kind, text: str) -> None:
        if kind != "thinking" or not self._hide:
            self._say(text, dim=kind != "text", aside=kind == "thinking")

    def _end(self, kind: Kind | None, between: bool = False) -> None:
        if kind is not None and (self._terminal or kind != "thinking" or not self._hide):
            self._say("\n\n" if between and self._terminal else "\n", aside=kind == "thinking")

    def _say(self, text: str, dim: bool = False, aside: bool = False) -> None:
        if self._terminal:
            text = typer.style(cleaned(text), dim=True) if dim else cleaned(text)
        stream = sys.stderr if aside and not self._terminal else sys.stdout
        stream.write(text)
        stream.flush()


def say_why(session: Session) -> None:
    """Where an answer ended before its end, and not by the user's will, or none came."""
    if session.ended == "room":
        note(f"blockzoo: the answer was cut after {session.n_tokens} tokens; see --max-new-tokens and --context")
    if session.silent:
        note(f"blockzoo: nothing was said in the chat format, in {session.n_tokens} tokens; this turn is forgotten")
