"""Trackers hear what a run writes down, and no run ever suffers from one."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from blockzoo.errors import InputError
from blockzoo.hooks import HookManager
from blockzoo.training import trackers
from blockzoo.training.interrupt import Interrupted
from blockzoo.training.run import Run
from blockzoo.training.trackers import TrackedRun
from tests.warm import Warm

from .conftest import MODEL
from .test_run import StopsAt


class Notebook:
    """A tracker that keeps what it is told, and raises where it is asked to."""

    def __init__(self, raises: str = "") -> None:
        self.raises = raises
        self.told: list[tuple[str, Any]] = []

    def start(self, config: Mapping[str, Any]) -> None:
        self._note("start", dict(config))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._note("log", {"step": step, **figures})

    def finish(self, result: Mapping[str, Any] | None) -> None:
        self._note("finish", result)

    def _note(self, what: str, value: Any) -> None:
        self.told.append((what, value))
        if what == self.raises:
            raise OSError("the server\nis away")


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes a plugin of a name and a hook."""
    hooks = HookManager()
    monkeypatch.setattr(trackers, "host", lambda: SimpleNamespace(hooks=hooks))

    def make(name: str, hook: Callable[[TrackedRun], Any]) -> None:
        def blockzoo_tracker(run: TrackedRun) -> Any:
            return hook(run)

        module = ModuleType(name)
        module.blockzoo_tracker = blockzoo_tracker  # type: ignore[attr-defined]
        hooks.add(module, name)

    return make


def test_a_tracker_hears_what_the_files_hold(new_run: Callable[..., Run], plugin: Callable[..., None]) -> None:
    notebook, runs = Notebook(), []
    plugin("notebook", lambda run: runs.append(run) or notebook)
    run = new_run(trackers=["notebook"])
    folder = run.execute()
    assert runs == [TrackedRun("tiny", folder.path)]
    assert [what for what, _ in notebook.told] == ["start", *["log"] * 15, "finish"]
    assert notebook.told[0][1] == folder.read("run.json")
    assert [value for what, value in notebook.told if what == "log"] == folder.metrics.read()
    assert notebook.told[-1][1] == folder.result()


def test_who_hears_of_a_run_is_no_part_of_it(new_run: Callable[..., Run]) -> None:
    assert new_run(trackers=["notebook"]).folder == new_run().folder


def test_after_a_resume_it_hears_of_the_steps_since_the_checkpoint(
    new_run: Callable[..., Run], plugin: Callable[..., None]
) -> None:
    books: list[Notebook] = []
    plugin("notebook", lambda run: books.append(Notebook()) or books[-1])
    run = new_run(trackers=["notebook"])
    with pytest.raises(Interrupted):
        run.execute(StopsAt(4 * 64))
    run.execute()
    assert books[0].told[-1] == ("finish", None)
    assert books[1].told[1][1]["step"] == 6


@pytest.mark.parametrize("moment", ["hook", "start", "log", "finish"])
def test_one_that_raises_is_one_warning_and_no_more(
    new_run: Callable[..., Run], plugin: Callable[..., None], capsys: pytest.CaptureFixture[str], moment: str
) -> None:
    def hook(run: TrackedRun) -> Notebook:
        if moment == "hook":
            raise OSError("the server\nis away")
        return broken

    broken, whole = Notebook(moment), Notebook()
    plugin("broken", hook)
    plugin("whole", lambda run: whole)
    plugin("absent", lambda run: None)
    run = new_run(trackers=["broken", "absent", "whole"])
    assert run.execute().status() == {"state": "done"}
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert warnings == [
        "blockzoo: warning: tracker 'broken' stopped, the run goes on: OSError: the server is away",
    ]
    assert whole.told[-1][0] == "finish"
    assert sum(what == moment for what, _ in broken.told) == (moment != "hook"), "it is called no more"


def test_a_name_that_nobody_has_is_refused_before_anything_is_written(
    new_run: Callable[..., Run], plugin: Callable[..., None]
) -> None:
    plugin("notebook", lambda run: Notebook())
    run = new_run(trackers=["notebok"])
    with pytest.raises(InputError, match=r"no tracker 'notebok'; did you mean 'notebook'.*plugins with one: notebook"):
        run.execute()
    assert not run.out.exists()


def test_tensorboard_reads_what_its_plugin_wrote(new_run: Callable[..., Run], recwarn: Any) -> None:
    """By TensorBoard's own reader; the steps of an interrupted run that it does again are there once."""
    pytest.importorskip("tensorboard", reason="the extra [tensorboard] is not installed")
    run = new_run(trackers=["tensorboard"], checkpoint_every=4)

    class Dies(StopsAt):
        def step(self, tokens: int, loss: float | None) -> None:
            if tokens == self.tokens:
                raise SystemError("as if the machine went down")

    with pytest.raises(SystemError):
        run.execute(Dies(7 * 64))
    folder = run.execute()
    found = scalars(folder.path / "tensorboard")
    lines = folder.metrics.read()
    for name in ("loss", "grad_norm", "lr", "bits_per_byte"):
        expected = [(line["step"], pytest.approx(line[name], rel=1e-6)) for line in lines if name in line]
        assert found[name] == expected, name


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_the_tracker_of_the_page_for_authors_works(warm: Warm, text: Path, tmp_path: Path) -> None:
    """As a user has it: one file, loaded and named on the command line."""
    page = Path(__file__).resolve().parents[3] / "docs" / "plugin-authors" / "hooks.md"
    (code,) = re.findall(r"^```python file=csv_tracker.py\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / "csv_tracker.py").write_text(code)
    (tmp_path / "tiny.yaml").write_text(json.dumps(MODEL))
    arguments = ["--plugin", "csv_tracker.py", "train", "tiny.yaml", "--data", str(text), "--steps", "3"]
    environment = {**os.environ, "BLOCKZOO_PLUGINS": "none", "OMP_NUM_THREADS": "1"}
    done = warm.run(["-m", "blockzoo", *arguments, "--tracker", "csv_tracker"], environment, tmp_path)
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("runs/tiny-*/figures.csv")
    rows = list(csv.reader(file.read_text().splitlines()))
    assert rows[0] == ["step", "figure", "value"]
    assert [step for step, name, _ in rows if name == "loss"] == ["1", "2", "3"]
    assert [step for step, name, _ in rows if name == "bits_per_byte"] == ["3"]
