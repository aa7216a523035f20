"""``blockzoo bench``: decoding, prompts, loading and training, each beside what the machine allows and beside peers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from blockzoo.cli.opening import MapAll, MapEmbedding, mapped_of
from blockzoo.cli.output import gigabytes, note, print_json
from blockzoo.cli.quantizing import HELP, quantizers_of
from blockzoo.cli.reading import overrides_of, read_model
from blockzoo.errors import InputError, nearest
from blockzoo.plugins import host

if TYPE_CHECKING:
    import torch

    from blockzoo.bench.conduct import Ask
    from blockzoo.bench.subject import Subject
    from blockzoo.registry import Registry

DTYPES = ("stored", "float32", "bfloat16")


def command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="a checkpoint folder, a run folder, a hub id; or a config's name: random weights at its shape",
        ),
    ],
    prompt_tokens: Annotated[int, typer.Option(metavar="N", help="tokens of the prompt, drawn at random")] = 512,
    new_tokens: Annotated[int, typer.Option(metavar="N", help="tokens decoded after it, greedily")] = 64,
    repeats: Annotated[int, typer.Option(metavar="N", help="of each side; the median counts")] = 3,
    dtype: Annotated[str, typer.Option(help="of floats: stored, float32 or bfloat16")] = "stored",
    mapped: MapAll = False,
    map_embedding: MapEmbedding = False,
    quantize: Annotated[list[str] | None, typer.Option(metavar="PART=QUANTIZER", help=f"our side: {HELP}")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="change the config, dotted key")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(metavar="N", help="CPU threads of every side; default: torch's")
    ] = None,
    measure: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="of decode, prefill, load, training, error; default: the first three"),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PEER",
            help="transformers, transformers-compiled or llama.cpp on the same weights; repeatable",
        ),
    ] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="after which a side is given up")] = 1800.0,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document: every single value")] = False,
) -> None:
    """Measure how fast a model decodes, reads a prompt, loads and trains, beside the machine's roof and peers."""
    import torch

    from blockzoo.bench.conduct import DEFAULT_MEASURES, OURS, Ask, conduct, peers_of
    from blockzoo.bench.document import document
    from blockzoo.bench.machine import describe
    from blockzoo.cli.bench_table import show
    from blockzoo.memory_plan import check_mapped_table

    registry = host().registry
    ask = Ask(
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        repeats=repeats,
        threads=torch.get_num_threads() if threads is None else threads,
        mapped=mapped_of(mapped, map_embedding),
        quantize=tuple(quantize or ()),
        measures=DEFAULT_MEASURES if measure is None else tuple(measure.split(",")),
        timeout=timeout,
    )
    peers = peers_of(list(dict.fromkeys(against or ())))
    machine = describe(ask.threads)
    with ExitStack() as stack:
        subject = _subject(model, dtype, settings or [], ask, stack, registry)
        if ask.mapped == "embedding":
            check_mapped_table(subject.config)
        outcome = conduct(subject, ask, peers, registry=registry, say=lambda text: note(f"blockzoo: {text}"))
        found = document(subject, ask, outcome, model, machine, registry=registry)
    if as_json:
        print_json(found)
    else:
        show(found)
    if any(side.failed for side in outcome.sides if side.name == OURS):
        raise typer.Exit(1)


def _subject(ref: str, dtype: str, settings: Sequence[str], ask: Ask, stack: ExitStack, registry: Registry) -> Subject:
    """The model that a reference means; random weights, where it has none, go into a folder that ``stack`` removes."""
    import torch

    from blockzoo.bench.subject import drawn, of_folder
    from blockzoo.cli.bar import megabytes

    if dtype not in DTYPES:
        raise InputError(f"--dtype {dtype}{nearest(dtype, DTYPES)}")
    floats: torch.dtype | None = None if dtype == "stored" else getattr(torch, dtype)
    folder = _folder(ref, registry)
    place = ref if folder is None else str(folder)
    config, quantizers = read_model(place, registry, settings), quantizers_of(place, ask.quantize, registry, settings)
    if ask.capacity > config.context_length:
        raise InputError(
            f"prompt and new tokens are {ask.capacity} together, the context of '{config.name}' is"
            f" {config.context_length}: lower --prompt-tokens or --new-tokens"
        )
    if folder is not None:
        return of_folder(folder, overrides_of(settings), quantizers, floats, registry=registry)
    scratch = Path(stack.enter_context(TemporaryDirectory(prefix="blockzoo-bench-")))
    note(
        f"blockzoo: {config.name} is a config without weights: random ones are written to {scratch} for the time being"
    )
    with megabytes(config.name) as progress:
        drawn(config, scratch / config.name, floats or torch.bfloat16, registry=registry, progress=progress)
    subject = of_folder(scratch / config.name, {}, quantizers, floats, registry=registry, random=True)
    note(f"blockzoo: {gigabytes(subject.weight_bytes)} are written")
    return subject


def _folder(ref: str, registry: Registry) -> Path | None:
    """The folder of weights that a reference means; None for a config."""
    from blockzoo.checkpoints import hub
    from blockzoo.config.shipped import SUFFIXES, shipped
    from blockzoo.training.folder import open_run

    run = open_run(Path(ref))
    if run is not None:
        if not run.model.is_dir():
            raise InputError(f"{ref}: this run has no trained model yet; go on training it first")
        return run.model
    if not Path(ref).is_dir() and (ref in shipped(registry) or ref.endswith(SUFFIXES) or "/" not in ref):
        return None
    return hub.local_folder(ref)
