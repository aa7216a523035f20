"""Harmony, the format that gpt-oss was trained on (github.com/openai/harmony, docs/format.md).

A message is ``<|start|>`` header ``<|message|>`` content ``<|end|>``; the header tells the role, to whom it goes and
on which channel: analysis (thinking), commentary (calls, and what is said on the way) or final. A call ends in
``<|call|>``, and what was sampled last in ``<|return|>``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from blockzoo.chat.format import Control, Piece
from blockzoo.chat.messages import Tool
from blockzoo_gpt_oss.typescript import namespace

START, MESSAGE, END = Control("<|start|>"), Control("<|message|>"), Control("<|end|>")
CHANNEL, CONSTRAIN = Control("<|channel|>"), Control("<|constrain|>")
RETURN, CALL = Control("<|return|>"), Control("<|call|>")
ANALYSIS, COMMENTARY, FINAL = "analysis", "commentary", "final"
IDENTITY = "You are ChatGPT, a large language model trained by OpenAI."
CUTOFF = "2024-06"
FUNCTIONS = "functions"


@dataclass(frozen=True)
class HarmonyMessage:
    """``role``: system, developer, user, assistant or tool; a tool is written by its ``name`` alone.

    ``content_type``: ``<|constrain|>json`` for arguments in JSON; there the marker is one control token.
    """

    role: str
    content: str
    name: str | None = None
    channel: str | None = None
    recipient: str | None = None
    content_type: str | None = None


def system_content(
    *,
    identity: str | None = IDENTITY,
    cutoff: str | None = CUTOFF,
    date: str | None = None,
    reasoning: str | None = "medium",
    tools: Sequence[str] = (),
    channels: Sequence[str] = (ANALYSIS, COMMENTARY, FINAL),
    has_functions: bool = False,
) -> str:
    """What the system message says. ``tools``: namespaces of built-in tools; ``has_functions``: the developer message
    has some.
    """
    about = [identity, cutoff and f"Knowledge cutoff: {cutoff}", date and f"Current date: {date}"]
    sections = ["\n".join(line for line in about if line is not None), reasoning and f"Reasoning: {reasoning}"]
    sections.append(_tools(tools))
    if channels:
        valid = f"# Valid channels: {', '.join(channels)}. Channel must be included for every message."
        where = f"\nCalls to these tools must go to the commentary channel: '{FUNCTIONS}'." if has_functions else ""
        sections.append(valid + where)
    return "\n\n".join(section for section in sections if section)


def developer_content(instructions: str | None, functions: Sequence[Tool] = ()) -> str:
    """What the developer message says: instructions, and functions that may be called."""
    sections = [] if instructions is None else ["# Instructions", instructions]
    if functions:
        sections.append(_tools([namespace(FUNCTIONS, functions)]))
    return "\n\n".join(sections)


def _tools(namespaces: Sequence[str]) -> str:
    return "\n\n".join(["# Tools", *namespaces]) if namespaces else ""


def render(messages: Sequence[HarmonyMessage]) -> list[Piece]:
    """A conversation, up to where the assistant's next message begins.

    Thinking that came before the first final message is left out once the assistant's last message is final.
    """
    said = [message.channel for message in messages if message.role == "assistant"]
    channels = [message.channel for message in messages]
    drop_before = channels.index(FINAL) if said and said[-1] == FINAL else 0
    pieces: list[Piece] = []
    for index, message in enumerate(messages):
        if index >= drop_before or message.channel != ANALYSIS:
            pieces += _message(message)
    return [*pieces, START, "assistant"]


def _message(message: HarmonyMessage) -> Iterable[Piece]:
    yield START
    if message.role == "tool":
        assert message.name is not None
        yield message.name
    else:
        yield message.role
        if message.name is not None:
            yield f":{message.name}"
    if message.recipient not in (None, "all"):
        yield f" to={message.recipient}"
    if message.channel is not None:
        yield CHANNEL
        yield message.channel
    if message.content_type is not None:
        if message.content_type.startswith(CONSTRAIN.word):
            yield " "
            yield CONSTRAIN
            yield message.content_type.removeprefix(CONSTRAIN.word)
        else:
            yield f" {message.content_type}"
    yield MESSAGE
    yield message.content
    yield CALL if message.role == "assistant" and message.recipient is not None else END
