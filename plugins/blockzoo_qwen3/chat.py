"""Chat with Qwen3: ChatML, thinking in a block that is left out once it has led to an answer.

The template published with the checkpoints is one text with control tokens in it; so is ours, text by text as that
one joins it, since joining decides where tokens end. Thinking and calls stand between tokens of their own, ``<think>``
and ``<tool_call>``; results of tools go into a user's message.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

from blockzoo.chat.format import Control, Piece, Settings
from blockzoo.chat.messages import Conversation, Message, Tool
from blockzoo.tokenizers import Tokenizer
from blockzoo_qwen3.reader import QwenReader
from blockzoo_qwen3.words import CALL, END_CALL, END_RESULT, END_THINK, IM_END, IM_START, RESULT, THINK

BEFORE_TOOLS = """\
# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>"""
AFTER_TOOLS: tuple[Piece, ...] = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within ",
    CALL,
    END_CALL,
    " XML tags:\n",
    CALL,
    '\n{"name": <function-name>, "arguments": <args-json-object>}\n',
    END_CALL,
)
NO_THINKING: tuple[Piece, ...] = (THINK, "\n\n", END_THINK, "\n\n")


class ChatML:
    """Thinking can be left out: the prompt then ends in an empty block of it."""

    efforts = ()
    thinking_optional = True
    stops = (IM_END.word,)

    def render(self, conversation: Conversation, settings: Settings) -> list[Piece]:
        pieces = list(_system(conversation))
        asked = [index for index, message in enumerate(conversation.messages) if message.role == "user"]
        last_asked = asked[-1] if asked else len(conversation.messages)
        for index, message in enumerate(conversation.messages):
            if message.role == "user":
                pieces += [IM_START, f"user\n{message.text()}", IM_END, "\n"]
            elif message.role == "tool":
                pieces += _result(conversation.messages, index)
            else:
                pieces += _said(message, index > last_asked, last=index == len(conversation.messages) - 1)
        ending = () if settings.thinking else NO_THINKING
        return _joined([*pieces, IM_START, "assistant\n", *ending])

    def settled(self, conversation: Conversation) -> Conversation:
        """As it is: what ``render`` leaves out depends on where the last question stands."""
        return conversation

    def reader(self, tokenizer: Tokenizer) -> QwenReader:
        return QwenReader(tokenizer)

    def sampling(self, settings: Settings) -> Mapping[str, float]:
        if settings.thinking:
            return {"temperature": 0.6, "top_k": 20, "top_p": 0.95}
        return {"temperature": 0.7, "top_k": 20, "top_p": 0.8}


def _system(conversation: Conversation) -> Iterator[Piece]:
    if conversation.system is None and not conversation.tools:
        return
    yield IM_START
    yield "system\n"
    if conversation.system is not None:
        yield conversation.system
    if conversation.tools:
        yield BEFORE_TOOLS if conversation.system is None else f"\n\n{BEFORE_TOOLS}"
        yield from (f"\n{_json(_signature(tool))}" for tool in conversation.tools)
        yield from AFTER_TOOLS
    yield IM_END
    yield "\n"


def _signature(tool: Tool) -> dict[str, object]:
    function: dict[str, object] = {"name": tool.name, "description": tool.description}
    if tool.parameters is not None:
        function["parameters"] = tool.parameters
    return {"type": "function", "function": function}


def _said(message: Message, after_question: bool, last: bool) -> Iterator[Piece]:
    """What the assistant said. Thinking stays only after the last question, while calls and results go on."""
    thinking, text = message.text("thinking"), message.text("text", "aside")
    yield IM_START
    yield "assistant\n"
    if after_question and (thinking or last):
        newlines = thinking.strip("\n")
        yield from (THINK, f"\n{newlines}\n", END_THINK, "\n\n")
        yield text.lstrip("\n")
    else:
        yield text
    for index, call in enumerate(message.calls):
        yield "\n" if index or text else ""
        yield from (CALL, f'\n{{"name": "{call.name}", "arguments": {call.text}}}\n', END_CALL)
    yield IM_END
    yield "\n"


def _result(messages: Sequence[Message], index: int) -> Iterator[Piece]:
    """Results that follow each other share one message."""
    if index == 0 or messages[index - 1].role != "tool":
        yield IM_START
        yield "user"
    yield from ("\n", RESULT, f"\n{messages[index].text()}\n", END_RESULT)
    if index == len(messages) - 1 or messages[index + 1].role != "tool":
        yield IM_END
        yield "\n"


def _joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Texts that follow each other made one, empty ones left out."""
    joined: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, Control) or not joined or isinstance(joined[-1], Control):
            joined.append(piece)
        else:
            joined[-1] += piece
    return [piece for piece in joined if piece != ""]


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
