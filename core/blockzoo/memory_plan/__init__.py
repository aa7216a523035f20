"""What memory a model needs and where it goes: weights, cache, activations, loading, runtime; on one device or several.

Weights and cache are exact: the sums of the account's tensors. The rest is said by formula:

- activations: for each token of a pass 4 vectors of d_model (the residual stream, a norm's output, a branch's input and
  output), and what the matrices of the widest branch read and write (of a mixture: those of the experts that a token
  takes); what is read by its largest packed matrix once more, in the order of its product, or the unpacking of that
  matrix, or expert's matrix, where no kernel reads it packed. At the head instead the logits of the last position, in
  the dtype and in float32;
- loading: what is read whole before it goes into its place, beside all weights; on a device other than the
  host it lies in the host's memory and isn't counted. Loading is over before cache and activations come: the larger of
  the two counts;
- runtime: measured, see ``devices.HOST_RUNTIME``.
"""

from blockzoo.memory_plan.advice import Change, changes
from blockzoo.memory_plan.devices import HOST_RUNTIME, Device, Share, fits, largest, largest_context, split
from blockzoo.memory_plan.packing import PACKABLE, quantized
from blockzoo.memory_plan.parts import TABLE, UNPACKING, Part, Use, check_mapped_table, stored_bytes

__all__ = [
    "HOST_RUNTIME",
    "PACKABLE",
    "TABLE",
    "UNPACKING",
    "Change",
    "Device",
    "Part",
    "Share",
    "Use",
    "changes",
    "check_mapped_table",
    "fits",
    "largest",
    "largest_context",
    "quantized",
    "split",
    "stored_bytes",
]
