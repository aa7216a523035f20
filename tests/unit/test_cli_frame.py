"""The frame of the command line: exit statuses, one-line errors, flags."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blockzoo.checkpoints.atomic import new_folder
from blockzoo.cli import app, verbs
from blockzoo.errors import BlockzooError, ConfigError, InputError, Problem, RunError

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run ``blockzoo try`` on a function in place of a verb: status, standard output, standard error."""
    for name in ("BLOCKZOO_PLUGINS", "BLOCKZOO_DENY_PLUGINS"):
        monkeypatch.setenv(name, "")

    def run(function: Callable[..., Any], *arguments: str) -> tuple[int, str, str]:
        class Trial(verbs.OwnVerb):
            def load(self) -> Any:
                return function

        monkeypatch.setattr(verbs, "OWN_VERBS", (Trial("try", "a trial", loads_plugins=False),))
        status = app.main(arguments or ["try"])
        out, err = capfd.readouterr()
        return status, out, err

    return run


OUT_OF_MEMORY = [
    "blockzoo: error: out of memory: `blockzoo plan MODEL` says what takes how much, and what would make it fit"
]


def raising(error: BaseException) -> Callable[[], None]:
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "status", "lines"),
    [
        (InputError("no such thing"), 2, ["blockzoo: error: no such thing"]),
        (
            ConfigError([Problem("a.yaml:1:2", "wrong"), Problem("a.yaml:3:4", "too")]),
            2,
            ["blockzoo: error: a.yaml:1:2: wrong", "blockzoo: error: a.yaml:3:4: too"],
        ),
        (RunError("diverged at step 3"), 1, ["blockzoo: error: diverged at step 3"]),
        (KeyboardInterrupt(), 130, ["blockzoo: interrupted"]),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), 2, ["blockzoo: error: /x: No space left on device"]),
        (PermissionError(errno.EACCES, "Permission denied", "/y"), 2, ["blockzoo: error: /y: Permission denied"]),
        (OSError(errno.EIO, "Input/output error", "/z"), 1, None),
        (MemoryError(), 1, OUT_OF_MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), 1, OUT_OF_MEMORY),
        (KeyError("defect"), 1, None),
    ],
)
def test_errors_are_lines_and_statuses(cli: Cli, error: BaseException, status: int, lines: list[str] | None) -> None:
    found, out, err = cli(raising(error))
    assert found == status
    assert out == ""
    assert "Traceback" not in err
    assert lines is None or err.splitlines() == lines
    assert err.startswith("blockzoo: ")


def test_sigterm_ends_it_as_ctrl_c_does(cli: Cli, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def command() -> None:
        with new_folder(tmp_path / "new") as folder:
            (folder / "half").write_text("")
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)

    assert cli(command) == (143, "", "blockzoo: terminated\n")
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_could_steer_a_terminal_is_made_visible(cli: Cli) -> None:
    """Messages quote names from files."""
    status, _, err = cli(raising(InputError("no tensor 'a\x1b[2J'\n" + "b" * 100_000)))
    assert status == 2
    first, second = err.splitlines()
    assert first == "blockzoo: error: no tensor 'a\ufffd[2J'"
    assert len(second) < 5000


def test_traceback_on_demand(cli: Cli) -> None:
    status, _, err = cli(raising(BlockzooError("wrong")), "--traceback", "try")
    assert status == 2
    assert "Traceback" in err
    assert err.splitlines()[-1] == "blockzoo: error: wrong"


def test_success_and_arguments(cli: Cli) -> None:
    def command(name: str, times: int = 1) -> None:
        print(name * times)

    assert cli(command, "try", "ab", "--times", "2") == (0, "abab\n", "")
    status, _, err = cli(command, "try", "ab", "--times", "two")
    assert status == 2
    assert err.startswith("blockzoo: error: Invalid value for '--times'")
    assert "see 'blockzoo try --help'" in err


def test_a_misspelt_verb(cli: Cli) -> None:
    status, _, err = cli(print, "tri")
    assert (status, err) == (2, "blockzoo: error: no verb 'tri'; did you mean 'try'?; see 'blockzoo --help'\n")


def test_flags_reach_the_environment(cli: Cli) -> None:
    def command() -> None:
        print(os.environ.get("BLOCKZOO_PLUGINS"))

    assert cli(command, "--no-plugins", "try")[1] == "none\n"
    assert cli(command, "--plugins", "b,a", "try")[1] == "a,b\n"


def test_every_verb_has_its_module() -> None:
    folder = Path(verbs.__file__).parent
    modules = {path.stem for path in folder.glob("*.py")}
    assert {verb.name for verb in verbs.OWN_VERBS} <= modules
    assert all(verb.help for verb in verbs.OWN_VERBS)


def test_help_imports_no_verb_and_no_torch() -> None:
    script = (
        "import sys; from blockzoo.cli import main; assert main(['--help']) == 0\n"
        "from blockzoo.cli.verbs import OWN_VERBS\n"
        "late = {'torch', 'pydantic', 'rich.table'} | {f'blockzoo.cli.{verb.name}' for verb in OWN_VERBS}\n"
        "assert not late & set(sys.modules), late & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, timeout=60, capture_output=True, text=True)
    for verb in verbs.OWN_VERBS:
        assert f"  {verb.name} " in done.stdout


def test_a_closed_pipe_is_no_drama() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "blockzoo", "--help"], stdout=writer, stderr=subprocess.PIPE, timeout=60
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_said() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "blockzoo", "--help"], stdout=full, stderr=subprocess.PIPE, timeout=60
        )
    assert done.returncode == 2
    assert done.stderr == b"blockzoo: error: No space left on device\n"
