"""Every C kernel on buffers of exactly its size, under the address and undefined-behaviour sanitizers.

Where a CPU has AVX512-BF16 and no AMX its tiles are emulated in C, so that their code runs here too.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from blockzoo_cpu.compiling import FOLDER, compiler
from blockzoo_cpu.library import Tiles, tiles

pytestmark = pytest.mark.skipif(not compiler(), reason="no C compiler on this machine")
HERE = Path(__file__).parent
DRIVERS = sorted(HERE.glob("sanitize_*.c"))
FLAGS = (
    *("-O1", "-g", "-std=gnu11", "-fopenmp", "-Wall", "-Wextra", "-Werror"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all", f"-I{FOLDER}"),
)
THREADS = (1, 2, 3)


def test_every_source_has_a_driver() -> None:
    sources = {path.stem for path in FOLDER.glob("*.c")} - {"machine"}
    assert {path.stem.removeprefix("sanitize_") for path in DRIVERS} == sources


def emulated() -> bool:
    return tiles() == Tiles.VECTORS


def compile_with(*arguments: str | Path) -> None:
    more = ["-include", str(HERE / "emulated_amx.h")] if emulated() else []
    done = subprocess.run(
        [*compiler(), *FLAGS, *more, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every source of the library, compiled to be watched."""
    folder, made = tmp_path_factory.mktemp("objects"), {}
    for source in FOLDER.glob("*.c"):
        made[source.stem] = folder / f"{source.stem}.o"
        watched = HERE / "emulated_machine.c" if source.stem == "machine" and emulated() else source
        compile_with("-c", watched, "-o", made[source.stem])
    return made


@pytest.mark.slow
@pytest.mark.parametrize("driver", DRIVERS, ids=lambda path: path.stem)
def test_no_access_out_of_bounds(driver: Path, objects: dict[str, Path], tmp_path: Path) -> None:
    """A driver holds the source it is named after; the rooms of calls depend on the number of threads."""
    program, own = tmp_path / driver.stem, driver.stem.removeprefix("sanitize_")
    compile_with(driver, *(made for name, made in objects.items() if name != own), "-lm", "-o", program)
    for threads in THREADS:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
        done = subprocess.run([program], capture_output=True, text=True, timeout=300, check=False, env=environment)
        assert done.returncode == 0, f"{threads} threads: {done.stderr}"
