"""``blockzoo generate``: continue a prompt, the text appearing as it comes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from blockzoo import building
from blockzoo.checkpoints import from_pretrained
from blockzoo.cli.output import note, print_json
from blockzoo.config import load_config
from blockzoo.config.shipped import SUFFIXES, shipped
from blockzoo.errors import InputError, nearest
from blockzoo.generation import TextStream, generate
from blockzoo.model import Decoder
from blockzoo.plugins import host
from blockzoo.registry import Registry
from blockzoo.tokenizers import Tokenizer, load_tokenizer, tokenizer_name
from blockzoo.training.run import open_run

DTYPES: dict[str, torch.dtype | Literal["stored"]] = {
    "stored": "stored",
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
}


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
    dtype: Annotated[str, typer.Option(help="stored, float32 or bfloat16")] = "stored",
    as_json: Annotated[
        bool, typer.Option("--json", help="print one JSON document at the end, and no text before")
    ] = False,
) -> None:
    """Continue a prompt."""
    building.check_device(device)
    if dtype not in DTYPES:
        raise InputError(f"--dtype {dtype}{nearest(dtype, DTYPES)}")
    model, tokenizer = open_model(ref, device, DTYPES[dtype], registry=host().registry)
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


def open_model(
    ref: str, device: str, dtype: torch.dtype | Literal["stored"], *, registry: Registry
) -> tuple[Decoder, Tokenizer]:
    """The model and tokenizer that a reference means. A config's name gives random weights, with a warning."""
    if run := open_run(Path(ref)):
        if not run.model.is_dir():
            state = run.status()["state"]
            raise InputError(f"{ref}: this run is {state}, it has no trained model yet; go on training it first")
        ref = str(run.model)
    is_config = ref in shipped(registry) or ref.endswith(SUFFIXES) or "/" not in ref
    if Path(ref).is_dir() or not is_config:
        model = from_pretrained(ref, device=device, dtype=dtype, registry=registry)
        return model, load_tokenizer(ref, registry=registry)
    config = load_config(ref, registry=registry)
    note(f"blockzoo: warning: {config.name} is a config without weights: they are drawn at random, the text is noise")
    tokenizer = load_tokenizer(tokenizer_name(config, registry=registry), registry=registry)
    floats = torch.float32 if dtype == "stored" else dtype
    return building.build(config, registry=registry, device=device, dtype=floats), tokenizer


def _show(text: str) -> None:
    """Write at once. What could steer a terminal is made visible: a model may say anything."""
    if sys.stdout.isatty():
        text = "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text)
    sys.stdout.write(text)
    sys.stdout.flush()
