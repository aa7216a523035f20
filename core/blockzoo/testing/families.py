"""What a family of checkpoints owes: what it loads it saves again, bit for bit, and computes what was recorded."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from blockzoo.building import build
from blockzoo.checkpoints import from_pretrained, save_pretrained
from blockzoo.checkpoints.family import Family, Sample
from blockzoo.checkpoints.folder import stored_tensors
from blockzoo.checkpoints.tensors import wanted
from blockzoo.checkpoints.variants import keys_behind
from blockzoo.config import load_config
from blockzoo.config.schema import ModelConfig
from blockzoo.errors import CheckpointError, ConfigError
from blockzoo.plugins import host
from blockzoo.registry import Registry
from blockzoo.testing.check import CheckFailed, CheckSkipped, need, need_close

TOKENS = torch.arange(24).view(2, 12) * 7
RECORDED = 2e-5  # of the greatest logit, float32
ROUNDED = 1e-4  # of the greatest logit: how much what was recorded may be rounded by
CAUSES = (
    "likely in the key map: tensors of one shape swapped, a fused one cut in another order or along another axis, a"
    " matrix not transposed, a head tied or not; or in the config: eps, theta, part of a head rotated (fraction),"
    " pairs interleaved or in halves, attention's scale, gelu or gelu_tanh, where a norm stands"
)


@dataclass(frozen=True)
class FamilySubject:
    """One sample of one layout, by its number among them, from 1."""

    family: Family
    layout: str
    sample: Sample
    registry: Registry
    number: int = 1

    @property
    def label(self) -> str:
        count = len(self.family.layouts[self.layout].samples)
        which = f", sample {self.number} of {count}" if count > 1 else ""
        return f"{self.family.name}, layout {self.layout}{which}"

    def config(self) -> ModelConfig:
        return self.model_of(self.sample.config_json, "config.json")

    def model_of(self, config_json: Mapping[str, Any], what: str) -> ModelConfig:
        """What it is read as. Raises CheckFailed, with the keys that are behind it, where that is no model."""
        try:
            return self.reads(config_json)
        except ConfigError as error:
            message = error.problems[0].message
            place = message.partition(": ")[0]
            keys = keys_behind(place, config_json, self.family.layouts[self.layout].read_config)
            said = f"; {place} comes from {what}'s {', '.join(map(repr, keys))}" if keys else ""
            raise CheckFailed(f"what read_config makes of {what} is no model: {message}{said}") from error

    def reads(self, config_json: Mapping[str, Any]) -> ModelConfig:
        said = self.family.layouts[self.layout].read_config(config_json)
        return load_config({"name": "sample", **said}, registry=self.registry)

    @contextmanager
    def folder(self, dtype: torch.dtype) -> Iterator[Path]:
        """A folder with the sample as the checkpoint ``a``."""
        with tempfile.TemporaryDirectory() as folder:
            write_sample(self.config(), Path(folder) / "a", self.registry, self.layout, dtype)
            yield Path(folder)


def write_sample(
    config: ModelConfig,
    folder: str | Path,
    registry: Registry | None = None,
    layout: str = "hf",
    dtype: torch.dtype = torch.float32,
    config_json: Mapping[str, Any] | None = None,
) -> None:
    """The checkpoint that a sample is about: each tensor's values follow from its stored name alone.

    So a key map that swaps two of them, there and back, is seen. Let another implementation read it, and record the
    first of its logits after the last token of the last row of ``TOKENS % vocab_size``. ``registry``: default: the
    process-wide one. ``config_json``: the sample's own, so that the other implementation fills in the keys that it
    leaves out; default: what the layout writes, with every key.
    """
    registry, folder = host().registry if registry is None else registry, Path(folder)
    save_pretrained(build(config, registry=registry, dtype=dtype), folder, registry=registry, layout=layout)
    if config_json is not None:
        file = folder / "config.json"
        named = {"dtype": name} if (name := json.loads(file.read_text()).get("dtype")) else {}
        file.write_text(json.dumps({**config_json, **named}))
    stored = {name: tensor.read() for name, tensor in stored_tensors(folder).items()}
    _rewrite(folder, {name: _values(name, tensor) for name, tensor in stored.items()})


def _values(name: str, like: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big"))
    if not like.is_floating_point():  # packed: bytes that stand for something, in another order
        return like.flatten()[torch.randperm(like.numel(), generator=generator)].view_as(like)
    noise = 0.1 * torch.randn(like.shape, generator=generator)
    return (noise + 0.5 if like.dim() == 1 else noise).to(like.dtype)


def _rewrite(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    for old in folder.glob("*.safetensors*"):
        old.unlink()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")


def subjects_of(family: Family, registry: Registry) -> Sequence[FamilySubject]:
    found = [
        FamilySubject(family, name, sample, registry, number)
        for name, layout in family.layouts.items()
        for number, sample in enumerate(layout.samples, start=1)
    ]
    if not found:
        raise CheckSkipped(
            "its layouts bring no samples: give Layout(samples=(Sample(config_json),)) a tiny config.json"
        )
    return found


def _contents(folder: Path) -> dict[str, tuple[torch.dtype, tuple[int, ...], bytes]]:
    """Name -> dtype, shape, bytes."""
    stored = stored_tensors(folder).values()
    return {t.name: (t.dtype, t.shape, t.read().reshape(-1).view(torch.uint8).numpy().tobytes()) for t in stored}


def recognized(subject: FamilySubject) -> None:
    """Its config.json is claimed by this layout and by no other of any family, and this one claims no other's."""
    claims = [
        f"{family.name} ({name})"
        for family in subject.registry.families().values()
        for name, layout in family.layouts.items()
        if layout.recognizes(subject.sample.config_json)
    ]
    need(claims == [f"{subject.family.name} ({subject.layout})"], f"the sample is claimed by {claims}")
    recognizes = subject.family.layouts[subject.layout].recognizes
    for other in ({}, {"model_type": "no_such_model"}):
        need(not recognizes(other), f"claims {other}: look for your model_type")
    for family in subject.registry.families().values():
        for name, layout in family.layouts.items():
            its_own = (family.name, name) == (subject.family.name, subject.layout)
            taken = not its_own and any(recognizes(sample.config_json) for sample in layout.samples)
            need(not taken, f"claims a config.json of {family.name} ({name}): look for your model_type")


def config_round_trip(subject: FamilySubject) -> None:
    """write_config says what read_config read, key by key."""
    layout, config = subject.family.layouts[subject.layout], subject.config()
    written = layout.write_config(config)
    again = subject.model_of(written, "what write_config wrote")
    changed = [name for name in type(config).model_fields if getattr(again, name) != getattr(config, name)]
    need(not changed, f"a config written and read again differs in {', '.join(changed)}")
    for key, value in _common(subject.sample.config_json, written):
        need(written[key] == value, f"config.json's '{key}' was {value!r} and is written as {written[key]!r}")


def _common(given: Mapping[str, Any], written: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(key, value) for key, value in given.items() if key in written and not isinstance(value, (dict, list))]


def unknown_keys(subject: FamilySubject) -> None:
    """A key of config.json that it doesn't know is an error: it might change what the model computes."""
    values = {**subject.sample.config_json, "no_such_key": 1}
    try:
        subject.family.layouts[subject.layout].read_config(values)
    except CheckpointError as error:
        need("no_such_key" in str(error), f"the error for an unknown key does not name it: {error}")
    else:
        need(False, "takes a config.json with an unknown key in silence: end read_config with keys.finish()")


def finishes(subject: FamilySubject) -> bool:
    """Whether its read_config ends in ``keys.finish()``: without, nothing that a key could say wrongly is told."""
    try:
        subject.family.layouts[subject.layout].read_config({**subject.sample.config_json, "no_such_key": 1})
    except CheckpointError:
        return True
    return False


def comes_back(subject: FamilySubject) -> None:
    """Load then save gives equal names, dtypes, shapes and bytes, in float32 and bfloat16."""
    for dtype in (torch.float32, torch.bfloat16):
        with subject.folder(dtype) as folder:
            model = from_pretrained(folder / "a", registry=subject.registry)
            save_pretrained(model, folder / "b", registry=subject.registry, layout=subject.layout)
            before, after = _contents(folder / "a"), _contents(folder / "b")
            names = sorted(before.keys() ^ after.keys())
            need(not names, f"{dtype}: other names after load and save: {names[:5]}")
            changed = [name for name in before if before[name] != after[name]]
            need(not changed, f"{dtype}: not the same bytes after load and save: {changed[:5]}")


def every_key_once(subject: FamilySubject) -> None:
    """Every stored key fills a place: one missing, and one too many, are errors that name it."""
    with subject.folder(torch.float32) as folder:
        tensors = {name: stored.read() for name, stored in stored_tensors(folder / "a").items()}
        gone = sorted(tensors)[-1]
        for name, changed in (
            (gone, {k: v for k, v in tensors.items() if k != gone}),
            ("no.such.weight", {**tensors, "no.such.weight": torch.zeros(2)}),
        ):
            _rewrite(folder / "a", changed)
            try:
                from_pretrained(folder / "a", registry=subject.registry)
            except CheckpointError as error:
                need(name in str(error), f"the error for '{name}' does not name it: {error}")
            else:
                need(False, f"loads with '{name}' {'missing' if name == gone else 'too many'} in silence")


def every_rule_counts(subject: FamilySubject) -> None:
    """Every rule of the key map has a tensor in one of the samples at least: the others were never tried."""
    layout = subject.family.layouts[subject.layout]
    models = [wanted(replace(subject, sample=s, number=n).config()) for n, s in enumerate(layout.samples, start=1)]
    used = {entry.rule for model in models for entry in layout.keys.entries(model, samples=lambda: models)}
    idle = [rule for rule in layout.keys.rules if rule not in used]
    names = ", ".join(f"'{rule.stored}'" for rule in idle[:5])
    need(
        not idle,
        f"no sample has a tensor for {len(idle)} of the rules, {names}: add a Sample whose model has"
        f" '{idle[0].canonical[0] if idle else ''}', or take the rule out",
    )


def recorded_logits(subject: FamilySubject) -> None:
    """The sample's checkpoint gives the logits that were recorded from another implementation."""
    if subject.sample.logits is None:
        raise CheckSkipped(
            "nothing compares this with the original: record logits by `blockzoo plugins record`, see"
            " docs/plugin-authors/testing.md#recording-logits"
        )
    _need_a_window_that_shows(subject)
    with subject.folder(torch.float32) as folder, torch.no_grad():
        model = from_pretrained(folder / "a", registry=subject.registry)
        logits = model(TOKENS % model.config.vocab_size)[-1, -1]
    expected = torch.tensor(subject.sample.logits)
    rounded = _rounded_by(subject.sample.logits)
    need(
        rounded <= ROUNDED,
        f"its logits are recorded to {rounded:.0e} of the greatest, at most {ROUNDED:.0e}: too few digits to show a"
        " mistake; record them anew, by `blockzoo plugins record`",
    )
    need_close(logits[: len(expected)], expected, RECORDED + rounded, f"logits differ from those recorded: {CAUSES}")


def _rounded_by(logits: Sequence[float]) -> float:
    """Half a unit of the last digit that any of them has, over the greatest."""
    last = min(int(Decimal(repr(float(logit))).as_tuple().exponent) for logit in logits)
    greatest = max(map(abs, logits))
    return 0.5 * 10.0**last / greatest if greatest else 0.0


def _need_a_window_that_shows(subject: FamilySubject) -> None:
    """One window at least, of the samples with logits, is shorter than the text, where there are any."""
    samples = [sample for sample in subject.family.layouts[subject.layout].samples if sample.logits is not None]
    mixers = [layer.mixer for sample in samples for layer in replace(subject, sample=sample).config().layers]
    windows = {mixer.reach for mixer in mixers if mixer is not None and mixer.reach is not None}
    length = TOKENS.shape[1]
    need(
        not windows or min(windows) < length,
        f"its logits are of {length} tokens, its windows of {min(windows, default=0)} or more, so they can't show a"
        f" wrong one: record a sample with a window of less than {length}",
    )


CHECKS = (
    recognized,
    config_round_trip,
    unknown_keys,
    comes_back,
    every_key_once,
    every_rule_counts,
    recorded_logits,
)
