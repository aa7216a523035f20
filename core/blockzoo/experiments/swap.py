"""The swap matrix: each block of a plugin in every slot it fits of three small architectures, beside the stock block.

A trial builds the model, trains it for a moment on text of Python's own documentation, and decodes with a cache. It
shows what builds, learns and decodes, and at what cost; it proves nothing about quality at size.

Axes: B sequences, T tokens.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blockzoo.accounting import account
from blockzoo.blocks import BlockConfig, Dims, FFNConfig, PositionConfig, QuantizerConfig
from blockzoo.building import build, empty
from blockzoo.config import ModelConfig, dump_block, load_config
from blockzoo.faults import explained
from blockzoo.importing import one_line
from blockzoo.kernels import Call, Capabilities, Kernel, Slot, ask
from blockzoo.linear import EXPERT_LINEAR, LINEAR
from blockzoo.model import Decoder
from blockzoo.registry import Component, Registry
from blockzoo.step import PHASES

D_MODEL, CONTEXT, BATCH = 64, 64, 8
LEARNING_RATE = 3e-3
LEARNED = 0.9
"""The held-out loss must fall to this share of what it was."""
DECODE_TOLERANCE = 1e-4
"""Greatest error of cached logits over the greatest logit, float32."""
SEED = 0
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Architecture:
    """A shipped model made small. ``attention`` and ``ffn``: its names for a mixer and an ffn."""

    name: str
    base: str
    attention: str
    ffn: str
    overrides: Mapping[str, Any]


_SMALL = {"family": None, "vocab_size": 256, "context_length": CONTEXT, "d_model": D_MODEL, "layers.count": 2}
ARCHITECTURES = (
    Architecture(
        "gpt2",
        "gpt2",
        "attention",
        "dense",
        _SMALL
        | {"blocks.attention.n_heads": 4, "blocks.attention.dropout": 0.0, "blocks.dense.d_ff": 4 * D_MODEL}
        | {"embedding.dropout": 0.0, "residual.dropout": 0.0},
    ),
    Architecture(
        "qwen3",
        "qwen3-0.6b",
        "attention",
        "dense",
        _SMALL
        | {"blocks.attention.n_heads": 4, "blocks.attention.n_kv_heads": 2, "blocks.attention.head_dim": 16}
        | {"blocks.dense.d_ff": 3 * D_MODEL},
    ),
    Architecture(
        "gpt_oss",
        "gpt-oss-20b",
        "full",
        "experts",
        _SMALL
        | {"blocks.full.n_heads": 4, "blocks.full.n_kv_heads": 2, "blocks.full.head_dim": 16}
        | {"blocks.sliding.window": 16, "blocks.gate.d_ff": D_MODEL, "position.scaling": None}
        | {"blocks.experts.n_experts": 4, "blocks.experts.top_k": 2, "blocks.experts.quantizer": None},
    ),
)


@dataclass(frozen=True)
class Trial:
    """One combination. ``component`` is empty for the stock model; ``sample``: which of a block's several it is."""

    architecture: Architecture
    component: str = ""
    slot: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    kernels: Mapping[str, str] = field(default_factory=dict)
    trains: bool = True
    sample: str = ""


@dataclass(frozen=True)
class Result:
    """What became of a trial. What wasn't reached is None, and ``error`` says why: one line with the stage in front.

    Losses in nats a byte on held-out text; ``decode_error``: greatest error of cached logits over the greatest logit;
    FLOPs and cache at the small context; times in seconds on this machine.
    """

    architecture: str
    component: str
    slot: str
    sample: str = ""
    error: str | None = None
    builds: bool = False
    loss_before: float | None = None
    loss_after: float | None = None
    decode_error: float | None = None
    tokens_per_second: float | None = None
    parameters: int | None = None
    weight_bytes: int | None = None
    flops_per_token: int | None = None
    cache_bytes: int | None = None
    step_seconds: float | None = None

    @property
    def learns(self) -> bool | None:
        """None where it wasn't trained: a kernel that is forward only."""
        if self.loss_before is None or self.loss_after is None:
            return None if self.error is None else False
        return self.loss_after < LEARNED * self.loss_before

    @property
    def decodes(self) -> bool:
        return self.decode_error is not None and self.decode_error <= DECODE_TOLERANCE


def trials(plugin: str, registry: Registry) -> list[Trial]:
    """Every combination of a plugin, each architecture's stock model first."""
    found: list[Trial] = []
    for architecture in ARCHITECTURES:
        own = [t for c in registry.components(plugin) for t in _trials_of(c, architecture, registry)]
        found += [Trial(architecture), *own] if own else []
    return found


def run(trial: Trial, registry: Registry, steps: int) -> Result:
    """Build, train, decode. Never raises for what a block does wrong."""
    result = Result(trial.architecture.name, trial.component, trial.slot, trial.sample)
    stage = "config"
    try:
        config = load_config(
            trial.architecture.base, {**trial.architecture.overrides, **trial.overrides}, registry=registry
        )
        result = replace(result, **_costs(config))
        stage = "build"
        model = build(config, registry=registry, seed=SEED, trainable=trial.trains, kernels=trial.kernels)
        result = replace(result, builds=True)
        if trial.trains:
            stage = "train"
            before, after, seconds = _train(model, steps)
            result = replace(result, loss_before=before, loss_after=after, step_seconds=seconds)
        stage = "decode"
        error, speed = _decode(model)
        return replace(result, decode_error=error, tokens_per_second=speed)
    except Exception as error:
        return replace(result, error=f"{stage}: {one_line(explained(error, registry))}")


# --- which slots ---


def _trials_of(component: Component, architecture: Architecture, registry: Registry) -> Iterator[Trial]:
    thing = registry.get(component.kind, component.canonical)
    name = f"{component.kind}/{component.name}"
    if component.kind == "kernel":
        op, kernel = thing
        if op in ops_of(architecture, registry):
            trains = kernel.backward and op not in (LINEAR.name, EXPERT_LINEAR.name)  # stored weights don't train
            for quantizer in _weights_of(op, kernel, registry):
                packed = {} if quantizer is None else {"quantizer": dump_block(quantizer, registry)}
                over = "" if quantizer is None else f" over {registry.name_of(type(quantizer), 'quantizer')}"
                yield Trial(architecture, name, f"op {op}{over}", packed, {op: kernel.name}, trains)
    elif isinstance(thing, type) and issubclass(thing, BlockConfig):
        sample = _sample(thing, _shapes_of(architecture, registry) if issubclass(thing, QuantizerConfig) else ())
        which = _shown(sample, registry)
        for slot, overrides in _placements(sample, architecture, registry):
            yield Trial(architecture, name, slot, overrides, sample=which)


def ops_of(architecture: Architecture, registry: Registry) -> set[str]:
    """The ops that the stock model uses: it has no place for a kernel of another."""
    modules = _stock(architecture, registry).modules()
    return {LINEAR.name, *(module.op.name for module in modules if isinstance(module, Slot))}


def _stock(architecture: Architecture, registry: Registry) -> nn.Module:
    """The stock model. No weight is allocated."""
    config = load_config(architecture.base, architecture.overrides, registry=registry)
    return empty(config, registry=registry, device="meta")


def _shapes_of(architecture: Architecture, registry: Registry) -> Sequence[Shape]:
    """Of the stock model's matrices, which a quantizer is to pack."""
    shapes = (tuple(parameter.shape) for parameter in _stock(architecture, registry).parameters())
    return list(dict.fromkeys(shape for shape in shapes if len(shape) > 1))


def _weights_of(op: str, kernel: Kernel, registry: Registry) -> Sequence[QuantizerConfig | None]:
    """How the weights are stored where a kernel is tried: plain (None), and by the first quantizer that it reads.

    One of the two only where it refuses the other; plain where it refuses all, for the reasons.
    """
    shapes = {LINEAR.name: (D_MODEL, D_MODEL), EXPERT_LINEAR.name: (4, D_MODEL, D_MODEL)}
    if op not in shapes:
        return [None]
    capabilities = Capabilities.of(torch.device("cpu"))

    def reads(quantizer: BlockConfig | None) -> bool:
        static = {"quantizer": quantizer, "shape": shapes[op]}
        return any(ask(kernel, capabilities, Call(op, phase, torch.float32, static)).ok for phase in PHASES)

    shape = shapes[op]
    samples = [_sample(registry.block("quantizer", name), [shape]) for name in registry.names("quantizer")]
    packed = [sample for sample in samples if isinstance(sample, QuantizerConfig) and reads(sample)][:1]
    return [*([None] if reads(None) or not packed else []), *packed]


def _placements(
    sample: BlockConfig, architecture: Architecture, registry: Registry
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The slots that a block fits, and what puts it there."""
    block = dump_block(sample, registry)
    match sample.kind:
        case "norm":
            yield "norm", {"norm": block}
            yield "qk_norm", {f"blocks.{architecture.attention}.qk_norm": block}
        case "mixer":
            yield "mixer", {"layers.mixer": block}
            yield "mixer, every other layer", {"layers.mixer": {"cycle": [block, architecture.attention]}}
        case "ffn":
            yield "ffn", {"layers.ffn": block}
            yield "ffn, every other layer", {"layers.ffn": {"cycle": [block, architecture.ffn]}}
            if isinstance(sample, FFNConfig) and sample.stackable and architecture.ffn == "experts":
                yield "expert", {"blocks.experts.expert": block}
        case "position":
            assert isinstance(sample, PositionConfig)
            additive = sample.form == "additive"
            yield (
                "embedding.position" if additive else "position",
                {"embedding.position": block if additive else None, "position": "none" if additive else block},
            )
        case "residual":
            yield "residual", {"residual": block}
        case "quantizer":
            yield "quantizer", {"quantizer": block}
            yield "embedding.quantizer", {"embedding.quantizer": block}


def _sample(cls: type[BlockConfig], shapes: Sequence[Shape]) -> BlockConfig:
    """The first sample without complaints about the small models' dims, and as a quantizer about these shapes."""
    samples = cls.samples()
    return next((sample for sample in samples if _fits(sample, shapes)), samples[0])


def _fits(sample: BlockConfig, shapes: Sequence[Shape]) -> bool:
    refused = isinstance(sample, QuantizerConfig) and any(map(sample.refuses, shapes))
    return not refused and not list(sample.check(Dims(D_MODEL, 2, CONTEXT)))


def _shown(sample: BlockConfig, registry: Registry) -> str:
    """Which of several a sample is, by its number and the options that it sets; nothing where it is the only one."""
    samples = type(sample).samples()
    if len(samples) == 1:
        return ""
    block = dump_block(sample, registry)
    options = ", ".join(f"{name}: {block[name]}" for name in sorted(sample.model_fields_set & block.keys()))
    return f"sample {samples.index(sample) + 1} of {len(samples)}, {{{options or 'defaults'}}}"


# --- what is done with a model ---


def _costs(config: ModelConfig) -> dict[str, Any]:
    said = account(config, CONTEXT)
    return {
        "parameters": said.parameters["total"],
        "weight_bytes": said.weight_bytes["as_configured"],
        "flops_per_token": said.flops_per_token,
        "cache_bytes": said.kv_cache_bytes(),
    }


def text() -> Tensor:
    """Bytes of Python's documentation of its own language, which every installation has: (N,) int64."""
    from pydoc_data.topics import topics

    return torch.frombuffer(bytearray("\n".join(topics.values()).encode()), dtype=torch.uint8).long()


def _batch(data: Tensor, generator: torch.Generator) -> Tensor:
    starts = torch.randint(len(data) - CONTEXT - 1, (BATCH,), generator=generator)
    return data[starts[:, None] + torch.arange(CONTEXT + 1)]  # (B, T + 1)


def _train(model: Decoder, steps: int) -> tuple[float, float, float]:
    """Held-out loss before and after, and the median seconds of a step."""
    data = text()
    held_out, data = data[: len(data) // 10], data[len(data) // 10 :]
    generator = torch.Generator().manual_seed(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    before = _evaluate(model, held_out)
    seconds = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model.train()
        for step in range(steps):
            begin = time.perf_counter()
            batch = _batch(data, generator)
            logits, aux = model(batch[:, :-1], return_aux=True)
            loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
            (loss + aux["balance_loss"] if "balance_loss" in aux else loss).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if not loss.isfinite():
                raise ArithmeticError(f"the loss is {loss.item()} at step {step + 1}")
            seconds.append(time.perf_counter() - begin)
    model.eval()
    return before, _evaluate(model, held_out), statistics.median(seconds)


@torch.no_grad()
def _evaluate(model: Decoder, held_out: Tensor) -> float:
    batch = torch.cat([_batch(held_out, torch.Generator().manual_seed(seed)) for seed in range(4)])
    loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
    if not loss.isfinite():
        raise ArithmeticError(f"the loss on held-out text is {loss.item()}")
    return loss.item()


@torch.no_grad()
def _decode(model: Decoder) -> tuple[float, float]:
    """Prefill half of a text and decode the rest, token by token: greatest relative error, and tokens a second."""
    tokens = text()[None, :CONTEXT]
    full = model(tokens)
    half = CONTEXT // 2
    cache = model.new_cache(max_length=CONTEXT)
    parts = [model(tokens[:, :half], cache=cache)]
    begin = time.perf_counter()
    parts += [model(tokens[:, index : index + 1], cache=cache) for index in range(half, CONTEXT)]
    speed = (CONTEXT - half) / (time.perf_counter() - begin)
    error = (torch.cat(parts, dim=1) - full).abs().max() / full.abs().max()
    return error.item(), speed


def stock_of(result: Result, results: Sequence[Result]) -> Result | None:
    """The result of the same architecture with its own blocks."""
    return next((r for r in results if not r.component and r.architecture == result.architecture), None)
