"""One check of one registered thing, and the three ways it ends: it returns, fails or is skipped."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from traceback import extract_tb
from typing import Any, Protocol

import torch
from torch import Tensor

from blockzoo.discovery import PLUGIN_GROUP, installed
from blockzoo.shipped import PACKAGE


class CheckFailed(AssertionError):  # noqa: N818
    """What is wrong and what to do about it, in one line."""


class CheckSkipped(Exception):  # noqa: N818
    """Why a check does not apply: a capability that the thing declares, or lacks."""


class Subject(Protocol):
    """What checks are run on: one sample of a block, a kernel on its op, a family's layout, a plugin."""

    @property
    def label(self) -> str:
        """What messages call it."""
        ...


@dataclass(frozen=True)
class Check:
    """``run()`` returns None, or raises CheckFailed or CheckSkipped, each with a message of one line.

    ``component``: what is checked, as ``mixer/mla``; ``name``: the check's own, as ``causality``; ``about``: what it
    holds the component to, in one line.
    """

    component: str
    name: str
    function: Callable[[Any], None]
    subjects: Callable[[], Sequence[Subject]]

    @property
    def about(self) -> str:
        return (self.function.__doc__ or "").strip().partition("\n")[0]

    def run(self) -> None:
        """On every sample. It is skipped where every sample is."""
        reasons = []
        with _unchanged_surroundings():
            subjects = _subjects(self)
            for subject in subjects:
                try:
                    _run_one(self.function, subject)
                except CheckSkipped as skipped:
                    reasons.append(str(skipped))
        if reasons and len(reasons) == len(subjects):
            raise CheckSkipped(reasons[0])


def _subjects(check: Check) -> Sequence[Subject]:
    try:
        return check.subjects()
    except (CheckSkipped, CheckFailed):
        raise
    except Exception as error:
        raise CheckFailed(f"{check.component}: its samples can't be made: {one_line(error)}") from error


def _run_one(function: Callable[[Any], None], subject: Subject) -> None:
    try:
        function(subject)
    except CheckSkipped:
        raise
    except CheckFailed as failure:
        raise CheckFailed(f"{subject.label}: {' '.join(str(failure).split())}") from failure.__cause__
    except Exception as error:
        raise CheckFailed(f"{subject.label}: {one_line(error)}") from error


@contextmanager
def _unchanged_surroundings() -> Iterator[None]:
    """Checks draw from generators of their own; what is done to the global ones ends with the check."""
    states = torch.get_rng_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])


def one_line(error: BaseException) -> str:
    """An exception in one line, with the innermost place outside torch and blockzoo itself: the plugin's, or none.

    A place in a plugin that blockzoo ships counts only where there is no other: those are called by others' blocks.
    One without words, such as an assert's, is told by its line of source.
    """
    ours = (str(Path(torch.__file__).parent), f"{PACKAGE}{os.sep}", contextlib.__file__)
    outside = [frame for frame in extract_tb(error.__traceback__) if not frame.filename.startswith(ours)]
    shipped = _shipped_packages()
    outside = [frame for frame in outside if shipped.isdisjoint(Path(frame.filename).parts)] or outside
    message = " ".join(str(error).split()) or (str(outside[-1].line) if outside else "")
    text = f"{type(error).__name__}: {message}".removesuffix(": ")
    text = text if len(text) <= 300 else f"{text[:300]}..."
    return f"{text} ({outside[-1].filename}:{outside[-1].lineno})" if outside else text


@cache
def _shipped_packages() -> frozenset[str]:
    return frozenset(item.entry.module.partition(".")[0] for item in installed(PLUGIN_GROUP) if item.builtin)


# --- what checks say ---


def need(condition: object, message: str) -> None:
    """Raises CheckFailed with this message unless the condition holds."""
    if not condition:
        raise CheckFailed(message)


@contextmanager
def quiet() -> Iterator[None]:
    """Without warnings and log lines: compilers tell of their own insides, and a failure is told once, by its check."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def error_of(found: Tensor, expected: Tensor) -> float:
    """Greatest difference over greatest value; infinite where shapes differ or something is not finite."""
    found, expected = found.detach(), expected.detach()
    if found.shape != expected.shape or not bool(found.isfinite().all()):
        return float("inf")
    if expected.numel() == 0:
        return 0.0
    scale = float(expected.double().abs().max())
    difference = float((found.double() - expected.double()).abs().max())
    return difference / scale if scale else difference


def need_close(found: Tensor, expected: Tensor, within: float, message: str) -> None:
    """Raises CheckFailed with this message, and by how much, unless the two agree."""
    error = error_of(found, expected)
    need(error <= within, f"{message} (off by {error:.1e} of the greatest value, at most {within:.0e})")
