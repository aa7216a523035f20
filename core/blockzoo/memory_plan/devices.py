"""Where it goes: a model's parts on one device or several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from blockzoo.memory_plan.parts import Part, Use

HOST_RUNTIME = 275 * 10**6
"""Resident bytes of Python with torch, blockzoo and its plugins after a first forward: torch 2.13, Linux x86-64."""
DEVICE_RUNTIME = 600 * 10**6
"""Bytes that a CUDA context and its libraries' workspaces take on a device; by their makers' word, not measured."""


@dataclass(frozen=True)
class Device:
    """A place for layers. ``host``: its memory is also the process's own."""

    name: str
    memory: int
    host: bool = True

    @property
    def runtime(self) -> int:
        return HOST_RUNTIME if self.host else DEVICE_RUNTIME


@dataclass(frozen=True)
class Share:
    """What one device holds."""

    device: Device
    parts: tuple[str, ...]
    weights: Mapping[str, int] = field(default_factory=dict)
    cache: int = 0
    activations: int = 0
    loading: int = 0

    @property
    def total(self) -> int:
        """Bytes at the peak."""
        held = sum(self.weights.values())
        return self.device.runtime + held + max(self.loading, self.cache + self.activations)

    @property
    def free(self) -> int:
        """Bytes left over; below 0 what is lacking."""
        return self.device.memory - self.total


def split(use: Use, devices: Sequence[Device]) -> list[Share]:
    """The parts in their order over the devices in theirs, so that the fullest device is as little full as can be.

    A tied unembedding on another device than the embedding is a second copy of the table.
    """
    low, high = 0.0, max(sum(s.total for s in _filled(use, devices, float("inf"))) / d.memory for d in devices)
    best = _filled(use, devices, high)
    for _ in range(40):
        middle = (low + high) / 2
        shares = _filled(use, devices, middle)
        if all(share.total <= middle * share.device.memory for share in shares):
            best, high = shares, middle
        else:
            low = middle
    return best


def _filled(use: Use, devices: Sequence[Device], fill: float) -> list[Share]:
    """Each device filled up to this share of its memory before the next begins; the last takes the rest."""
    shares = [_empty(use, device) for device in devices]
    at = 0
    for part in use.parts:
        grown = _with(shares[at], part)
        while at + 1 < len(devices) and grown.total > fill * devices[at].memory:
            at += 1
            grown = _with(shares[at], part)
        shares[at] = grown
    return shares


def _empty(use: Use, device: Device) -> Share:
    return Share(device, (), loading=use.read_whole if device.host else 0)


def _with(share: Share, part: Part) -> Share:
    weights = Counter(share.weights)
    weights.update(part.weights)
    if "embedding" not in share.parts:
        weights.update(part.shared)
    return replace(
        share,
        parts=(*share.parts, part.name),
        weights=dict(weights),
        cache=share.cache + part.cache,
        activations=max(share.activations, part.activations),
    )


def fits(use: Use, devices: Sequence[Device]) -> bool:
    return all(share.free >= 0 for share in split(use, devices))


def largest(high: int, good: Callable[[int], bool]) -> int:
    """The largest number from 1 to ``high`` that is good, where all smaller ones are too; 0 if none is."""
    low = 0
    if good(high):
        return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if good(middle) else (low, middle)
    return low


def largest_context(use: Use, devices: Sequence[Device]) -> int:
    """The longest context that fits, at most the model's; 0 if none does."""
    return largest(use.config.context_length, lambda context: fits(replace(use, context=context), devices))
