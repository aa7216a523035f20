"""What gpt-oss writes, token by token: messages on channels, each a part of the answer."""

from __future__ import annotations

import re

from blockzoo.chat.encoding import control_words
from blockzoo.chat.messages import Delta, Kind, Part
from blockzoo.generation import TextStream
from blockzoo.tokenizers import Tokenizer
from blockzoo_gpt_oss.harmony import (
    ANALYSIS,
    CALL,
    CHANNEL,
    COMMENTARY,
    CONSTRAIN,
    END,
    FUNCTIONS,
    MESSAGE,
    RETURN,
    START,
)

RECIPIENT = re.compile(r"(?:^|\s)to=([^\s<]+)")
ON_CHANNEL = re.compile(re.escape(CHANNEL.word) + r"\s*(\w+)")
KINDS: dict[str, Kind] = {ANALYSIS: "thinking", COMMENTARY: "aside"}


class HarmonyReader:
    """Begins inside a header, as a prompt ends in one. A header that never comes to ``<|message|>`` says nothing."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        controls = (START, CHANNEL, MESSAGE, CONSTRAIN, END, RETURN, CALL)
        self._words = control_words(tokenizer, (control.word for control in controls))
        self._tokenizer = tokenizer
        self._header: list[int] | None = []  # None: inside content
        self._part = Part("text", "")
        self._text = TextStream(tokenizer)

    def push(self, token: int) -> list[Delta]:
        word = self._words.get(token)
        if self._header is None:
            if word not in (START.word, END.word, RETURN.word, CALL.word):
                return self._more(self._text.push(token))
            self._header, rest = [], self.close()
            return rest
        if word in (START.word, END.word, RETURN.word, CALL.word):
            self._header = []
        elif word == MESSAGE.word:
            self._part, self._header = part_of(self._tokenizer.decode(self._header)), None
            self._text = TextStream(self._tokenizer)
            return [Delta(self._part, opens=True)]
        else:
            self._header.append(token)
        return []

    def close(self) -> list[Delta]:
        return self._more(self._text.close())

    def _more(self, text: str) -> list[Delta]:
        return [Delta(Part(self._part.kind, text, self._part.name))] if text else []


def part_of(header: str) -> Part:
    """What a header announces: where it names both a recipient and a channel, the recipient makes it a call."""
    recipient, channel = RECIPIENT.search(header), ON_CHANNEL.search(header)
    if recipient is not None and recipient[1] != "all":
        return Part("call", "", recipient[1].removeprefix(f"{FUNCTIONS}."))
    return Part(KINDS.get(channel[1], "text") if channel else "text", "")
