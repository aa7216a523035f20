"""``blockzoo convert``, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blockzoo.checkpoints.folder import stored_tensors
from blockzoo.cli import main


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_there_and_back(data: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("config.json", "model.safetensors"):
        (source / name).write_bytes((data / "gpt-oss-original-tiny" / name).read_bytes())
    (source / "generation_config.json").write_text('{"eos_token_id": 1}')
    assert run("convert", source, tmp_path / "hf", "--to", "hf") == 0
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["model_type"] == "gpt_oss"
    assert (tmp_path / "hf" / "generation_config.json").exists()
    assert run("convert", tmp_path / "hf", tmp_path / "native", "--to", "native", "--dtype", "float32") == 0
    assert run("convert", tmp_path / "native", tmp_path / "back", "--to", "original", "--dtype", "bfloat16") == 0
    before, after = stored_tensors(source), stored_tensors(tmp_path / "back")
    assert before.keys() == after.keys()
    assert all(before[name].read().equal(after[name].read()) for name in before)


def test_what_a_user_gets_wrong(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = data / "gpt-oss-original-tiny"
    for arguments, message in (
        ((source, tmp_path / "out", "--to", "hf", "--dtype", "int4"), "--dtype int4"),
        ((tmp_path / "absent", tmp_path / "out", "--to", "hf"), "no such folder"),
        ((source, tmp_path / "out", "--to", "hff"), "did you mean 'hf'"),
        ((tmp_path, tmp_path, "--to", "hf"), "is the source"),
    ):
        assert run("convert", *arguments) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_random_weights_may_go_to_a_folder_of_their_configs_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = ("--set", "layers.count=1", "--set", "vocab_size=64")
    assert run("convert", "--random", "qwen3-0.6b", "./qwen3-0.6b", "--to", "hf", *tiny) == 0
    assert run("inspect", "./qwen3-0.6b") == 0
    assert run("convert", "--random", "./qwen3-0.6b", "./qwen3-0.6b", "--to", "hf") == 2
    assert "is the source" in capsys.readouterr().err


def test_a_run_is_its_trained_model(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained, model = tmp_path / "run", tmp_path / "run" / "model"
    trained.mkdir()
    (trained / "run.json").write_text("{}")
    (trained / "status.json").write_text('{"state": "interrupted"}')
    assert run("convert", trained, tmp_path / "out", "--to", "native") == 2
    assert "this run is interrupted, it has no trained model yet" in capsys.readouterr().err
    assert run("convert", data / "gpt-oss-original-tiny", model, "--to", "native") == 0
    assert run("convert", trained, tmp_path / "out", "--to", "native") == 0
    assert run("convert", trained, model, "--to", "hf") == 2
    assert "is the source" in capsys.readouterr().err
    assert run("convert", trained, tmp_path / "drawn", "--random") == 0
    assert run("inspect", trained) == 0
    before, after, drawn = (stored_tensors(folder) for folder in (model, tmp_path / "out", tmp_path / "drawn"))
    assert before.keys() == after.keys()
    assert all(before[name].read().equal(after[name].read()) for name in before)
    assert len(drawn) > 0


def test_the_tokenizer_that_a_layout_cannot_name_goes_with_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model of bytes would be read with GPT-2's tokenizer."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    native, hf = tmp_path / "native", tmp_path / "hf"
    small = ("--set", "layers.count=1", "--set", "d_model=48", "--set", "vocab_size=256")
    assert run("convert", "--random", "gpt2", native, "--to", "native", *small, "--set", "tokenizer=bytes") == 0
    assert run("convert", native, hf, "--to", "hf") == 0
    assert "with tokenizer.json, tokenizer_config.json of its tokenizer" in capsys.readouterr().err
    shown = []
    for folder in (native, hf):
        assert run("generate", folder, "--prompt", "h\u00e9", "--show-prompt", "--json") == 0
        shown.append(json.loads(capsys.readouterr().out)["tokens"])
    assert shown == [[104, 0xC3, 0xA9]] * 2
    chosen = ("--set", f"tokenizer={data / 'qwen3-tokenizer'}")
    assert run("convert", hf, tmp_path / "chosen", "--to", "hf", *chosen) == 0
    other = (data / "qwen3-tokenizer" / "tokenizer.json").read_bytes()
    assert (tmp_path / "chosen" / "tokenizer.json").read_bytes() == other
    assert run("convert", hf, tmp_path / "again", "--to", "hf") == 0
    assert (tmp_path / "again" / "tokenizer.json").read_bytes() == (hf / "tokenizer.json").read_bytes()


def test_a_tokenizer_that_is_lost_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that was chosen must be had; a family's own is known to who reads the layout."""
    small = ("--set", "layers.count=1", "--set", "vocab_size=64", "--to", "native")
    assert run("convert", "--random", "qwen3-0.6b", tmp_path / "own", *small) == 0
    assert run("convert", tmp_path / "own", tmp_path / "hf", "--to", "hf") == 0
    assert "no tokenizer files are written: its tokenizer is 'Qwen/Qwen3-0.6B'" in capsys.readouterr().err
    lost = ("--set", f"tokenizer={tmp_path / 'lost'}")
    assert run("convert", "--random", "qwen3-0.6b", tmp_path / "chosen", *small, *lost) == 0
    assert run("convert", tmp_path / "chosen", tmp_path / "out", "--to", "hf") == 2
    assert "lost" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
