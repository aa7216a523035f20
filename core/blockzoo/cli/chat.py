"""``blockzoo chat``: talk to a model in the format it was trained on."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from blockzoo import building
from blockzoo.chat.messages import Message, tool_result, user
from blockzoo.chat.session import Session
from blockzoo.cli.chat_input import Source, source
from blockzoo.cli.opening import MapAll, MapEmbedding, dtype_named, mapped_of, open_model
from blockzoo.cli.output import note
from blockzoo.cli.talk import CONTEXT, Screen, open_talk, say_why, show_prompt
from blockzoo.errors import BlockzooError, InputError, nearest
from blockzoo.generation import never
from blockzoo.plugins import host

COMMANDS = {
    "/clear": "begin anew, with the same instructions",
    "/prompt": "show the tokens and text that the model would read now",
    "/exit": "end the chat (Ctrl-D too)",
    "/help": "this list",
}


def command(
    ref: Annotated[str, typer.Argument(metavar="REF", help="a checkpoint folder, a run folder or a hub id")],
    system: Annotated[str | None, typer.Option(help="instructions for the whole conversation")] = None,
    tools: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON list of functions to offer; you type their results")
    ] = None,
    reasoning: Annotated[
        str | None,
        typer.Option(metavar="LEVEL", help="how much to think: low, medium, high"),
    ] = None,
    thinking: Annotated[
        bool | None, typer.Option("--thinking/--no-thinking", help="whether to think, where the format has a choice")
    ] = None,
    hide_thinking: Annotated[bool, typer.Option("--hide-thinking", help="don't show what the model thinks")] = False,
    prompt_only: Annotated[
        bool,
        typer.Option("--show-prompt", help="print the tokens and text of the first prompt, and end; reads no weights"),
    ] = False,
    context: Annotated[
        int | None, typer.Option(metavar="N", help=f"tokens the conversation may hold (default: at most {CONTEXT})")
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(metavar="N", help="cut an answer after so many tokens"),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0 is greedy (default: sampling as the model's makers advise)")
    ] = None,
    top_k: Annotated[int | None, typer.Option(metavar="K", help="draw from the K likeliest tokens only")] = None,
    top_p: Annotated[
        float | None, typer.Option(metavar="P", help="draw from the likeliest that reach P together")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="of the draws; the same seed gives the same answers")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps")] = "cpu",
    dtype: Annotated[str, typer.Option(help="stored, float32 or bfloat16")] = "stored",
    mapped: MapAll = False,
    map_embedding: MapEmbedding = False,
) -> None:
    """Talk to a model."""
    floats = dtype_named(dtype)
    talk = open_talk(ref, reasoning, thinking, system, tools, host().registry)
    messages = source()
    if prompt_only:
        first = messages.read("> ")
        return show_prompt(talk.prompt() if first is None else talk.prompt(user(first)))
    length = talk.config.context_length
    if context is not None and not 0 < context <= length:
        raise InputError(f"--context {context}: must be between 1 and {length}, the context of {talk.config.name}")
    if max_new_tokens is not None and max_new_tokens < 1:
        raise InputError(f"--max-new-tokens {max_new_tokens}: must be at least 1")
    building.check_device(device)
    model = open_model(ref, device, floats, registry=host().registry, mapped=mapped_of(mapped, map_embedding))
    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    session = talk.session(model, sampling, context or min(length, CONTEXT), max_new_tokens, seed)
    if messages.interactive:
        note("Ctrl-C stops an answer, Ctrl-D ends the chat, Alt-Enter begins another line; /help has more")
    return converse(session, messages, Screen(hide_thinking))


def converse(session: Session, messages: Source, screen: Screen) -> None:
    """Until no message comes. On a terminal an error, or a stopped answer, ends that answer only."""
    while (said := _results(session, messages) or _message(session, messages)) is not None:
        try:
            with stoppable(messages.interactive) as stopped:
                screen.show(session.answer(*said, stopped=stopped))
            say_why(session)
        except (BlockzooError, KeyboardInterrupt) as error:
            if not messages.interactive:
                raise
            what = f"blockzoo: error: {error}" if isinstance(error, BlockzooError) else "(stopped)"
            note(f"{what}; this turn is forgotten")


def _message(session: Session, messages: Source) -> tuple[Message, ...] | None:
    while (text := messages.read("> ")) is not None:
        if messages.interactive and text.startswith("/"):
            if text.strip() == "/exit":
                return None
            _run(text.strip(), session)
        elif text.strip():
            return (user(text),)
    return None


def _run(text: str, session: Session) -> None:
    if text == "/clear":
        session.clear()
    elif text == "/prompt":
        show_prompt(session.prompt())
    elif text == "/help":
        note("\n".join(f"{name:8} {what}" for name, what in COMMANDS.items()))
    else:
        note(f"no command '{text}'{nearest(text, COMMANDS)}; a message can't begin with a slash, put a space before it")


def _results(session: Session, messages: Source) -> tuple[Message, ...]:
    """What the user says that the called tools gave; none where there was no call, or no result for one."""
    last = session.conversation.messages[-1:]
    results = []
    for call in last[0].calls if last and session.conversation.tools else ():
        text = messages.read(f"result of {call.name}> ")
        if not text:
            return ()
        results.append(tool_result(call.name, text))
    return tuple(results)


@contextmanager
def stoppable(wanted: bool) -> Iterator[Callable[[], bool]]:
    """A context in which the first Ctrl-C only makes the function true; the second raises KeyboardInterrupt."""
    if not wanted:
        yield never
        return
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)
