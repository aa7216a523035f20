"""The swap matrix: each block of a plugin in every slot it fits of three small architectures, beside the stock block.

A trial builds the model, trains it for a moment on text of Python's own documentation, and decodes with a cache. It
shows what builds, learns and decodes, and at what cost; it proves nothing about quality at size.
"""

from blockzoo.experiments.swap.architectures import ARCHITECTURES, ops_of
from blockzoo.experiments.swap.running import Result, run, stock_of
from blockzoo.experiments.swap.slots import Trial, trials

__all__ = ["ARCHITECTURES", "Result", "Trial", "ops_of", "run", "stock_of", "trials"]
