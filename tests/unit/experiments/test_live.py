"""Watching runs from their folders."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from blockzoo.experiments.arm_plan import RunPlan
from blockzoo.experiments.live import Line, LiveTable, PlainLines, board, fitting, tail
from blockzoo.experiments.plan import load_experiment, make_plan
from blockzoo.experiments.worker import RunEnd
from blockzoo.registry import Registry
from blockzoo.training.folder import RunFolder


@pytest.fixture
def runs(experiment_file: Path, registry: Registry, tmp_path: Path) -> tuple[RunPlan, ...]:
    experiment = load_experiment(experiment_file, {"train.steps": 10})
    return make_plan(experiment, experiment_file.parent, tmp_path / "runs", registry=registry).verdict_runs()


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    found = RunFolder(tmp_path / "run")
    found.path.mkdir()
    return found


def step(folder: RunFolder, number: int) -> None:
    folder.metrics.append([{"step": number, "tokens": 32 * number, "loss": 5.0 - number / 10, "seconds": 0.1}])


def test_a_line_follows_the_metrics(runs: tuple[RunPlan, ...], folder: RunFolder) -> None:
    line = Line(runs[0], folder)
    line.look(0.0)
    assert (line.state, line.tokens, line.speed) == ("waiting", 0, None)
    step(folder, 1)
    line.look(1.0)
    step(folder, 5)
    folder.metrics.append([{"step": 5, "bits_per_byte": 6.5}])
    line.look(3.0)
    assert (line.state, line.tokens, line.loss, line.figure) == ("running", 160, 4.5, ("bits_per_byte", 6.5))
    assert line.speed == (160 - 32) / 2
    assert line.seconds_left == (320 - 160) / 64


def test_a_run_cut_back_to_its_checkpoint_starts_its_speed_again(runs: tuple[RunPlan, ...], folder: RunFolder) -> None:
    line = Line(runs[0], folder)
    for number in (1, 6):
        step(folder, number)
        line.look(float(number))
    folder.metrics.truncate(1)
    line.look(7.0)
    assert line.tokens == 32
    step(folder, 2)
    line.look(8.0)
    assert line.speed == 32.0


def test_only_whole_lines_of_the_tail_are_read(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    assert tail(file) == []
    file.write_text("".join(json.dumps({"step": i, "note": "x" * 100}) + "\n" for i in range(500)) + '{"step": 50')
    lines = tail(file)
    assert lines[-1]["step"] == 499
    assert 50 < len(lines) < 200


def test_a_terminal_shows_a_table(runs: tuple[RunPlan, ...], folder: RunFolder) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120, height=30)
    table = board(2, console)
    assert isinstance(table, LiveTable)
    table.planned(runs[0], folder)
    table.planned(runs[1], RunFolder(folder.path.parent / "other"))
    line = table.lines[runs[0], folder.path]
    for number in (1, 5):
        step(folder, number)
        line.look(float(number))
    text = Console(file=io.StringIO(), width=120)
    text.print(table.render())
    shown = text.file.getvalue()  # type: ignore[attr-defined]
    for word in ("plain", "50%", "4.500", "32", "0:00:05", "wide", "waiting", "0 of 2 runs done", "left"):
        assert word in shown
    assert table.seconds_left() == 10.0, "both at the speed of the one that runs, two at a time"


def test_elsewhere_a_line_for_each_end(runs: tuple[RunPlan, ...], folder: RunFolder) -> None:
    console = Console(file=io.StringIO(), width=40)
    lines = board(1, console)
    assert isinstance(lines, PlainLines)
    with lines:
        for run in runs:
            lines.planned(run, folder)
        folder.write("result.json", {"bits_per_byte": 2.5, "tokens_per_second": 1234.5})
        lines.ended(runs[0], folder, RunEnd(runs[0], str(folder.path), "done"), before=False)
        lines.ended(runs[1], folder, RunEnd(runs[1], None, "failed", "it broke [badly]"), before=False)
    shown = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert shown[0].startswith("plain: 2.5000 bits/byte, 1,234 tokens/s (1 of 2 runs done")
    assert shown[1] == "blockzoo: error: wide: it broke [badly]"


def test_what_runs_is_shown_first_where_not_all_fit(runs: tuple[RunPlan, ...], folder: RunFolder) -> None:
    states = ["done"] * 5 + ["running", "failed"] + ["waiting"] * 5
    lines = [Line(runs[0], folder, state=state) for state in states]  # type: ignore[arg-type]
    assert [line.state for line in fitting(lines, 4)] == ["running", "failed", "waiting", "waiting"]
    assert fitting(lines, 12) == lines
