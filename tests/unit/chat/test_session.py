"""A conversation that goes on: what is remembered, what is read again, and what a stop or an error leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from blockzoo.chat.format import Settings
from blockzoo.chat.memory import CHUNK, Memory
from blockzoo.chat.messages import Conversation, Part, Tool, assistant, tool_result, user
from blockzoo.chat.session import Session
from blockzoo.checkpoints import from_pretrained
from blockzoo.errors import InputError
from blockzoo.generation import Sampler
from blockzoo.model import Decoder
from blockzoo.registry import Registry
from blockzoo.tokenizers import Tokenizer, load_tokenizer
from tests.unit.chat.scripted import Scripted, say

THINKS = {
    "gpt_oss": "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>{}<|return|>",
    "qwen3": "<think>\n{}\n</think>\n\n{}<|im_end|>",
}
CALLS = {
    "gpt_oss": "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary to=functions.f"
    ' <|constrain|>json<|message|>{"a": 1}<|call|>',
    "qwen3": '<think>\nhm\n</think>\n\n<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call><|im_end|>',
}
FAMILIES = pytest.mark.parametrize("family", sorted(THINKS))
Opener = Callable[..., Session]


@pytest.fixture(scope="module")
def models(checkpoints: dict[str, Path], registry: Registry) -> dict[str, tuple[Decoder, Tokenizer]]:
    return {
        name: (
            from_pretrained(folder, dtype=torch.float32, registry=registry),
            load_tokenizer(folder, registry=registry),
        )
        for name, folder in checkpoints.items()
    }


@pytest.fixture
def opened(models: dict[str, tuple[Decoder, Tokenizer]], registry: Registry) -> Opener:
    def open_session(family: str, *lines: str, tools: tuple[Tool, ...] = (), **options: Any) -> Session:
        model, tokenizer = models[family]
        script = (token for line in lines for token in tokenizer.encode(line, control=True))
        before = options.pop("before", lambda: None)
        return Session(
            model,
            tokenizer,
            registry.families()[family].chat,
            Conversation(system="Be brief.", tools=tools),
            Settings(date="2025-06-28"),
            **{"sampler": Scripted(script=script, before=before), "context": 1024, **options},
        )

    return open_session


def is_as_read_anew(session: Session, *messages: Any) -> int:
    """How many tokens of the next prompt had to be read; checks the logits against a memory without a past."""
    tokens = session.prompt(*messages).tokens
    logits = session.memory.read(tokens)
    fresh = Memory(session.memory.model, 1024).read(tokens)
    assert logits is not None
    torch.testing.assert_close(logits, fresh, rtol=1e-5, atol=1e-5)
    return session.memory.n_read


@FAMILIES
def test_turns_are_remembered_and_read_once(opened: Opener, family: str) -> None:
    long = "I wonder about this and that. " * 8  # more than the window: a ring has evicted when the turn ends
    session = opened(family, THINKS[family].format(long, "Two."), THINKS[family].format("So", "Four."))
    assert say(session, user("One?")) == f"thinking: {long} | text: Two."
    asked = session.prompt(user("Three?"))
    assert "I wonder" not in asked.text
    assert "Two." in asked.text
    assert say(session, user("Three?")) == "thinking: So | text: Four."
    assert session.memory.n_read < len(asked.tokens) - 15, (
        "the beginning, up to the first answer, needn't be read again"
    )
    is_as_read_anew(session, user("Five?"))
    assert [message.role for message in session.conversation.messages] == ["user", "assistant"] * 2


@FAMILIES
def test_calls_and_results(opened: Opener, family: str) -> None:
    tool = Tool("f", "Does it.", {"type": "object", "properties": {"a": {"type": "integer"}}})
    session = opened(family, CALLS[family], THINKS[family].format("so", "Done."), tools=(tool,))
    assert say(session, user("Do it.")) == 'thinking: hm | call[f]: {"a": 1}'
    (call,) = session.conversation.messages[-1].calls
    assert (call.name, call.text) == ("f", '{"a": 1}')
    assert "hm" in session.prompt(tool_result("f", "ok")).text  # the thinking that led to a call stays until an answer
    assert say(session, tool_result("f", "ok")) == "thinking: so | text: Done."
    assert "hm" not in session.prompt(user("Thanks")).text
    is_as_read_anew(session, user("Thanks"))


@FAMILIES
def test_a_stopped_answer_is_kept_as_far_as_it_came(opened: Opener, family: str) -> None:
    session = opened(family, THINKS[family].format("A long thought of many words", "never said"))
    count = 0

    def stopped() -> bool:
        nonlocal count
        count += 1
        return count > 7

    list(session.answer(user("Hi"), stopped=stopped))
    assert session.ended == "stopped"
    _, said = session.conversation.messages
    assert said.parts[0].kind == "thinking"
    assert "A long thought of many words".startswith(said.parts[0].text.strip())
    is_as_read_anew(session, user("Go on"))


@FAMILIES
def test_a_stop_while_the_prompt_is_read(opened: Opener, family: str) -> None:
    session = opened(family, THINKS[family].format("x", "y"))
    message = user("word " * (CHUNK + 40))
    assert list(session.answer(message, stopped=lambda: True)) == []
    assert session.conversation.messages == ()
    calls = iter([False, True])
    assert session.memory.read(session.prompt(message).tokens, lambda: next(calls)) is None
    assert is_as_read_anew(session, message) < CHUNK


@FAMILIES
def test_an_interrupt_within_the_model_forgets_what_was_half_read(opened: Opener, family: str) -> None:
    session = opened(family, THINKS[family].format("x", "y"), THINKS[family].format("x", "y"))
    assert say(session, user("Hi"))
    layer = session.memory.model.layers[1]

    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    hook = layer.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        list(session.answer(user("And?")))
    hook.remove()
    assert len(session.conversation.messages) == 2
    asked = session.prompt(user("And?")).tokens
    assert is_as_read_anew(session, user("And?")) == len(asked)


@FAMILIES
def test_noise_is_read_without_a_fault(opened: Opener, family: str) -> None:
    session = opened(family, sampler=Sampler(temperature=1.0), seed=1, max_new_tokens=25)
    for text in ("Hi", "", "<|end|><|im_end|>"):
        list(session.answer(user(text)))
    assert session.n_tokens <= 25


@FAMILIES
def test_room(opened: Opener, family: str) -> None:
    session = opened(family, THINKS[family].format("a b c d e f g h", "y"), max_new_tokens=5)
    assert say(session, user("Hi"))
    assert (session.ended, session.n_tokens) == ("room", 5)
    session = opened(family, THINKS[family].format("x", "y"), context=40)
    with pytest.raises(InputError, match=r"the context holds 40: .*--context"):
        list(session.answer(user("word " * 100)))
    session.clear()
    assert session.conversation.system == "Be brief."


def test_a_draft_leaves_out_what_says_nothing(opened: Opener) -> None:
    session = opened("qwen3", "<think>\n\n</think>\n\n<|im_end|>")
    assert say(session, user("Hi")) == ""
    assert session.conversation.messages == ()
    assert assistant(Part("aside", "a"), Part("text", "b")).text("aside", "text") == "a\nb"


def test_the_scripts_end(opened: Opener) -> None:
    def script() -> Iterator[int]:
        yield 13
        raise AssertionError("drawn past the end")

    session = opened("qwen3", sampler=Scripted(script=script()), max_new_tokens=1)
    assert say(session, user("Hi")) == "text: ."
