"""Side processes: what goes wrong is told in a line, and none outlives its conductor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from blockzoo.bench.processes import SideError, run_side
from blockzoo.bench.protocol import Request

LINUX = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads /proc")


def request(path: Path | str = "") -> Request:
    return Request(str(path), "float32", 1, [1], 1, 1)


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def ended(pid: int) -> bool:
    """Whether a killed process is gone, which takes the system a moment."""
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not alive(pid)


def test_an_answer_that_is_none() -> None:
    with pytest.raises(SideError, match=r"no reply \('hello"):
        run_side("tests.unit.bench.peers.babbling", request(), timeout=60)


def test_a_module_that_is_none() -> None:
    with pytest.raises(SideError, match=r"ended with status 1.*No module named"):
        run_side("tests.unit.bench.peers.nobody", request(), timeout=60)


@LINUX
def test_a_timeout_ends_all_of_it(tmp_path: Path) -> None:
    with pytest.raises(SideError, match="no answer in 3 s"):
        run_side("tests.unit.bench.peers.endless", request(tmp_path / "ids"), timeout=3)
    for pid in map(int, (tmp_path / "ids").read_text().split()):
        assert ended(pid)


@LINUX
def test_ctrl_c_ends_all_of_it(tmp_path: Path) -> None:
    ids = tmp_path / "ids"

    def interrupt() -> None:
        while not ids.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run_side("tests.unit.bench.peers.endless", request(ids), timeout=60)
    for pid in map(int, ids.read_text().split()):
        assert ended(pid)


@LINUX
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_the_verb_leaves_nothing_behind(how: signal.Signals, tmp_path: Path) -> None:
    place = tmp_path / "scratch"
    place.mkdir()
    command = [sys.executable, "-m", "blockzoo", "bench", "gpt2", "--set", "layers.count=1", "--set", "vocab_size=64"]
    environment = {**os.environ, "TMPDIR": str(place)}
    with subprocess.Popen([*command, "--repeats", "50"], env=environment, stderr=subprocess.PIPE, text=True) as verb:
        assert verb.stderr is not None
        for line in verb.stderr:
            if "roof" in line:  # a side process is about to run
                break
        time.sleep(0.5)
        verb.send_signal(how)
        verb.stderr.read()
        assert verb.wait(timeout=60) == 128 + how
    assert list(place.iterdir()) == []
    marked = f"TMPDIR={place}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            assert marked not in (process / "environ").read_bytes(), process
