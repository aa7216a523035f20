"""Chat with gpt-oss: a conversation as harmony messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from blockzoo.chat.format import Piece, Settings
from blockzoo.chat.messages import Conversation, Kind, Message, Part
from blockzoo.tokenizers import Tokenizer
from blockzoo_gpt_oss.harmony import (
    ANALYSIS,
    CALL,
    COMMENTARY,
    CONSTRAIN,
    FINAL,
    FUNCTIONS,
    RETURN,
    HarmonyMessage,
    developer_content,
    render,
    system_content,
)
from blockzoo_gpt_oss.reader import HarmonyReader

CHANNELS: dict[Kind, str] = {"thinking": ANALYSIS, "aside": COMMENTARY, "text": FINAL}
BUILT_IN = ("python", "browser")
"""Tools of OpenAI's own: called by their bare names while the model thinks."""


class HarmonyFormat:
    """Reasoning is a word in the system message; instructions go into a developer message."""

    efforts = ("low", "medium", "high")
    thinking_optional = False
    stops = (RETURN.word, CALL.word)

    def render(self, conversation: Conversation, settings: Settings) -> list[Piece]:
        effort = "medium" if settings.reasoning is None else settings.reasoning
        functions = bool(conversation.tools)
        about = system_content(date=settings.date, reasoning=effort, has_functions=functions)
        messages = [HarmonyMessage("system", about)]
        if conversation.system is not None or functions:
            content = developer_content(conversation.system, conversation.tools)
            messages.append(HarmonyMessage("developer", content))
        return render([*messages, *(said for message in conversation.messages for said in harmony(message))])

    def settled(self, conversation: Conversation) -> Conversation:
        """Without thinking, once it has led to an answer; until then calls and results rest on it."""
        said = conversation.messages[-1].parts if conversation.messages else ()
        if not said or said[-1].kind != "text":
            return conversation
        return replace(conversation, messages=tuple(m.without("thinking") for m in conversation.messages))

    def reader(self, tokenizer: Tokenizer) -> HarmonyReader:
        return HarmonyReader(tokenizer)

    def sampling(self, settings: Settings) -> Mapping[str, float]:
        return {"temperature": 1.0, "top_p": 1.0}


def harmony(message: Message) -> Iterator[HarmonyMessage]:
    """One harmony message for each part."""
    for part in message.parts:
        if message.role == "tool":
            yield HarmonyMessage("tool", part.text, recipient_of(message.name), COMMENTARY, recipient="assistant")
        elif message.role == "user":
            yield HarmonyMessage("user", part.text)
        elif part.kind == "call":
            yield _call(part)
        else:
            yield HarmonyMessage("assistant", part.text, channel=CHANNELS[part.kind])


def _call(part: Part) -> HarmonyMessage:
    recipient = recipient_of(part.name)
    if recipient == part.name:
        return HarmonyMessage("assistant", part.text, channel=ANALYSIS, recipient=recipient, content_type="code")
    kind = f"{CONSTRAIN.word}json"
    return HarmonyMessage("assistant", part.text, channel=COMMENTARY, recipient=recipient, content_type=kind)


def recipient_of(tool: str) -> str:
    return tool if tool.partition(".")[0] in BUILT_IN else f"{FUNCTIONS}.{tool}"
