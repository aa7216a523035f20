"""``blockzoo plugins record``: what transformers computes from a family's samples, to paste, and how far we are off.

Each sample is written as a checkpoint whose values follow from the stored names; transformers reads the folder, with
the sample's own config.json: what it leaves out is transformers' to fill in, so a wrong default shows. It reads the
folder once more with the config.json that the family writes: others must be able to read what is saved.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import typer
from torch import Tensor

from blockzoo.checkpoints import from_pretrained
from blockzoo.checkpoints.config_json import TOKEN_IDS
from blockzoo.cli.output import print_json
from blockzoo.cli.plugins_record_defaults import other_defaults
from blockzoo.cli.reading import read_plugin
from blockzoo.config.schema import ModelConfig
from blockzoo.errors import InputError
from blockzoo.registry import Registry
from blockzoo.testing import CheckFailed, CheckSkipped
from blockzoo.testing.check import error_of, one_line, quiet
from blockzoo.testing.families import CAUSES, RECORDED, TOKENS, FamilySubject, subjects_of, write_sample

KEPT = 6
"""Logits of a sample that are recorded."""
DIGITS = 7
"""That count, of each: logits may be small (a logit_scale of 1/16), and float32 has no more."""
HINTS = {
    " keys: ": "transformers fills in what the sample leaves out: is a default of read_config another than its own, or"
    " a name in the key map?",
    "padding_idx": 'its pad_token_id is beyond the sample\'s vocabulary: say "pad_token_id": None in the sample',
}
"""What to do about it, by words of transformers' errors."""


@dataclass(frozen=True)
class Recorded:
    """One sample. ``logits``: transformers'; ``off``: how far ours are, over the greatest; ``error``: why
    neither, or what others make of the config.json that is saved.
    """

    sample: str
    logits: tuple[float, ...] = ()
    off: float | None = None
    error: str | None = None

    @property
    def agrees(self) -> bool:
        return self.error is None and self.off is not None and self.off <= RECORDED


def run(name: str, model_type: str | None, as_json: bool) -> None:
    """Record every sample, compare the defaults, and print. Raises InputError where the plugin has no sample, or
    transformers is missing.

    ``model_type``: what transformers is told instead of the family's own. Exit status 1 where one can't be recorded
    or is off, or where a default is another than that of the family's own model_type.
    """
    plugin, registry = read_plugin(name)
    subjects = _samples(plugin, registry)
    _need_transformers()
    found = [_recorded(subject, model_type) for subject in subjects]
    with quiet():
        defaults = list(dict.fromkeys(line for subject in subjects for line in other_defaults(subject, model_type)))
    if as_json:
        samples = [asdict(one) | {"agrees": one.agrees} for one in found]
        print_json({"plugin": plugin, "samples": samples, "defaults": defaults})
    else:
        _print(found, [_cause(one, found, subjects) for one in found], advise=model_type is None)
        for line in defaults:
            print(line)
    if (defaults and model_type is None) or not all(one.agrees for one in found):
        raise typer.Exit(1)


def _samples(plugin: str, registry: Registry) -> Sequence[FamilySubject]:
    families = [registry.get("family", c.canonical) for c in registry.components(plugin) if c.kind == "family"]
    if not families:
        raise InputError(f"plugin '{plugin}' registers no family")
    try:
        return [subject for family in families for subject in subjects_of(family, registry)]
    except CheckSkipped as reason:
        raise InputError(f"plugin '{plugin}': {reason}") from reason


def _need_transformers() -> None:
    try:
        import transformers
    except ImportError as error:
        raise InputError(
            "needs transformers: pip install transformers; or let another implementation read what"
            " blockzoo.testing.families.write_sample writes"
        ) from error
    transformers.utils.logging.disable_progress_bar()


@torch.no_grad()
def _recorded(subject: FamilySubject, model_type: str | None) -> Recorded:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "sample"
        try:
            said = subject.sample.config_json
            write_sample(subject.config(), folder, subject.registry, subject.layout, config_json=said)
            model = from_pretrained(folder, registry=subject.registry)
        except CheckFailed as failure:
            return Recorded(subject.label, error=str(failure))
        except Exception as error:
            return Recorded(subject.label, error=f"blockzoo can't write and read it: {one_line(error)}")
        tokens = TOKENS % model.config.vocab_size
        try:
            theirs = _theirs(folder, tokens, model_type)
        except Exception as error:
            return Recorded(subject.label, error=f"transformers can't: {_told(error)}")
        logits = tuple(float(f"{logit:.{DIGITS}g}") for logit in theirs[:KEPT].tolist())
        found = Recorded(subject.label, logits, error_of(model(tokens)[-1, -1], theirs))
        if not found.agrees:
            return found
        _rewrite(folder, subject, model.config)
        return replace(found, error=_other_than(theirs, folder, tokens, model_type))


def _rewrite(folder: Path, subject: FamilySubject, config: ModelConfig) -> None:
    """The config.json that the family writes, in place of the sample's."""
    ids = {key: value for key, value in subject.sample.config_json.items() if key in TOKEN_IDS}  # kept by every save
    written = {**ids, **subject.family.layouts[subject.layout].write_config(config)}
    (folder / "config.json").write_text(json.dumps(written))


def _other_than(theirs: Tensor, folder: Path, tokens: Tensor, model_type: str | None) -> str | None:
    """What is wrong with a config.json that was written: transformers must read the same model in it."""
    try:
        off = error_of(_theirs(folder, tokens, model_type), theirs)
    except Exception as error:
        return f"transformers can't read what write_config writes: {_told(error)}"
    if off <= RECORDED:
        return None
    return f"what write_config writes is another model to transformers than the sample, {off:.1e} of the logits off"


def _told(error: Exception) -> str:
    told = " ".join(str(error).split())[:200]
    return told + "".join(f"; {hint}" for words, hint in HINTS.items() if words in told.lower())


def _theirs(folder: Path, tokens: Tensor, model_type: str | None) -> Tensor:
    """Logits (V,) after the last token of the last row. ``model_type``: in place of the folder's own. Raises
    ValueError where a tensor has no place there.
    """
    from transformers import AutoModelForCausalLM

    if model_type is not None:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "model_type": model_type}))

    with quiet():
        how = {"output_loading_info": True, "ignore_mismatched_sizes": True}  # else it tells of those in its log alone
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, **how)
        model, said = loaded
        wrong = {why: sorted(map(_shown, names))[:3] for why, names in said.items() if names}
        if wrong:
            raise ValueError("; ".join(f"{why.replace('_', ' ')}: {', '.join(some)}" for why, some in wrong.items()))
        logits: Tensor = model.eval()(tokens).logits[-1, -1]
    return logits.float()


def _shown(key: Any) -> str:
    """A tensor's name; of one of another size, the stored size and the wanted one too."""
    return key if isinstance(key, str) else " ".join(str(list(part)) if i else part for i, part in enumerate(key))


def _cause(one: Recorded, found: Sequence[Recorded], subjects: Sequence[FamilySubject]) -> str:
    """Where a sample with more keys agrees, the default of one of those is behind it."""
    samples = {subject.label: subject for subject in subjects}
    this = samples[one.sample]
    agreeing = [
        samples[other.sample]
        for other in found
        if other.agrees and (samples[other.sample].family, samples[other.sample].layout) == (this.family, this.layout)
    ]
    more = {other.label: sorted(other.sample.config_json.keys() - this.sample.config_json.keys()) for other in agreeing}
    fullest = max(more, key=lambda label: len(more[label]), default=None)
    if fullest is None or not more[fullest]:
        return CAUSES
    keys, number = ", ".join(map(repr, more[fullest])), samples[fullest].number
    return f"likely the default of a key that this sample leaves out: {keys} (sample {number} has them, and agrees)"


def _print(found: Sequence[Recorded], causes: Sequence[str], advise: bool) -> None:
    for one, cause in zip(found, causes, strict=True):
        if one.error is not None:
            print(f"{one.sample}: {one.error}")
            continue
        print(
            f"{one.sample}: blockzoo is {one.off:.1e} of the greatest logit off" + ("" if one.agrees else f": {cause}")
        )
        print(f"  Sample(..., logits={one.logits})")
    if advise and any("recogni" in (one.error or "") for one in found):
        print("--as MODEL_TYPE tells transformers another model_type, one that it knows and that computes the same")
