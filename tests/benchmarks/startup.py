"""How long the command line takes to answer, beside a plugin that takes two seconds to import.

Run it by hand: ``python tests/benchmarks/startup.py``. It installs ``tests/plugins/distributions/slow`` into a
temporary folder, runs each command several times and prints the fastest and the median.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SLOW = Path(__file__).resolve().parents[1] / "plugins" / "distributions" / "slow"
COMMANDS = (["--help"], ["--version"], ["plugins", "list"], ["plugins", "--help"], ["plugins"])
TIMES = 9


def seconds(arguments: list[str], environment: dict[str, str]) -> list[float]:
    found = []
    for _ in range(TIMES):
        begin = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "blockzoo", *arguments], env=environment, check=True, stdout=subprocess.DEVNULL
        )
        found.append(time.perf_counter() - begin)
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
        subprocess.run([*pip, "--target", folder, str(SLOW)], check=True)
        for arguments in COMMANDS:
            for name, path in (("alone", ""), ("beside a slow plugin", folder)):
                found = seconds(arguments, os.environ | {"PYTHONPATH": path})
                print(
                    f"blockzoo {' '.join(arguments):<15} {name:<21} fastest {min(found):.2f} s,"
                    f" median {statistics.median(found):.2f} s"
                )


if __name__ == "__main__":
    main()
