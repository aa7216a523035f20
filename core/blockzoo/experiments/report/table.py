"""The table of a report: one column an arm, one row a property, with what the row means."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from blockzoo.experiments.report import words
from blockzoo.experiments.results import ArmResult, Results

CONTEXTS = {"1024": "1k", "8192": "8k", "32768": "32k", "131072": "128k"}
PARAMETERS = (
    ("total", "parameters", "all of them; tied embeddings count once"),
    ("non_embedding", "not embedding", "outside embedding and unembedding"),
    ("active", "active", "that a token meets: chosen experts only, the embedding's lookup left out"),
    ("embedding", "embedding", "of tokens and learned positions"),
    ("unembedding", "unembedding", "0 where it is tied to the embedding"),
    ("mixer", "mixers", "attention or what stands for it"),
    ("ffn", "ffns", "feed-forward networks, experts and routers too"),
    ("experts", "experts", "of the ffns: in routed experts"),
    ("experts_active", "experts, active", "of the ffns: in the experts that a token chooses"),
    ("other", "other", "norms and the rest"),
)


@dataclass(frozen=True)
class Row:
    """``cells`` in the order of the results' arms; ``key`` is its name in CSV files."""

    group: str
    key: str
    label: str
    meaning: str
    cells: tuple[str, ...]
    values: tuple[Any, ...]


Get = Callable[[ArmResult], Any]


@dataclass(frozen=True)
class Spec:
    """A row before its arms are known: how to get a value and how to show it."""

    key: str
    label: str
    meaning: str
    get: Get
    show: Callable[[Any], str] = str


def rows(results: Results) -> list[Row]:
    """Rows of which no arm has anything are left out."""
    found = []
    for group, specs in SECTIONS.items():
        for spec in specs(results):
            values = tuple(spec.get(arm) for arm in results.arms)
            cells = tuple("" if value is None else spec.show(value) for value in values)
            found.append(Row(group, spec.key, spec.label, spec.meaning, cells, values))
    return [row for row in found if any(row.cells)]


def _verdict(results: Results) -> Iterator[Spec]:
    record = results.record
    sure = words.percent(1 - record.statistics.level)
    mean = f"held out; mean ± half the {sure} t-interval (runs)"
    yield Spec(record.metric, words.metric_name(results), mean, _sample_mean)
    yield Spec("sigma", "deviation", "of the metric, between seeds", lambda arm: arm.sample.sigma, _digits(2))
    yield Spec(
        "train_loss", "training loss", "nats a token, the last twentieth of steps", _field("train_loss"), _digits(4)
    )
    for extra in sorted(_extra_figures(results)):
        yield Spec(extra, extra.replace("_", " "), "held out, mean over runs", _mean_of(extra), _digits(4))
    yield Spec("effect", f"less {record.baseline}", "the difference of means, paired where seeds are shared", _effect)
    yield Spec("interval", "t-interval", f"holds the true difference in {sure}, each by itself", _interval("interval"))
    yield Spec("bootstrap", "bootstrap", "BCa, takes no figure for normal; from 3 seeds on", _interval("bootstrap"))
    yield Spec("p_holm", "p, corrected", "by Holm for the number of arms", _difference("p_holm"), _digits(2))
    found = f"the smallest difference found with a chance of {words.percent(record.statistics.power)}"
    yield Spec("detectable", "detectable", found, _difference("detectable"), _digits(2))
    yield Spec("verdict", "verdict", "", _difference("verdict"))


def _shape(results: Results) -> Iterator[Spec]:
    yield Spec("n_layers", "layers", "depth", _account("n_layers"), _count)
    yield Spec("d_model", "width", "d_model", _account("d_model"), _count)
    yield Spec("aspect_ratio", "width / depth", "aspect ratio", _account("aspect_ratio"), _digits(3))
    for key, label in (("n_heads", "heads"), ("d_ff", "d_ff"), ("n_experts", "experts")):
        yield Spec(key, label, "", _account(key), _count)


def _parameters(results: Results) -> Iterator[Spec]:
    for key, label, meaning in PARAMETERS:
        yield Spec(f"parameters_{key}", label, meaning, _inside("parameters", key), _count)


def _budget(results: Results) -> Iterator[Spec]:
    context, baseline = results.record.context, results.record.baseline
    yield Spec("lr", "learning rate", "of the verdict runs", lambda arm: arm.record.lr, _digits(4))
    forward = f"forward, at a context of {context}"
    yield Spec("flops_per_token", "FLOPs a token", forward, _account("flops_per_token"), words.short)
    yield Spec("training_flops", "training FLOPs", "of a run", _account("training_flops"), words.short)
    yield Spec("tokens", "tokens", "trained on", _field("tokens"), words.short)
    yield Spec("seconds", "seconds", "of training; evaluation and saving left out", _field("seconds"), _digits(4))
    yield Spec("turned", "solved for", "knobs that the solver turned", _turned)
    for axis in sorted({axis for arm in results.arms for axis in arm.record.mismatch}):
        label = f"mismatch, {words.AXES.get(axis, axis)}"
        yield Spec(f"mismatch_{axis}", label, f"over {baseline}'s, less one", _mismatch(axis), _share)


def _speed(results: Results) -> Iterator[Spec]:
    for key, label, meaning in (
        ("train", "training", "tokens a second"),
        ("prefill", "prefill", "tokens a second, one sequence"),
        ("decode", "decoding", "tokens a second, one sequence"),
    ):
        yield Spec(f"{key}_tokens_per_second", label, meaning, _field(f"{key}_tokens_per_second"), _count)
    held = "training's, above what the process held before; libraries loaded meanwhile too"
    yield Spec("peak_memory_bytes", "peak memory", held, _field("peak_memory_bytes"), _bytes)
    for dtype in dict.fromkeys(key for arm in results.arms for key in arm.account["weight_bytes"]):
        label = f"weights, {dtype.replace('_', ' ')}"
        yield Spec(f"weight_bytes_{dtype}", label, "", _inside("weight_bytes", dtype), _bytes)
    for context, label in CONTEXTS.items():
        get = _inside("kv_cache_bytes", context)
        yield Spec(f"kv_cache_bytes_{context}", f"KV cache, {label}", "bfloat16, one sequence", get, _bytes)


SECTIONS: dict[str, Callable[[Results], Iterator[Spec]]] = {
    "Verdict": _verdict,
    "Shape": _shape,
    "Parameters": _parameters,
    "Budget": _budget,
    "Speed and memory": _speed,
}


def _account(key: str) -> Get:
    return lambda arm: arm.account.get(key)


def _inside(section: str, key: str) -> Get:
    return lambda arm: arm.account[section].get(key)


def _difference(key: str) -> Get:
    return lambda arm: None if arm.difference is None else getattr(arm.difference, key)


def _field(name: str) -> Get:
    return lambda arm: getattr(arm, name)


def _mismatch(axis: str) -> Get:
    return lambda arm: arm.record.mismatch.get(axis)


def _turned(arm: ArmResult) -> str:
    return ", ".join(f"{knob} {value:g}" for knob, value in arm.record.turned.items())


def _sample_mean(arm: ArmResult) -> str | None:
    return None if arm.sample.mean is None else words.mean(arm.sample)


def _effect(arm: ArmResult) -> str | None:
    d = arm.difference
    return None if d is None or d.effect is None else words.signed(d.effect, d.interval)


def _interval(which: str) -> Get:
    def get(arm: ArmResult) -> str | None:
        found = None if arm.difference is None else getattr(arm.difference, which)
        return None if found is None else words.interval(found, signs=True)

    return get


def _extra_figures(results: Results) -> set[str]:
    """Figures of tasks beside the metric: whatever else is measured on held-out tokens."""
    own = {"train_loss", "steps", "tokens", "seconds", "tokens_per_second", results.record.metric}
    done = [run for arm in results.arms for run in arm.runs if run.state == "done"]
    return {key for run in done for key, value in run.figures.items() if key not in own and isinstance(value, float)}


def _mean_of(figure: str) -> Get:
    def get(arm: ArmResult) -> float | None:
        values = [run.figures[figure] for run in arm.runs if figure in run.figures]
        return sum(values) / len(values) if values else None

    return get


def _digits(n: int) -> Callable[[Any], str]:
    return lambda value: f"{value:.{n}g}".replace("-", words.MINUS) if abs(value) < 1e5 else f"{value:,.0f}"


def _share(value: float) -> str:
    return f"{100 * value:+.2f} %".replace("-", words.MINUS)


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _bytes(value: float) -> str:
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} B"
