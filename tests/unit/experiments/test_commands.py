"""The verbs train, generate and compare, as a user types them."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from blockzoo.cli import main
from blockzoo.errors import CheckpointError

from .conftest import EXPERIMENT, write


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture
def base(experiment_file: Path) -> Path:
    return experiment_file.parent / "base.yaml"


def test_compare_tabulates_skips_and_reports(
    experiment_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs"
    assert run("compare", experiment_file, "--out", out) == 0
    shown = capsys.readouterr()
    for word in ("plain", "wide", "bits per byte", "decode tokens/s", "KV cache", "run folders:", "writes:", "report:"):
        assert word in shown.out
    assert "inconclusive" in shown.out, "one seed decides nothing"
    (folder,) = (file.parent for file in out.glob("*/experiment.json"))
    assert (folder / "report.html").is_file()
    assert run("compare", experiment_file, "--out", out, "--json") == 0
    again = capsys.readouterr()
    assert again.err.count("done already") == 2
    results = json.loads(again.out)
    assert Path(results["folder"]) == folder
    assert [arm["runs"][0]["state"] for arm in results["arms"]] == ["done", "done"]
    assert results["arms"][0]["tokens"] == 4 * 2 * 16
    assert results["arms"][0]["texts"][0].startswith("the ")


def test_a_failed_arm_does_not_stop_the_others(
    experiment_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arms = {"plain": {"train": {"optimizer.lr": 1e9, "optimizer.clip": None, "steps": 40}}, "wide": {}}
    write(experiment_file, {**EXPERIMENT, "arms": arms})
    assert run("compare", experiment_file, "--out", tmp_path / "runs", "--json") == 1
    shown = capsys.readouterr()
    plain, wide = json.loads(shown.out)["arms"]
    assert plain["sample"]["mean"] is None
    assert "training diverged" in plain["runs"][0]["error"]
    assert wide["sample"]["mean"] > 0
    assert "1 of 2 runs failed (of plain)" in shown.err


def test_an_arm_without_an_optimum_is_a_failure_with_advice(
    experiment_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = {"type": "grid", "points": [1e-6, 1e-5], "extend": 0}
    write(experiment_file, {**EXPERIMENT, "arms": {"plain": {}}, "learning_rate": grid})
    assert run("compare", experiment_file, "--out", tmp_path / "runs", "--workers", 2) == 1
    shown = capsys.readouterr()
    assert "no verdict runs: the best learning rate is the" in shown.out
    assert "no verdict runs of plain" in shown.err


def test_ctrl_c_stops_the_comparison_and_saves(
    experiment_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs"

    def press() -> None:
        deadline = time.monotonic() + 60
        while not list(out.glob("*/metrics.jsonl")) and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    assert run("compare", experiment_file, "--out", out, "--set", "train.steps=1000000") == 130
    thread.join()
    assert "what ran is saved, the same command goes on from there" in capsys.readouterr().err
    assert not list(tmp_path.glob("runs/wide-*"))


def test_a_dry_run_trains_nothing(experiment_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("compare", experiment_file, "--out", tmp_path / "runs", "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["runs"] == 2
    assert run("compare", experiment_file, "--out", tmp_path / "runs", "--dry-run") == 0
    assert "2 for the verdict" in capsys.readouterr().err
    assert not list(tmp_path.glob("runs/*/run.json"))


def test_a_report_that_cannot_be_written_hides_no_result(
    experiment_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise CheckpointError("report.html: can't be written (No space left on device); nothing was changed")

    monkeypatch.setattr("blockzoo.cli.compare.write_report", full)
    assert run("compare", experiment_file, "--out", tmp_path / "runs") == 2
    shown = capsys.readouterr()
    assert "bits per byte" in shown.out
    assert "No space left" in shown.err


def test_train_then_generate(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = base.parent / "words.txt"
    arguments = ("train", base, "--data", text, "--steps", 3, "--set", "train.batch_size=2", "--out", tmp_path / "runs")
    assert run(*arguments, "--json") == 0
    first = json.loads(capsys.readouterr().out)
    assert first["tokens"] == 3 * 2 * 16
    assert run(*arguments) == 0
    assert "done already" in capsys.readouterr().err
    for ref in (first["folder"], first["model"]):
        assert run("generate", ref, "--prompt", "the ", "--max-new-tokens", 5, "--temperature", 1, "--seed", 3) == 0
    texts = capsys.readouterr().out
    half = len(texts) // 2
    assert texts[:half] == texts[half:]
    assert texts.startswith("the ")
    assert run("generate", first["folder"], "--prompt", "the ", "--max-new-tokens", 5, "--json") == 0
    assert json.loads(capsys.readouterr().out)["prompt"] == "the "


def test_generate_from_a_config_warns(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("generate", base, "--prompt", "a", "--max-new-tokens", 3) == 0
    shown = capsys.readouterr()
    assert "without weights" in shown.err
    assert shown.out.startswith("a")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt", ""], "the prompt is empty"),
        (["--prompt", "a", "--max-new-tokens", "16"], "the model's context holds 16"),
        (["--prompt", "a", "--top-p", "2"], "top_p is 2"),
        (["--prompt", "a", "--dtype", "int4"], "--dtype int4"),
        (["./nowhere", "--prompt", "a"], "./nowhere: no such folder"),
        (["--prompt", "a", "--device", "warp"], "device 'warp' can't be used here"),
    ],
)
def test_wrong_input_to_generate(
    base: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    refs = [] if "./nowhere" in arguments else [base]
    assert run("generate", *refs, *arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "train.batchsize=3"], "batchsize"),
        (["--set", "d_mode=3"], "d_mode"),
        (["--data", "nowhere.txt"], "nowhere.txt: no such file or folder"),
        (["--set", "train.block=17"], "train.block is 17"),
        (["--recipe", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["--steps", "0"], "steps"),
    ],
)
def test_wrong_input_to_train(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    extra = [] if "--data" in arguments else ["--data", str(base.parent / "words.txt")]
    assert run("train", base, "--out", tmp_path / "runs", *extra, *arguments) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
