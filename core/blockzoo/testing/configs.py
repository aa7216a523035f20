"""What the config of any block owes: it is described, comes back from YAML, copies, and its errors name the place."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel

from blockzoo.blocks import MixerConfig, PositionConfig, PositionForm, QuantizableConfig, Scale
from blockzoo.config import dump, dump_block, load_config
from blockzoo.errors import ConfigError, nearest
from blockzoo.testing.check import CheckSkipped, need
from blockzoo.testing.houses import HOUSES, Unfit, house, placed, with_block
from blockzoo.testing.subjects import BlockSubject

NO_SUCH = "no_such_option"
CLASS_VARIABLES = ("scales", "form")
"""What is asked of a config class; all else that a block declares may be a property too."""


def described(subject: BlockSubject) -> None:
    """The config class has a docstring and every option a description."""
    kind = type(subject.config)
    own = kind.__dict__.get("__doc__")
    need(own and own.strip(), f"{kind.__name__} has no docstring: `blockzoo list` shows its first line")
    for config in _sections(subject.config):
        for name, info in type(config).model_fields.items():
            need(
                info.description,
                f"{type(config).__name__}.{name} has no description: write Field(..., description=...)",
            )


def _sections(config: BaseModel) -> list[BaseModel]:
    """A config and those inside it."""
    values = [getattr(config, name) for name in type(config).model_fields]  # dict() would call a method named keys
    inner = [value for value in values if isinstance(value, BaseModel)]
    return [config, *(section for value in inner for section in _sections(value))]


def declarations(subject: BlockSubject) -> None:
    """What it declares is in words that blockzoo has: `scales` of its own fields, forms of position."""
    config = type(subject.config)
    for name in CLASS_VARIABLES:
        computed = isinstance(getattr(config, name, None), property)
        need(not computed, f"`{name}` is a property: it must be a class variable, for it is read without an instance")
    own = isinstance(config.scales, Mapping)
    need(own, "its `scales` hides the class variable that says what its fields grow by: name it otherwise")
    for field, scale in config.scales.items():
        known = field in config.model_fields
        need(known, f"scales names '{field}', which is no option{nearest(field, config.model_fields)}")
        words = get_args(Scale)
        need(scale in words, f"scales says '{field}' grows by '{scale}'{nearest(scale, words)}")
    forms = get_args(PositionForm)
    if isinstance(subject.config, MixerConfig):
        for form in sorted(subject.config.positions - set(forms)):
            need(False, f"positions has '{form}', which is no form of position{nearest(form, forms)}")
    if isinstance(subject.config, PositionConfig):
        form = subject.config.form
        need(form in forms, f"form is '{form}', which is no form of position{nearest(form, forms)}")


def frozen(subject: BlockSubject) -> None:
    """No option can be set after construction, and unknown ones are refused."""
    settings = type(subject.config).model_config
    need(settings.get("frozen"), "the config is not frozen: keep BlockConfig's model_config")
    need(settings.get("extra") == "forbid", "the config takes unknown options: keep BlockConfig's model_config")


def config_round_trip(subject: BlockSubject) -> None:
    """A model with the block in it, written as YAML's mapping and loaded again, is equal."""
    model = _model(subject)
    again = load_config(dump(model, subject.registry), registry=subject.registry)
    if again != model:
        changed = [name for name in type(model).model_fields if getattr(again, name) != getattr(model, name)]
        need(False, f"comes back from YAML different (in {', '.join(changed)}): is an option rewritten by a validator?")


def _model(subject: BlockSubject) -> Any:
    for name in HOUSES:
        try:
            return placed(house(name, subject.config, subject.registry), subject.config, subject.registry)
        except Unfit as reason:
            last = reason
    raise last


def config_errors(subject: BlockSubject) -> None:
    """A misspelt option, and a value of the wrong type, are refused with the option's name."""
    block = dump_block(subject.config, subject.registry)
    wrong: dict[str, object] = {NO_SUCH: 1}
    wrong |= {name: {"nonsense": "x"} for name in type(subject.config).model_fields if name != "quantizer"}
    for name, value in wrong.items():
        try:
            load_config(with_block(subject.config, {**block, name: value}), registry=subject.registry)
        except ConfigError as error:
            need(name in str(error), f"the error for a wrong '{name}' does not name it: {error}")
        else:
            need(False, f"option '{name}' takes {value!r} without an error: give it a type")


def copies(subject: BlockSubject) -> None:
    """The config survives copy.deepcopy and pickle, equal."""
    config = subject.config
    need(copy.deepcopy(config) == config, "copy.deepcopy gives a config that is not equal")
    try:
        again = pickle.loads(pickle.dumps(config))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        need(False, f"can't be pickled, which worker processes need: {error}; define the class at a module's top level")
    need(again == config, "pickle gives a config that is not equal")


def options_tried(subject: BlockSubject) -> None:
    """Told, never a failure: the options that no sample sets to another value than their default."""
    config = type(subject.config)
    samples = config.samples()
    idle = [
        name
        for name, info in config.model_fields.items()
        if name not in QuantizableConfig.model_fields and not info.is_required()
        if all(getattr(sample, name) == info.get_default(call_default_factory=True) for sample in samples)
    ]
    if idle:
        raise CheckSkipped(f"no sample sets {', '.join(idle)} to another value than the default: nothing tries it so")


CHECKS = (described, declarations, options_tried, frozen, config_round_trip, config_errors, copies)
