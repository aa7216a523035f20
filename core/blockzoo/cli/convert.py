"""``blockzoo convert``: write a checkpoint in another layout, with its tokenizer files; or one of random weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blockzoo.cli.output import gigabytes, note
from blockzoo.errors import BlockzooError, InputError, nearest
from blockzoo.plugins import host

if TYPE_CHECKING:
    from blockzoo.registry import Registry

DTYPES = ("stored", "float32", "bfloat16", "float16")


def command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="a checkpoint folder or a hub id, in any known layout; a run's folder; with --random any model",
        ),
    ],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="the folder to write: whole, or not at all")],
    to: Annotated[
        str | None,
        typer.Option("--to", "--layout", help="the layout: hf, original (gpt-oss) or native; --random: default hf"),
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="of float weights: stored (--random: bfloat16), float32, bfloat16 or float16")
    ] = "stored",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="change the config: blocks.experts.quantizer=mxfp4 packs gpt-oss's experts",
        ),
    ] = None,
    quantize: Annotated[
        list[str] | None,
        typer.Option(metavar="PART=QUANTIZER", help="how weights are stored, as for `blockzoo plan`: rest=int8"),
    ] = None,
    random: Annotated[
        bool, typer.Option("--random", help="write random weights of SRC's shape: a shipped name, a file or a folder")
    ] = False,
    seed: Annotated[int | None, typer.Option(metavar="N", help="of the random weights; default 0")] = None,
) -> None:
    """Write a checkpoint in another layout, or one of random weights."""
    if dtype not in DTYPES:
        raise InputError(f"--dtype {dtype}{nearest(dtype, DTYPES)}")
    registry = host().registry
    if random:
        _random(source, destination, to, dtype, settings or [], quantize or [], seed or 0, registry)
        return
    if seed is not None:
        raise InputError("--seed is of random weights: say --random too, or leave it out")
    if to is None:
        raise InputError("--to is missing: the layout to write, such as hf or native")
    _convert(source, destination, to, dtype, settings or [], quantize or [], registry)


def _convert(
    source: str, destination: Path, to: str, dtype: str, settings: list[str], quantize: list[str], registry: Registry
) -> None:
    import torch

    from blockzoo.checkpoints import hub
    from blockzoo.checkpoints.convert import convert
    from blockzoo.cli.bar import megabytes
    from blockzoo.cli.opening import folder_of_run
    from blockzoo.cli.quantizing import quantizers_of
    from blockzoo.cli.reading import overrides_of
    from blockzoo.memory_plan import quantized

    folder = hub.local_folder(folder_of_run(source))
    _check_apart(folder, destination)
    quantizers = quantizers_of(str(folder), quantize, registry, settings)
    tokenizer, lacking = _tokenizer(folder, to, settings, registry)
    with megabytes(destination.name) as progress:
        config = convert(
            folder,
            destination,
            registry=registry,
            layout=to,
            dtype="stored" if dtype == "stored" else getattr(torch, dtype),
            overrides=overrides_of(settings),
            change=lambda config: quantized(config, quantizers),
            beside=tokenizer,
            progress=progress,
        )
    note(f"{destination}: {config.name} in layout {to}, read again and found the same{lacking}")


def _tokenizer(folder: Path, layout: str, settings: list[str], registry: Registry) -> tuple[dict[str, bytes], str]:
    """The tokenizer's files, where the source has none and the layout can't name it; and what to say of it.

    A tokenizer that the config names was chosen, so it must be had; a family's own is known to who reads the layout.
    """
    from blockzoo.checkpoints import read_config
    from blockzoo.checkpoints.beside import names_beside
    from blockzoo.checkpoints.hub import TOKENIZER
    from blockzoo.cli.reading import overrides_of
    from blockzoo.tokenizers import tokenizer_files, tokenizer_name

    overrides = overrides_of(settings)
    has_one = set(names_beside(folder)) & set(TOKENIZER) and "tokenizer" not in overrides
    if layout == "native" or has_one:
        return {}, ""
    config = read_config(folder, registry=registry, overrides=overrides)
    if config.tokenizer is None and layout != "hf":  # published without
        return {}, ""
    try:
        found = tokenizer_files(config, registry=registry)
    except BlockzooError:
        if config.tokenizer is not None:
            raise
        return {}, f"; {_without(tokenizer_name(config, registry=registry))}"
    return found, f"; with {', '.join(found)} of its tokenizer"


def _random(
    source: str,
    destination: Path,
    to: str | None,
    dtype: str,
    settings: list[str],
    quantize: list[str],
    seed: int,
    registry: Registry,
) -> None:
    import torch

    from blockzoo.checkpoints.beside import names_beside
    from blockzoo.checkpoints.random_weights import write_random
    from blockzoo.cli.bar import megabytes
    from blockzoo.cli.opening import folder_of_run
    from blockzoo.cli.quantizing import quantizers_of
    from blockzoo.cli.reading import read_model
    from blockzoo.memory_plan import quantized
    from blockzoo.tokenizers import tokenizer_name

    source = folder_of_run(source)
    _check_apart(Path(source), destination)
    config = quantized(read_model(source, registry, settings), quantizers_of(source, quantize, registry, settings))
    layout = to or ("native" if config.family is None else "hf")
    name = tokenizer_name(config, registry=registry)
    folder = next((Path(ref) for ref in (source, name) if Path(ref).is_dir()), None)
    with megabytes(config.name) as progress:
        written = write_random(
            config,
            destination,
            registry=registry,
            layout=layout,
            seed=seed,
            dtype=torch.bfloat16 if dtype == "stored" else getattr(torch, dtype),
            source=folder,
            progress=progress,
        )
    copied = [] if folder is None else names_beside(folder)
    said = f"with {', '.join(copied)}" if copied else _without(name)
    note(f"{destination}: random weights of {config.name} in layout {layout}, {gigabytes(written)}; {said}")


def _without(name: str) -> str:
    return f"no tokenizer files are written: its tokenizer is '{name}'"


def _check_apart(source: Path, destination: Path) -> None:
    there = os.path.exists(source) and os.path.exists(destination)  # a config's name is no folder
    if there and os.path.samefile(source, destination):
        raise InputError(f"{destination}: is the source; choose another folder")
