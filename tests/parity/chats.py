"""Generated conversations, for judges of chat formats."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from blockzoo.chat.messages import Conversation, Message, Part, Tool, assistant, tool_result, user

WORDS = [
    "Hello",
    "wörld",
    "日本語",
    "🙂",
    "é",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\t",
    "42",
    "1234",
    "don't",
    "{",
    '"',
    "<",
    ">",
    "<b>",
    "to=",
    "//",
    ".",
    ",",
]
MARKS = ["<|", "|>", "<|x|>"]
TEXT = st.lists(st.sampled_from(WORDS + MARKS), max_size=8).map("".join) | st.text(max_size=12)
NAME = st.sampled_from(["get_weather", "now", "lookup2", "f", "convertUnits"])
LEAVES: st.SearchStrategy[Any] = st.none() | st.booleans() | st.integers(-1000, 1000) | TEXT
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))
ARGUMENTS = st.dictionaries(NAME, VALUES, max_size=3).map(lambda value: json.dumps(value, ensure_ascii=False))


def objects(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(required, optional=optional)


REMARKS = {"description": TEXT, "title": TEXT, "nullable": st.booleans(), "default": VALUES}
TYPES = ["string", "number", "integer", "boolean", "array", "null", ["string", "null"], ["integer"]]
SCALAR = objects(
    {"type": st.sampled_from(TYPES)},
    {
        **REMARKS,
        "enum": st.lists(TEXT | st.integers(), max_size=3),
        "examples": st.lists(TEXT | st.integers(), max_size=2),
    },
)


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    properties = st.dictionaries(NAME, inner, max_size=4)
    return (
        objects({"type": st.just("array")}, {**REMARKS, "items": inner})
        | objects({"oneOf": st.lists(inner, max_size=3)}, REMARKS)
        | objects(
            {"type": st.just("object"), "properties": properties}, {**REMARKS, "required": st.lists(NAME, max_size=3)}
        )
        | st.just({})
    )


SCHEMA = st.recursive(SCALAR, _nested, max_leaves=8)
PARAMETERS = objects(
    {"type": st.just("object"), "properties": st.dictionaries(NAME, SCHEMA, max_size=4)},
    {"required": st.lists(NAME, max_size=3), "description": TEXT},
)
TOOLS = st.lists(st.builds(Tool, NAME, TEXT, st.none() | PARAMETERS), max_size=3, unique_by=lambda tool: tool.name)


def messages(part: st.SearchStrategy[Part]) -> st.SearchStrategy[Message]:
    said = st.lists(part, min_size=1, max_size=3).map(lambda parts: assistant(*parts))
    return st.builds(user, TEXT) | said | st.builds(tool_result, NAME, TEXT)


def conversations(part: st.SearchStrategy[Part], keep: Callable[[str], bool]) -> st.SearchStrategy[Conversation]:
    """Any order of messages. ``keep``: whether a format's judge can be asked about the whole of it."""
    said = st.lists(messages(part), max_size=7).map(tuple)
    return st.builds(Conversation, said, st.none() | TEXT, TOOLS.map(tuple)).filter(lambda c: keep(repr(c)))
