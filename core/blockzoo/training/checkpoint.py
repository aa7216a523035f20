"""Checkpoints of a training: everything needed to go on bit for bit, in one folder that appears whole or not at all.

Tensors are whole, however many processes trained: a checkpoint loads into any number of them.

``<folder>/step-00000100/`` holds ``model.safetensors`` (state dict names), ``optimizer.safetensors``
(``<parameter>.<moment>``) and ``training.json``. Random numbers are drawn from (seed, step), so the step is all of
their state. Nothing is pickled.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from blockzoo.checkpoints.atomic import new_folder
from blockzoo.errors import CheckpointError
from blockzoo.training.sharding import place

FORMAT = 1


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run; after a new one is whole, older ones go."""

    folder: Path

    def latest(self) -> Path | None:
        """The newest whole checkpoint."""
        found = sorted(self.folder.glob("step-*"))
        return found[-1] if found else None

    def latest_step(self) -> int:
        """The step of it, 0 where there is none."""
        found = self.latest()
        return 0 if found is None else int(found.name.removeprefix("step-"))

    def save(self, step: int, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor]) -> None:
        """Write the checkpoint of ``step``, of whole tensors. Raises CheckpointError (a full disk); the one before is
        then intact.
        """
        target = self.folder / f"step-{step:08d}"
        if target.exists():
            return
        try:
            with new_folder(target) as partial:
                save_file(_contiguous(weights), partial / "model.safetensors")
                save_file(_contiguous(moments), partial / "optimizer.safetensors")
                (partial / "training.json").write_text(json.dumps({"format": FORMAT, "step": step}))
        except SafetensorError as error:  # what it makes of a full disk
            raise CheckpointError(f"{target}: can't be written ({error}); nothing was changed") from error
        for old in self.folder.glob("step-*"):
            if old != target:
                shutil.rmtree(old, ignore_errors=True)

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer, names: dict[nn.Parameter, str]) -> int:
        """Put the newest checkpoint back; the step it was made at, 0 where there is none.

        Raises CheckpointError for a damaged one, naming it.
        """
        source = self.latest()
        if source is None:
            return 0
        try:
            about = json.loads((source / "training.json").read_text())
            weights = load_file(source / "model.safetensors")
            moments = load_file(source / "optimizer.safetensors")
            if about["format"] != FORMAT:
                raise CheckpointError(
                    f"{source}: format {about['format']}, this version reads {FORMAT}; start again (--restart)"
                )
            held = model.state_dict()
            model.load_state_dict({k: place(v, held[k]) if k in held else v for k, v in weights.items()})
            restore_optimizer(optimizer, names, moments)
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(
                f"{source}: damaged checkpoint ({error}); delete it or start again (--restart)"
            ) from error
        return int(about["step"])


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: dict[nn.Parameter, str]) -> dict[str, Tensor]:
    """``<parameter>.<moment>`` -> tensor, for every parameter that has been stepped."""
    return {
        f"{name}.{moment}": value
        for parameter, name in names.items()
        for moment, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, names: dict[nn.Parameter, str], tensors: dict[str, Tensor]
) -> None:
    """The inverse of ``optimizer_tensors``, onto the parameters' devices. Raises KeyError for an unknown name."""
    parameters = {name: parameter for parameter, name in names.items()}
    optimizer.state.clear()
    for key, value in tensors.items():
        name, _, moment = key.rpartition(".")
        parameter = parameters[name]
        # `step` is a scalar that AdamW keeps as float32; the moments are shaped, and split, like their parameter
        here = value.to(parameter.device) if moment == "step" else place(value, parameter)
        optimizer.state[parameter][moment] = here


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
