"""The verbs train, generate and compare, as a user types them."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from blockzoo.cli import main
from blockzoo.training.loop import Training


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture
def base(experiment_file: Path) -> Path:
    return experiment_file.parent / "base.yaml"


def test_compare_tabulates_skips_and_goes_on(
    experiment_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs"
    assert run("compare", experiment_file, "--out", out) == 0
    shown = capsys.readouterr()
    for word in ("plain", "wide", "bits per byte", "decode tokens/s", "KV cache", "run folders:", "writes:"):
        assert word in shown.out
    assert run("compare", experiment_file, "--out", out, "--json") == 0
    again = capsys.readouterr()
    assert again.err.count("done already") == 2
    arms = json.loads(again.out)["arms"]
    assert [arm["state"] for arm in arms] == ["done", "done"]
    assert arms[0]["tokens"] == 4 * 2 * 16
    assert arms[0]["samples"][0].startswith("the ")
    assert Path(arms[0]["folder"], "model").is_dir()


def test_a_failed_arm_does_not_stop_the_others(
    experiment_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = Training.advance

    def fails(self: Training) -> Any:
        if self.model.config.name == "plain" and self.step == 2:
            raise ValueError("a block went wrong")
        return advance(self)

    monkeypatch.setattr(Training, "advance", fails)
    assert run("compare", experiment_file, "--out", tmp_path / "runs", "--json") == 1
    shown = capsys.readouterr()
    plain, wide = json.loads(shown.out)["arms"]
    assert plain["bits_per_byte"] is None
    assert "a block went wrong" in plain["error"]
    assert wide["bits_per_byte"] > 0
    assert "1 of 2 arms failed: plain" in shown.err
    monkeypatch.undo()
    assert run("compare", experiment_file, "--out", tmp_path / "runs") == 0


def test_ctrl_c_stops_the_comparison_and_saves(
    experiment_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = Training.advance

    def pressed(self: Training) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return advance(self)

    monkeypatch.setattr(Training, "advance", pressed)
    assert run("compare", experiment_file, "--out", tmp_path / "runs") == 130
    shown = capsys.readouterr()
    assert "stopped after step 1 of 4; it is saved" in shown.err
    assert not list(tmp_path.glob("runs/wide-*"))


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
