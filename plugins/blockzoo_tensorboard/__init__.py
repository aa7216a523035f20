"""TensorBoard: the curves of a run as events below its folder. ``pip install blockzoo[tensorboard]``, then
``blockzoo train gpt2 --tracker tensorboard`` and ``tensorboard --logdir runs``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blockzoo.training.trackers import TrackedRun
    from blockzoo_tensorboard.tracker import TensorBoardTracker


def blockzoo_tracker(run: TrackedRun) -> TensorBoardTracker:
    from blockzoo_tensorboard.tracker import TensorBoardTracker

    return TensorBoardTracker(run.folder / "tensorboard")
