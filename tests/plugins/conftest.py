"""Second distributions, installed for real into folders of their own, and a command line that sees them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blockzoo.plugins import reset_host
from tests.warm import Warm

DISTRIBUTIONS = Path(__file__).parent / "distributions"
EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "plugin-authors" / "examples"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def install(target: Path, *folders: Path) -> Path:
    """pip-install distributions into a folder that PYTHONPATH can name."""
    pytest.importorskip("hatchling", reason="building the test distributions needs hatchling (the test extra)")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-warn-conflicts"]
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(target)]
    subprocess.run([*pip, *options, *map(str, folders)], check=True, timeout=300)
    return target


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the distribution stands that does everything right."""
    return install(tmp_path_factory.mktemp("good"), DISTRIBUTIONS / "good")


@pytest.fixture(scope="session")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all the others stand."""
    folders = [folder for folder in sorted(DISTRIBUTIONS.iterdir()) if folder.name != "good" and folder.is_dir()]
    return install(tmp_path_factory.mktemp("bad"), *folders)


@pytest.fixture(scope="session")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the plugins stand that the guide for authors shows."""
    folders = sorted(file.parent for file in EXAMPLES.glob("*/pyproject.toml"))
    return install(tmp_path_factory.mktemp("examples"), *folders)


def environment_of(path: list[Path], home: Path, changes: dict[str, str]) -> dict[str, str]:
    """The environment without what chooses plugins, and with those folders to import from."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("BLOCKZOO_", "PYTHON"))}
    clean |= {"PYTHONPATH": os.pathsep.join(map(str, path)), "XDG_CONFIG_HOME": str(home), "OMP_NUM_THREADS": "1"}
    return clean | changes


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """``python("-m", "blockzoo", ..., path=[...], **environment)``: a fresh interpreter that sees those folders."""
    home = tmp_path_factory.mktemp("home")

    def run(*arguments: str, path: list[Path], check: bool = False, **changes: str) -> subprocess.CompletedProcess[str]:
        environment = environment_of(path, home, changes)
        done = subprocess.run(
            [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=300, cwd=home
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def warm_python(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """``python`` in a process that has torch and other libraries already."""
    home = tmp_path_factory.mktemp("home")

    def run(*arguments: str, path: list[Path], check: bool = False, **changes: str) -> subprocess.CompletedProcess[str]:
        done = warm.run(arguments, environment_of(path, home, changes), home)
        assert not check or done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def blockzoo(warm_python: Run) -> Run:
    """The command line: ``blockzoo("plugins", "--json", path=[good])``."""

    def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        return warm_python("-m", "blockzoo", *arguments, **options)

    return run


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A host that loads the built-in plugins and files only, in a folder of its own, which is the current one."""
    for name, value in (("BLOCKZOO_PLUGINS", "none"), ("BLOCKZOO_PLUGIN_FILES", ""), ("BLOCKZOO_DENY_PLUGINS", "")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    reset_host()
    yield tmp_path
    reset_host()
