"""Memory that passes free stays with the process, unless it was told otherwise."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from blockzoo import storage

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps memory its own way")
PLAIN = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
FAULTS = """
import resource
import torch
from blockzoo.storage import keep_what_is_freed

keep_what_is_freed()


def layer():
    made = [torch.ones(2**20) for _ in range(8)]  # 32 MiB in all


for _ in range(3):
    layer()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    layer()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_pages_are_not_asked_for_again() -> None:
    """Of 5 rounds of 8192 pages hardly any."""
    done = subprocess.run([sys.executable, "-c", FAULTS], env=PLAIN, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 2000


@pytest.mark.parametrize(
    ("environment", "told"), [({}, 3), ({"MALLOC_ARENA_MAX": "8"}, 0), ({"GLIBC_TUNABLES": ""}, 0)], ids=str
)
def test_who_chose_otherwise_is_left_alone(
    environment: dict[str, str], told: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, ...]] = []
    monkeypatch.setattr(storage, "_of_linux", lambda name: lambda *parameter: calls.append(parameter))
    monkeypatch.setattr(os, "environ", PLAIN | environment)
    storage.keep_what_is_freed.__wrapped__()
    assert len(calls) == told
