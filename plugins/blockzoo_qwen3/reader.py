"""What Qwen3 writes, token by token: thinking in its block, calls in theirs, and text around them."""

from __future__ import annotations

import json

from blockzoo.chat.encoding import control_words
from blockzoo.chat.messages import Delta, Kind, Part
from blockzoo.generation import TextStream
from blockzoo.tokenizers import Tokenizer
from blockzoo_qwen3.words import CALL, END_CALL, END_THINK, THINK

OPENING: dict[str, Kind] = {THINK.word: "thinking", CALL.word: "call"}


class QwenReader:
    """Line breaks at either end of a part belong to the format. A call is handed out when it is whole."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._words = control_words(tokenizer, (word.word for word in (THINK, END_THINK, CALL, END_CALL)))
        self._tokenizer = tokenizer
        self._begin("text")

    def push(self, token: int) -> list[Delta]:
        word = self._words.get(token)
        if word is None:
            return self._more(self._stream.push(token))
        rest = self.close()
        self._begin(OPENING.get(word, "text"))
        return rest

    def close(self) -> list[Delta]:
        rest = self._more(self._stream.close())
        if self._kind != "call":
            return rest
        return [Delta(_call(self._call), opens=True)] if self._call.strip() else []

    def _begin(self, kind: Kind) -> None:
        self._kind: Kind = kind
        self._stream = TextStream(self._tokenizer)
        self._opens = True
        self._breaks = ""  # held back: they may be the part's end
        self._call = ""

    def _more(self, text: str) -> list[Delta]:
        if self._kind == "call":
            self._call += text
            return []
        text = self._breaks + text
        if self._opens:
            text = text.lstrip("\n")
        shown = text.rstrip("\n")
        self._breaks = text[len(shown) :]
        if not shown:
            return []
        opens, self._opens = self._opens, False
        return [Delta(Part(self._kind, shown), opens)]


def _call(text: str) -> Part:
    """A call; what isn't one is shown as the text that it is."""
    try:
        said = json.loads(text)
        name, arguments = said["name"], said.get("arguments", {})
    except (ValueError, TypeError, KeyError, AttributeError):
        return Part("text", f"{CALL.word}{text}{END_CALL.word}")
    if not isinstance(name, str):
        return Part("text", f"{CALL.word}{text}{END_CALL.word}")
    return Part("call", arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False), name)
