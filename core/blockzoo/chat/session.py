"""One conversation with one model: a message in, the answer as it comes, both remembered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Literal

from blockzoo.chat.encoding import Prompt, control_id, prompt
from blockzoo.chat.format import ChatFormat, Settings
from blockzoo.chat.memory import Memory
from blockzoo.chat.messages import Conversation, Delta, Draft, Message
from blockzoo.errors import InputError
from blockzoo.generation import Sampler, generator_for, never
from blockzoo.model import Decoder
from blockzoo.tokenizers import Tokenizer


class Session:
    """A conversation that goes on. ``context``: tokens that it may hold, the answers included.

    ``ended``: how the last answer ended: by itself, stopped by the user, or for lack of room (``max_new_tokens`` or
    the context). ``n_tokens``: of the last answer; ``silent``: whether nothing came of it, as of a model that doesn't
    know the format.
    """

    def __init__(
        self,
        model: Decoder,
        tokenizer: Tokenizer,
        format: ChatFormat,
        conversation: Conversation,
        settings: Settings,
        *,
        sampler: Sampler,
        context: int,
        max_new_tokens: int | None = None,
        seed: int | None = None,
    ) -> None:
        self.tokenizer, self.format, self.settings = tokenizer, format, settings
        self.conversation = conversation
        self.ended: Literal["itself", "stopped", "room"] = "itself"
        self.n_tokens, self.silent = 0, False
        self.max_new_tokens = max_new_tokens
        self.context = context
        n_tokens = min(tokenizer.n_tokens, model.config.vocab_size)
        self._sampler = replace(sampler, n_tokens=n_tokens)
        self._generator = generator_for(seed)
        self._stop = frozenset([*tokenizer.stop_tokens, *(control_id(tokenizer, word) for word in format.stops)])
        self.memory = Memory(model.eval(), context)

    def prompt(self, *messages: Message) -> Prompt:
        """What the model would read if ``messages`` came next."""
        return prompt(self.format, self._with(*messages), self.settings, self.tokenizer)

    def answer(self, *messages: Message, stopped: Callable[[], bool] = never) -> Iterator[Delta]:
        """Yield the answer to the messages as it comes; then both are part of the conversation.

        An answer that the user stopped is kept as far as it came; one that failed, or of which nothing came, leaves
        the conversation as it was. Raises InputError where the context has no room for it.
        """
        asked = self._with(*messages)
        tokens = self.prompt(*messages).tokens
        room = self.context - len(tokens)
        if room < 1:
            raise InputError(
                f"the conversation has {len(tokens)} tokens, the context holds {self.context}: nothing is left for an"
                " answer; raise --context, or begin anew"
            )
        most = room if self.max_new_tokens is None else min(room, self.max_new_tokens)
        reader, draft, self.n_tokens = self.format.reader(self.tokenizer), Draft(), 0
        for token in self.memory.stream(tokens, most, self._sampler, self._generator, self._stop, stopped):
            self.n_tokens += 1
            yield from _noted(draft, reader.push(token))
        yield from _noted(draft, reader.close())
        self.ended = "stopped" if stopped() else "room" if self.n_tokens == most else "itself"
        said = draft.message()
        self.silent = said is None
        if said is not None:
            self.conversation = asked.plus(said)

    def clear(self) -> None:
        """Begin anew, with the same instructions and tools."""
        self.conversation = replace(self.conversation, messages=())

    def _with(self, *messages: Message) -> Conversation:
        return self.format.settled(self.conversation).plus(*messages)


def _noted(draft: Draft, deltas: list[Delta]) -> list[Delta]:
    draft.add(deltas)
    return deltas
