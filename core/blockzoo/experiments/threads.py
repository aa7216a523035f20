"""How many CPU threads each run of an experiment has: part of what makes its bits, and of its speed."""

from __future__ import annotations

import torch

from blockzoo.experiments.config import ExecutorConfig


def threads_each(config: ExecutorConfig) -> int:
    """CPU threads of a run: as configured, or this process's own shared among the workers."""
    return config.threads or max(1, torch.get_num_threads() // config.workers)
