"""Qwen3's chat format against the template published with it, rendered by transformers: the same ids."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from blockzoo.chat.encoding import encode, prompt
from blockzoo.chat.format import Settings
from blockzoo.chat.messages import Conversation, Draft, Message, Part, assistant, tool_result, user
from blockzoo.registry import Registry
from blockzoo.tokenizers import Tokenizer, load_tokenizer
from blockzoo_qwen3.chat import ChatML
from blockzoo_qwen3.tokenizer import ADDED
from tests.parity.chats import ARGUMENTS, NAME, TEXT, conversations

ORDER = {"thinking": 0, "text": 1, "call": 2}
PARTS = st.builds(Part, st.sampled_from(["text", "thinking"]), TEXT) | st.builds(Part, st.just("call"), ARGUMENTS, NAME)
MANY = settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@pytest.fixture(scope="module")
def ours(data: Path, registry: Registry) -> Tokenizer:
    return load_tokenizer(data / "qwen3-tokenizer", registry=registry)


@pytest.fixture(scope="module")
def theirs(data: Path) -> Any:
    """The tokenizer with the template as trl ships it, byte for byte what the checkpoints carry."""
    import transformers

    files = importlib.metadata.files("trl") or []
    path = next(file for file in files if file.name == "qwen3.jinja")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(data / "qwen3-tokenizer" / "tokenizer.json"))
    tokenizer.chat_template = Path(str(path.locate())).read_text(encoding="utf-8")
    return tokenizer


def unmarked(text: str) -> bool:
    """Whether no word of the vocabulary's own stands in it: the template would make a token of it."""
    return not any(word in text for _, word, _ in ADDED)


def as_dict(message: Message) -> dict[str, Any]:
    if message.role != "assistant":
        return {"role": message.role, "content": message.text()}
    calls = [{"function": {"name": call.name, "arguments": call.text}} for call in message.calls]
    return {
        "role": "assistant",
        "content": message.text("text", "aside"),
        "reasoning_content": message.text("thinking"),
        **({"tool_calls": calls} if calls else {}),
    }


@MANY
@given(conversations(PARTS, unmarked), st.booleans())
@example(
    Conversation(
        (
            user("Weather?"),
            assistant(Part("thinking", "look"), Part("text", "One moment."), Part("call", '{"at": 1}', "f")),
            tool_result("f", "20"),
            tool_result("f", "21"),
            assistant(Part("thinking", "so"), Part("text", "20 degrees.")),
        ),
        "Be brief.",
    ),
    True,
)
def test_conversations(theirs: Any, ours: Tokenizer, conversation: Conversation, thinking: bool) -> None:
    messages = [as_dict(message) for message in conversation.messages]
    if conversation.system is not None:
        messages.insert(0, {"role": "system", "content": conversation.system})
    tools = [
        {"type": "function", "function": {"name": tool.name, "description": tool.description}}
        | ({} if tool.parameters is None else {"function": vars(tool)})
        for tool in conversation.tools
    ]
    if not messages:
        return  # the template needs one
    expected = theirs.apply_chat_template(
        messages,
        tools=tools or None,
        add_generation_prompt=True,
        enable_thinking=thinking,
        tokenize=True,
        return_dict=False,
    )
    assert list(prompt(ChatML(), conversation, Settings(thinking=thinking), ours).tokens) == expected


def test_no_thinking_appends_an_empty_block(ours: Tokenizer) -> None:
    tokens = prompt(ChatML(), Conversation((user("Hi"),)), Settings(thinking=False), ours).tokens
    assert tokens[-4:] == (151667, 271, 151668, 271)


@pytest.mark.parametrize("word", [word for _, word, _ in ADDED])
def test_a_user_writes_no_control_token(ours: Tokenizer, word: str) -> None:
    text = f"a{word}b {word}\n"
    plain = prompt(ChatML(), Conversation((user("ab"),)), Settings(), ours).tokens
    marked = prompt(ChatML(), Conversation((user(text),)), Settings(), ours).tokens
    assert [t for t in marked if t >= 151643] == [t for t in plain if t >= 151643]
    assert text in ours.decode(marked)


@MANY
@given(TEXT.filter(unmarked))
def test_plain_text_is_encoded_as_ever(ours: Tokenizer, text: str) -> None:
    assert ours.encode_text(text) == ours.encode(text, control=True)


@MANY
@given(
    st.tuples(
        *(st.none() | TEXT.filter(unmarked),) * 2, st.lists(st.tuples(NAME, ARGUMENTS.filter(unmarked)), max_size=2)
    )
)
def test_what_a_model_writes_is_read_back(ours: Tokenizer, written: Any) -> None:
    thinking, text, calls = written
    said = [Part("thinking", thinking)] if thinking is not None else []
    said += [Part("text", text)] if text is not None else []
    said += [Part("call", arguments, name) for name, arguments in calls]
    pieces = ChatML().render(Conversation((user("?"), assistant(*said))), Settings())
    tokens = encode(pieces, ours)
    start = len(encode(ChatML().render(Conversation((user("?"),)), Settings()), ours))
    end = len(tokens) - 1 - tokens[::-1].index(151645)  # of the assistant's message
    reader, draft = ChatML().reader(ours), Draft()
    for token in tokens[start:end]:
        draft.add(reader.push(token))
    draft.add(reader.close())
    expected = [Part(part.kind, normalize("NFC", part.text).strip("\n"), part.name) for part in said]
    assert draft.parts == [part for part in expected if part.text]


@pytest.mark.parametrize("text", ["{", "[]", '{"name": 3}', '{"arguments": {}}', "x"])
def test_a_call_that_is_none_is_shown(ours: Tokenizer, text: str) -> None:
    reader = ChatML().reader(ours)
    deltas = [d for token in ours.encode(f"<tool_call>{text}</tool_call>", control=True) for d in reader.push(token)]
    assert [delta.part for delta in deltas] == [Part("text", f"<tool_call>{text}</tool_call>")]
