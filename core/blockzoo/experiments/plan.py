"""From an experiment to its arms: models loaded and solved, recipes completed, everything checked, all arms at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from blockzoo.config.node import Problems, from_python
from blockzoo.config.parse import section
from blockzoo.config.schema import ModelConfig
from blockzoo.config.shipped import is_path
from blockzoo.config.yaml_source import read_yaml
from blockzoo.errors import BlockzooError, ConfigError, InputError, Problem, nearest
from blockzoo.experiments.accounts import account_of
from blockzoo.experiments.arm_plan import ArmPlan, ExperimentPlan, Purpose, RunPlan
from blockzoo.experiments.arms import Arm, arms_of
from blockzoo.experiments.axes import AXES, number, numbers
from blockzoo.experiments.budget import in_tokens
from blockzoo.experiments.config import CompletePRate, ExperimentConfig
from blockzoo.experiments.knobs import Knob, Source, make_knob
from blockzoo.experiments.overlay import with_overrides
from blockzoo.experiments.solve import Solved, solve
from blockzoo.experiments.threads import threads_each
from blockzoo.registry import Registry
from blockzoo.tokenizers import tokenizer_name
from blockzoo.training.config import BUDGETS, CompletePConfig, TrainConfig
from blockzoo.training.parametrization import check_heads, parametrized

__all__ = ["ArmPlan", "ExperimentPlan", "Purpose", "RunPlan", "load_experiment", "make_plan", "with_overrides"]

SHARED = ("seeds", "block", "eval", "parametrization")
"""Of train, what no arm may have otherwise: figures of such arms couldn't be set side by side."""

Made = TypeVar("Made")


def load_experiment(file: Path, overrides: Mapping[str, Any] | None = None) -> ExperimentConfig:
    """An experiment from YAML; ``overrides`` by dotted key. Raises ConfigError with everything wrong in it."""
    if not file.is_file():
        raise InputError(f"{file}: no such file; an experiment is a YAML file with arms and a train section")
    node = with_overrides(read_yaml(file), overrides or {})
    return section(ExperimentConfig, node).at(node)


def make_plan(experiment: ExperimentConfig, folder: Path, out: Path, *, registry: Registry) -> ExperimentPlan:
    """The plan of an experiment whose file lies in ``folder``, its runs to be kept in ``out``.

    Raises ConfigError, all arms together. A budget in seconds trains each arm for a moment.
    """
    return _Planning(experiment, folder, out, registry).run()


@dataclass
class _Planning:
    """One experiment on its way to a plan. What is wrong with an arm is collected, and the others go on."""

    experiment: ExperimentConfig
    folder: Path
    out: Path
    registry: Registry
    arms: dict[str, Arm] = field(init=False)
    baseline: str = field(init=False)
    problems: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def run(self) -> ExperimentPlan:
        experiment = self.experiment
        self.arms = arms_of(experiment)
        self.baseline = self._name("baseline", experiment.baseline) or next(iter(self.arms))
        policy = experiment.learning_rate
        base = self._name("learning_rate.base", policy.base) if isinstance(policy, CompletePRate) else None
        recipes, sources = self._each(self._recipe), self._each(self._source)
        models = self._each(lambda arm: sources[arm.name].load({}), sources)
        knobs = self._each(self._knobs)
        self._raise()
        solved = self._solve(sources, models, recipes, knobs)
        self._raise()
        models |= {name: found.config for name, found in solved.items()}
        trains = self._each(lambda arm: self._budget(recipes[arm.name], models[arm.name]))
        self._raise()
        if base is not None:
            shape = CompletePConfig(type="completep", d_model=models[base].d_model, n_layers=models[base].n_layers)
            trains = {name: train.model_copy(update={"parametrization": shape}) for name, train in trains.items()}
            tuned = models[base]
            self._each(lambda arm: check_heads(models[arm.name], tuned))
            self._raise()
        tokenizers = self._each(lambda arm: self._checked(models[arm.name], trains[arm.name]))
        self._raise()
        on_axes = {name: self._numbers(models[name], trains[name]) for name in self.arms}
        self._check_equal(on_axes)
        plans = tuple(
            ArmPlan(
                name=name,
                model=models[name],
                train=trains[name],
                tokenizer=tokenizers[name],
                account=account_of(models[name], trains[name], experiment.shown_context, registry=self.registry),
                turned=solved[name].turned if name in solved else {},
                mismatch=_mismatch(on_axes[name], on_axes[self.baseline]),
            )
            for name in self.arms
        )
        data = experiment.data.seen_from(self.folder)
        return ExperimentPlan(experiment, plans, self.baseline, data, self.out)

    # --- one arm ------------------------------------------------------------------------------------------------

    def _recipe(self, arm: Arm) -> TrainConfig:
        """The experiment's, with what this arm changes."""
        changes = arm.config.train
        for key in changes:
            if key.partition(".")[0] in SHARED:
                raise ConfigError([Problem(f"override {key}", f"{key}: is the same for all arms; set it in train")])
        if not changes:
            return self.experiment.train
        values = self.experiment.train.model_dump(mode="json", exclude_unset=True)
        if any(key in BUDGETS for key in changes):
            values = {key: value for key, value in values.items() if key not in BUDGETS}
        problems = Problems()
        node = from_python(values, "train", problems)
        return section(TrainConfig, with_overrides(node, changes))

    def _source(self, arm: Arm) -> Source:
        """Its YAML. Relative paths are seen from the experiment's file."""
        ref: str | Path | Mapping[str, Any] | None = arm.config.config
        ref = self.experiment.base if ref is None else ref
        if ref is None:
            raise InputError("names no config and the experiment has no base; give one of the two")
        if isinstance(ref, str):
            ref = self._from_here(ref)
        elif isinstance(ref, Mapping) and isinstance(base := ref.get("extends"), str):
            ref = {**ref, "extends": str(self._from_here(base))}
        changes = dict(arm.changes)
        if (tokenizer := self.experiment.tokenizer) is not None:
            here = self.folder / tokenizer
            changes["tokenizer"] = str(here) if is_path(tokenizer) and here.exists() else tokenizer
        return Source(ref, changes, self.registry)

    def _from_here(self, ref: str) -> str | Path:
        """A file beside the experiment's, or what else the words mean."""
        return self.folder / ref if (self.folder / ref).is_file() else ref

    def _knobs(self, arm: Arm) -> list[Knob]:
        equal, own = self.experiment.equal, arm.config.solve
        if own and equal is None:
            raise ConfigError([_at("solve", "the experiment has no 'equal': there is nothing to solve for")])
        if equal is None:
            return []
        if arm.name == self.baseline and equal.target is None:
            if own:
                raise ConfigError([_at("solve", "the arm is the baseline: give equal.target, or turn the others")])
            return []
        made = []
        for wanted in equal.solve if own is None else own:
            try:
                made.append(make_knob(wanted))
            except InputError as error:
                raise ConfigError([_at("equal.solve" if own is None else "solve", str(error))]) from error
        return made

    def _budget(self, train: TrainConfig, model: ModelConfig) -> TrainConfig:
        threads = threads_each(self.experiment.executor)
        return in_tokens(train, model, self.out, registry=self.registry, threads=threads)

    def _checked(self, model: ModelConfig, train: TrainConfig) -> str:
        """The tokenizer's name; raises where model and recipe don't fit."""
        if train.block > model.context_length:
            message = f"train.block is {train.block}, the model's context_length {model.context_length}"
            raise InputError(message + ": shorten the block or lengthen the context")
        parametrized(model, train.parametrization)
        return tokenizer_name(model, registry=self.registry)

    # --- all arms -----------------------------------------------------------------------------------------------

    def _solve(
        self,
        sources: Mapping[str, Source],
        models: Mapping[str, ModelConfig],
        recipes: Mapping[str, TrainConfig],
        knobs: Mapping[str, list[Knob]],
    ) -> dict[str, Solved]:
        """Every arm that has knobs, at the target or at the baseline's number."""
        equal = self.experiment.equal
        if equal is None or not any(knobs.values()):
            return {}
        if equal.axis == "training_flops" and any(train.seconds or train.flops for train in recipes.values()):
            message = (
                "equal.axis: training_flops can't be solved for under a budget in FLOPs (they are equal) or seconds"
            )
            raise ConfigError([Problem(self.experiment.place("equal", "axis"), message)])

        def on_axis(model: ModelConfig, train: TrainConfig) -> int:
            tokens = train.total_steps * train.tokens_per_step if equal.axis == "training_flops" else 0
            context = self.experiment.shown_context
            return number(model, equal.axis, context=context, block=train.block, tokens=tokens)

        target = equal.target
        if target is None:
            target = float(on_axis(models[self.baseline], recipes[self.baseline]))

        def solved(arm: Arm) -> Solved:
            train = recipes[arm.name]
            return solve(
                sources[arm.name],
                knobs[arm.name],
                lambda model: on_axis(model, train),
                target,
                tolerance=equal.tolerance,
                axis=equal.axis,
            )

        return self._each(solved, [name for name in self.arms if knobs[name]])

    def _numbers(self, model: ModelConfig, train: TrainConfig) -> dict[str, int]:
        tokens = train.total_steps * train.tokens_per_step
        return numbers(model, context=self.experiment.shown_context, block=train.block, tokens=tokens)

    def _check_equal(self, on_axes: Mapping[str, Mapping[str, int]]) -> None:
        """Raise ConfigError, with each arm's number, where arms aren't equal on the axis that the experiment names."""
        equal = self.experiment.equal
        if equal is None:
            return
        found: dict[str, float] = {name: on_axes[name][equal.axis] for name in self.arms}
        if equal.target is not None:
            found["equal.target"] = equal.target
        low, high = min(found.values()), max(found.values())
        if high > low * (1 + equal.tolerance):
            listed = ", ".join(f"{name} {value:,.0f}" for name, value in found.items())
            message = (
                f"equal: arms must have equal {equal.axis} within {equal.tolerance:.2%}, the greatest is"
                f" {high / max(low, 1) - 1:.2%} above the smallest: {listed}; change the arms, say what to turn"
                " (equal.solve: [d_ff]), or raise equal.tolerance"
            )
            raise ConfigError([Problem(self.experiment.place("equal"), message)])

    # --- what is wrong ------------------------------------------------------------------------------------------

    def _each(self, make: Callable[[Arm], Made], names: Iterable[str] | None = None) -> dict[str, Made]:
        """name -> what ``make`` returns for the arm; of an arm that fails, the problems are kept."""
        found: dict[str, Made] = {}
        for name in self.arms if names is None else names:
            with self._collecting(self.arms[name]):
                found[name] = make(self.arms[name])
        return found

    @contextlib.contextmanager
    def _collecting(self, arm: Arm) -> Iterator[None]:
        try:
            yield
        except ConfigError as error:
            for problem in error.problems:
                self._keep(arm, problem)
        except BlockzooError as error:
            self._keep(arm, Problem("", str(error)))

    def _keep(self, arm: Arm, problem: Problem) -> None:
        """A problem, moved to where the experiment's YAML gives the key that it is about."""
        key = problem.place.removeprefix("override ")
        if key == problem.place:  # in a model's own file, or about the arm as a whole
            place, message = arm.at(), f"{key}: {problem.message}" if key else problem.message
        elif key in arm.config.train:
            place, message = arm.at("train", key), f"train.{problem.message}"
        elif key in ("solve", "equal.solve"):
            place, message = arm.at("solve") if key == "solve" else ("equal", "solve"), problem.message
        else:
            place, message = arm.path(key), problem.message
        self.problems.setdefault((self.experiment.place(*place), message), []).append(arm.name)

    def _name(self, key: str, name: str | None) -> str | None:
        """The name of an arm that stands under a key of the experiment."""
        if name is not None and name not in self.arms:
            place = self.experiment.place(*key.split("."))
            message = f"{key}: no arm is called '{name}'{nearest(name, self.arms)}"
            self.problems[place, message] = []
            return None
        return name

    def _raise(self) -> None:
        if self.problems:
            raise ConfigError(
                [Problem(place, f"{_whose(arms)}{message}") for (place, message), arms in self.problems.items()]
            )


def _at(key: str, message: str) -> Problem:
    return Problem(f"override {key}", f"{key}: {message}")


def _whose(arms: list[str]) -> str:
    """``arm 'a': ``, or how many have the same problem."""
    if not arms:
        return ""
    more = f" and {len(arms) - 1} more" if len(arms) > 1 else ""
    return f"arm '{arms[0]}'{more}: "


def _mismatch(mine: Mapping[str, int], baseline: Mapping[str, int]) -> dict[str, float]:
    """Axis -> this arm over the baseline, less one; an axis where the baseline has nothing is left out."""
    return {axis: mine[axis] / baseline[axis] - 1 for axis in AXES if baseline[axis]}
