"""Every C kernel on buffers of exactly its size, under the address and undefined-behaviour sanitizers."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from blockzoo_cpu import library

pytestmark = pytest.mark.skipif(library.compiler() is None, reason="no C compiler on this machine")
DRIVERS = sorted(Path(__file__).parent.glob("sanitize_*.c"))
FLAGS = ("-O1", "-g", "-std=gnu11", "-fopenmp", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def test_every_source_has_a_driver() -> None:
    sources = {path.stem for path in library.FOLDER.glob("*.c")} - {"machine"}
    assert {path.stem.removeprefix("sanitize_") for path in DRIVERS} == sources


@pytest.mark.slow
@pytest.mark.parametrize("driver", DRIVERS, ids=lambda path: path.stem)
def test_no_access_out_of_bounds(driver: Path, tmp_path: Path) -> None:
    program = tmp_path / driver.stem
    command = [str(library.compiler()), *FLAGS, f"-I{library.FOLDER}", str(driver), "-lm", "-o", str(program)]
    subprocess.run(command, check=True, capture_output=True)
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
