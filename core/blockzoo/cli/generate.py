"""``blockzoo generate``: continue a prompt, or with ``--chat`` answer a message; the text appears as it comes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from blockzoo import building
from blockzoo.chat.encoding import Prompt
from blockzoo.chat.messages import Draft, assistant, user
from blockzoo.cli.opening import MapAll, MapEmbedding, dtype_named, mapped_of, open_model, open_tokenizer
from blockzoo.cli.output import cleaned, print_json
from blockzoo.cli.talk import CONTEXT, Screen, Talk, open_talk, say_why, show_prompt
from blockzoo.errors import InputError
from blockzoo.generation import TextStream, generate
from blockzoo.model import Decoder
from blockzoo.plugins import host


def command(
    ref: Annotated[
        str, typer.Argument(metavar="REF", help="a checkpoint folder, a run folder, a hub id, or a config's name")
    ],
    prompt: Annotated[str, typer.Option(help="the text to continue, or to answer")],
    max_new_tokens: Annotated[
        int | None, typer.Option(metavar="N", help=f"stop after so many tokens (default: 100, with --chat {CONTEXT})")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0 is greedy; higher is wilder (default: 0, with --chat as its makers advise)")
    ] = None,
    top_k: Annotated[int | None, typer.Option(metavar="K", help="draw from the K likeliest tokens only")] = None,
    top_p: Annotated[
        float | None, typer.Option(metavar="P", help="draw from the likeliest that reach P together")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="of the draws; the same seed gives the same text")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps")] = "cpu",
    dtype: Annotated[str, typer.Option(help="stored, float32 or bfloat16")] = "stored",
    mapped: MapAll = False,
    map_embedding: MapEmbedding = False,
    chat: Annotated[
        bool, typer.Option("--chat", help="the prompt is a message, answered in the format the model was trained on")
    ] = False,
    system: Annotated[str | None, typer.Option(help="with --chat: instructions")] = None,
    tools: Annotated[
        Path | None, typer.Option(metavar="FILE", help="with --chat: JSON list of functions to offer")
    ] = None,
    reasoning: Annotated[
        str | None, typer.Option(metavar="LEVEL", help="with --chat: how much to think: low, medium, high")
    ] = None,
    thinking: Annotated[
        bool | None, typer.Option("--thinking/--no-thinking", help="with --chat: whether to think")
    ] = None,
    hide_thinking: Annotated[bool, typer.Option("--hide-thinking", help="with --chat: don't show thinking")] = False,
    prompt_only: Annotated[
        bool, typer.Option("--show-prompt", help="print the prompt's tokens and text, and end; reads no weights")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="print one JSON document at the end, and no text before")
    ] = False,
) -> None:
    """Continue a prompt, or answer it."""
    floats = dtype_named(dtype)
    building.check_device(device)
    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    if chat:
        talk = open_talk(ref, reasoning, thinking, system, tools, host().registry)
        if prompt_only:
            return show_prompt(talk.prompt(user(prompt)), as_json)
        model = open_model(ref, device, floats, registry=host().registry, mapped=mapped_of(mapped, map_embedding))
        return _answer(talk, model, prompt, sampling, max_new_tokens, seed, hide_thinking, as_json)
    for option, given in (
        ("--system", system),
        ("--tools", tools),
        ("--reasoning", reasoning),
        ("--thinking", thinking),
        ("--hide-thinking", hide_thinking or None),
    ):
        if given is not None:
            raise InputError(f"{option} means something with --chat only")
    tokenizer = open_tokenizer(ref, registry=host().registry)
    if prompt_only:
        return show_prompt(Prompt(tuple(tokenizer.encode(prompt)), prompt), as_json)
    model = open_model(ref, device, floats, registry=host().registry, mapped=mapped_of(mapped, map_embedding))
    stream, text = TextStream(tokenizer), ""
    tokens = generate(
        model,
        tokenizer.encode(prompt),
        max_new_tokens=100 if max_new_tokens is None else max_new_tokens,
        temperature=0.0 if temperature is None else temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        stop=tokenizer.stop_tokens,
        n_tokens=min(tokenizer.n_tokens, model.config.vocab_size),
    )
    if not as_json:
        _show(prompt)
    count = 0
    for token in tokens:
        count += 1
        piece = stream.push(token)
        text += piece
        if not as_json:
            _show(piece)
    rest = stream.close()
    if as_json:
        print_json({"prompt": prompt, "text": text + rest, "tokens": count})
    else:
        _show(rest + "\n")
    return None


def _answer(
    talk: Talk,
    model: Decoder,
    prompt: str,
    sampling: dict[str, float | None],
    max_new_tokens: int | None,
    seed: int | None,
    hide_thinking: bool,
    as_json: bool,
) -> None:
    """One message, answered."""
    most = CONTEXT if max_new_tokens is None else max_new_tokens
    context = min(talk.config.context_length, len(talk.prompt(user(prompt)).tokens) + most)
    session = talk.session(model, sampling, context, most, seed)
    deltas = session.answer(user(prompt))
    if not as_json:
        Screen(hide_thinking).show(deltas)
        return say_why(session)
    draft = Draft()
    draft.add(deltas)
    said = draft.message() or assistant()
    print_json(
        {
            "prompt": prompt,
            "text": said.text("aside", "text"),
            "thinking": said.text("thinking"),
            "calls": [{"name": call.name, "arguments": call.text} for call in said.calls],
            "tokens": session.n_tokens,
        }
    )
    return None


def _show(text: str) -> None:
    """Write at once."""
    sys.stdout.write(cleaned(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()
