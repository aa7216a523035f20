"""Which arms an experiment has: those it names, those it varies, and the product of the two."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from blockzoo.errors import ConfigError, Problem
from blockzoo.experiments.config import ArmConfig, ExperimentConfig

MAX_ARMS = 1000


@dataclass(frozen=True)
class Arm:
    """``key``: the name under ``arms``, None where the experiment names none. ``varied``: dotted key -> value."""

    name: str
    key: str | None
    config: ArmConfig
    varied: Mapping[str, Any]

    @property
    def changes(self) -> dict[str, Any]:
        """Dotted keys that are laid over its model."""
        return {"name": self.name, **self.varied, **self.config.set}

    def path(self, dotted: str) -> tuple[str, ...]:
        """Where in the experiment's YAML a dotted key of the model is given."""
        if dotted in self.config.set:
            return self.at("set", dotted)
        return ("vary", dotted) if dotted in self.varied else self.at()

    def at(self, *keys: str) -> tuple[str, ...]:
        return ("arms", self.key, *keys) if self.key is not None else ("vary",)


def arms_of(experiment: ExperimentConfig) -> dict[str, Arm]:
    """All arms by name, in order: each named arm with each combination, the last key changing fastest.

    Raises ConfigError for a key without values, values given twice and a product that nobody can mean.
    """
    problems = [
        Problem(experiment.place("vary", key), f"vary.{key}: an empty list; give the values to try")
        for key, values in experiment.vary.items()
        if not values
    ]
    n_arms = max(1, len(experiment.arms))
    for values in experiment.vary.values():
        n_arms *= len(values)
    if n_arms > MAX_ARMS:
        problems.append(Problem(experiment.place("vary"), f"vary: {n_arms:,} arms; at most {MAX_ARMS:,}"))
    if problems:
        raise ConfigError(problems)
    found: dict[str, Arm] = {}
    named: list[tuple[str | None, ArmConfig]] = [*experiment.arms.items()]
    for key, config in named or [(None, ArmConfig())]:
        for values in product(*experiment.vary.values()):
            varied = dict(zip(experiment.vary, values, strict=True))
            words = [key] if key is not None else []
            words += [f"{dotted}={_word(value)}" for dotted, value in varied.items()]
            name = " ".join(words)
            if name in found:
                problems.append(
                    Problem(experiment.place("vary"), f"vary: two arms would be called '{name}'; name them under arms")
                )
            found[name] = Arm(name, key, config, varied)
    if problems:
        raise ConfigError(problems)
    return found


def _word(value: Any) -> str:
    """A value as a part of a name, and so of a file's name."""
    if isinstance(value, Mapping):
        said = [_word(value[key]) for key in ("type", "use") if key in value]
        rest = [f"{key}={_word(inner)}" for key, inner in value.items() if key not in ("type", "use")]
        return "-".join(said + rest) or "none"
    if isinstance(value, (list, tuple)):
        return "-".join(_word(item) for item in value) or "none"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return re.sub(r"[^A-Za-z0-9._+=-]+", "-", str(value)).strip("-.") or "-"
