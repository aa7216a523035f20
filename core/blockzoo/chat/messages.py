"""What a conversation consists of, whatever a family's own format calls it.

One message of the assistant is what the model says in one go: it may think, say something on the way, call tools,
answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Role = Literal["user", "assistant", "tool"]
Kind = Literal["text", "thinking", "aside", "call"]


@dataclass(frozen=True)
class Part:
    """A piece of a message, of one kind.

    ``text``: what is said; ``thinking``: what the model says to itself; ``aside``: what it tells the user before a
    call; ``call``: of the tool ``name``, with the arguments as JSON in ``text``.
    """

    kind: Kind
    text: str
    name: str = ""


@dataclass(frozen=True)
class Message:
    """Who said it, and what. ``name``: of the tool whose result this is."""

    role: Role
    parts: tuple[Part, ...]
    name: str = ""

    def text(self, *kinds: Kind) -> str:
        """The parts of these kinds (default: ``text``), a line break between them."""
        return "\n".join(part.text for part in self.parts if part.kind in (kinds or ("text",)))

    @property
    def calls(self) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if part.kind == "call")

    def without(self, kind: Kind) -> Message:
        return replace(self, parts=tuple(part for part in self.parts if part.kind != kind))


def user(text: str) -> Message:
    """What the user says."""
    return Message("user", (Part("text", text),))


def assistant(*parts: Part) -> Message:
    """What the model said in one go, in that order."""
    return Message("assistant", parts)


def tool_result(name: str, text: str) -> Message:
    """What the tool ``name`` gave back to a call."""
    return Message("tool", (Part("text", text),), name)


@dataclass(frozen=True)
class Tool:
    """A function that the model may call. ``parameters``: the JSON schema of an object; None: it takes none."""

    name: str
    description: str
    parameters: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Conversation:
    """What has been said so far. ``system``: instructions of whoever set the conversation up."""

    messages: tuple[Message, ...] = ()
    system: str | None = None
    tools: tuple[Tool, ...] = ()

    def plus(self, *messages: Message) -> Conversation:
        return replace(self, messages=(*self.messages, *messages))


@dataclass(frozen=True)
class Delta:
    """More of a message while it is said: ``part`` goes on the last one, or ``opens`` a new one."""

    part: Part
    opens: bool = False


@dataclass
class Draft:
    """A message of the assistant in the making."""

    parts: list[Part] = field(default_factory=list)

    def add(self, deltas: Iterable[Delta]) -> None:
        for delta in deltas:
            if delta.opens or not self.parts:
                self.parts.append(delta.part)
            else:
                self.parts[-1] = replace(self.parts[-1], text=self.parts[-1].text + delta.part.text)

    def message(self) -> Message | None:
        """None where nothing was said."""
        kept = [part for part in self.parts if part.text.strip() or part.kind == "call"]
        return assistant(*kept) if kept else None
