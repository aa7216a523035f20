"""``blockzoo generate``: continue a prompt, the text appearing as it comes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import torch
import typer

from blockzoo import model as models
from blockzoo.checkpoints import from_pretrained
from blockzoo.cli.output import note, print_json
from blockzoo.config import load_config
from blockzoo.errors import InputError
from blockzoo.generation import TextStream, generate
from blockzoo.model import Decoder
from blockzoo.plugins import host
from blockzoo.registry import Registry
from blockzoo.tokenizers import Tokenizer, load_tokenizer, tokenizer_name
from blockzoo.training.run import check_device, open_run


def command(
    ref: Annotated[
        str, typer.Argument(metavar="REF", help="a checkpoint folder, a run folder, a hub id, or a config's name")
    ],
    prompt: Annotated[str, typer.Option(help="the text to continue")],
    max_new_tokens: Annotated[int, typer.Option(metavar="N", help="stop after so many tokens")] = 100,
    temperature: Annotated[float, typer.Option(help="0 is greedy; higher is wilder")] = 0.0,
    top_k: Annotated[int | None, typer.Option(metavar="K", help="draw from the K likeliest tokens only")] = None,
    top_p: Annotated[
        float | None, typer.Option(metavar="P", help="draw from the likeliest that reach P together")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="of the draws; the same seed gives the same text")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16")] = "float32",
    as_json: Annotated[
        bool, typer.Option("--json", help="print one JSON document at the end, and no text before")
    ] = False,
) -> None:
    """Continue a prompt."""
    check_device(device)
    if dtype not in ("float32", "bfloat16"):
        raise InputError(f"--dtype {dtype}: float32 or bfloat16")
    model, tokenizer = open_model(ref, device, getattr(torch, dtype), registry=host().registry)
    stream, text = TextStream(tokenizer), ""
    tokens = generate(
        model,
        tokenizer.encode(prompt),
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        stop=tokenizer.stop_tokens,
        n_tokens=min(tokenizer.n_tokens, model.config.vocab_size),
    )
    if not as_json:
        _show(prompt)
    count = 0
    for count, token in enumerate(tokens, start=1):
        piece = stream.push(token)
        text += piece
        if not as_json:
            _show(piece)
    rest = stream.close()
    if as_json:
        print_json({"prompt": prompt, "text": text + rest, "tokens": count})
    else:
        _show(rest + "\n")


def open_model(ref: str, device: str, dtype: torch.dtype, *, registry: Registry) -> tuple[Decoder, Tokenizer]:
    """The model and tokenizer that a reference means. A config's name gives random weights, with a warning."""
    path = Path(ref)
    if run := open_run(path):
        if not run.model.is_dir():
            state = run.status()["state"]
            raise InputError(f"{path}: this run is {state}, it has no trained model yet; go on training it first")
        path = run.model
    if path.is_dir():
        model = from_pretrained(path, device=device, dtype=dtype, registry=registry)
        return model, load_tokenizer(str(path), registry=registry)
    config = load_config(ref, registry=registry)
    note(
        f"blockzoo: warning: {config.name} is a config without weights; they are drawn at random, so the text will be noise"
    )
    tokenizer = load_tokenizer(tokenizer_name(config, registry=registry), registry=registry)
    return models.build(config, registry=registry, device=device, dtype=dtype), tokenizer


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
