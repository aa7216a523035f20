"""The elementwise activations of feed-forward blocks, by the names that YAML uses.

gelu: Hendrycks & Gimpel 2016, arXiv:1606.08415; gelu_tanh is its tanh approximation (GPT-2); relu2: So et al. 2021,
arXiv:2109.08668; silu: Elfwing et al. 2017, arXiv:1702.03118.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

Activation = Literal["gelu", "gelu_tanh", "relu", "relu2", "silu"]

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "silu": F.silu,
}
