"""The matrices of a model: plain, stacked by expert, packed, or trained through a quantizer.

Blocks write ``nn.Linear`` and ``ExpertLinear``; ``replace_linears`` swaps in what a quantizer or a kernel's layout
needs, so no block knows how its weights are stored. State dicts always speak canonical names and bytes.
"""

from blockzoo.linear.ops import (
    CHOSEN_LINEAR,
    EXPERT_LINEAR,
    LINEAR,
    expert_linear_reference,
    linear_reference,
    phase_of,
)
from blockzoo.linear.plain import ExpertLinear
from blockzoo.linear.replacing import AnyLinear, chosen_for_matrices, give_slots, matrix, replace_linears
from blockzoo.linear.stored import StoredLinear
from blockzoo.linear.trained import FakeQuantLinear, StraightThrough

__all__ = [
    "CHOSEN_LINEAR",
    "EXPERT_LINEAR",
    "LINEAR",
    "AnyLinear",
    "ExpertLinear",
    "FakeQuantLinear",
    "StoredLinear",
    "StraightThrough",
    "chosen_for_matrices",
    "expert_linear_reference",
    "give_slots",
    "linear_reference",
    "matrix",
    "phase_of",
    "replace_linears",
]
