"""``blockzoo convert``: write a checkpoint in another layout, with its tokenizer files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blockzoo.cli.output import note
from blockzoo.errors import InputError, nearest
from blockzoo.plugins import host

DTYPES = ("stored", "float32", "bfloat16", "float16")


def command(
    source: Annotated[str, typer.Argument(metavar="SRC", help="a checkpoint folder or a hub id, in any known layout")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="the folder to write: whole, or not at all")],
    to: Annotated[str, typer.Option(help="the layout: hf, original (gpt-oss) or native")],
    dtype: Annotated[str, typer.Option(help="of float weights: stored, float32, bfloat16 or float16")] = "stored",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="change the config: blocks.experts.quantizer=mxfp4 packs gpt-oss's experts",
        ),
    ] = None,
) -> None:
    """Write a checkpoint in another layout."""
    import torch

    from blockzoo.checkpoints import from_pretrained, hub, save_pretrained
    from blockzoo.checkpoints.atomic import write_file
    from blockzoo.checkpoints.folder import open_file, path_in
    from blockzoo.cli.reading import overrides_of

    if dtype not in DTYPES:
        raise InputError(f"--dtype {dtype}{nearest(dtype, DTYPES)}")
    registry = host().registry
    folder = hub.local_folder(source)
    if destination.resolve() == folder.resolve():
        raise InputError(f"{destination}: is the source; choose another folder")
    model = from_pretrained(
        folder,
        registry=registry,
        dtype="stored" if dtype == "stored" else getattr(torch, dtype),
        overrides=overrides_of(settings or []),
    )
    save_pretrained(model, destination, layout=to, registry=registry)
    for name in (*hub.TOKENIZER, "generation_config.json"):
        if (folder / name).exists():
            with open_file(path_in(folder, name)) as file:
                write_file(destination / name, file.read())
    note(f"{destination}: {model.config.name} in layout {to}")
