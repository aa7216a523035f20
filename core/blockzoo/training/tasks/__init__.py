"""Questions with exact answers, made up from (seed, step): they part depth from width where little text does not."""

from blockzoo.training.tasks.grammar import GrammarConfig
from blockzoo.training.tasks.k_hop import KHopConfig
from blockzoo.training.tasks.modular_arithmetic import ModularArithmeticConfig

TaskConfig = KHopConfig | ModularArithmeticConfig | GrammarConfig

__all__ = ["GrammarConfig", "KHopConfig", "ModularArithmeticConfig", "TaskConfig"]
