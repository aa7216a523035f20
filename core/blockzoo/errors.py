"""What can go wrong, and whose turn it is to act.

A ``BlockzooError`` is input that the user must fix: the command line prints it without a traceback and exits with
status 2. A ``RunError`` is a run that failed by itself: exit status 1. Anything else is a defect of ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MOST_LISTED = 60
"""Words that a hint lists."""


class BlockzooError(ValueError):
    """Wrong input. The message names the place and the fix."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a config: where it stands (``file:line:column`` or ``command line``), what, and the fix."""

    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" if self.place else self.message


class ConfigError(BlockzooError):
    """Everything wrong with a config, all at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class CheckpointError(BlockzooError):
    """A checkpoint folder that can't be read or written as asked."""


class InputError(BlockzooError):
    """Wrong arguments: a token id out of range, a prompt past the context, an unknown option."""


class PluginError(BlockzooError):
    """A plugin broke a rule of the host, or a block that only a missing plugin has was asked for."""


class KernelError(BlockzooError):
    """A kernel that was asked for by name can't run here; the message lists the reasons."""


class RunError(RuntimeError):
    """A run failed through no fault of its input (diverged, killed, out of memory): exit status 1."""


class DivergenceError(RunError):
    """The loss of a training is no number any more."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for a misspelt word: ``; did you mean 'window'?``, or the accepted words when none is near, if they are
    not too many.
    """
    choices = sorted(known)
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; accepted: {', '.join(choices)}" if 0 < len(choices) <= MOST_LISTED else ""
