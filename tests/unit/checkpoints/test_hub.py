"""References: local folders, and repositories of the model hub without a network."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from blockzoo.checkpoints import hub
from blockzoo.errors import CheckpointError

FILES = [
    "config.json",
    "model-00001-of-00002.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "pytorch_model.bin",
    "modeling_evil.py",
    "original/config.json",
    "original/model.safetensors",
    "metal/model.bin",
]


@pytest.mark.parametrize(
    ("ref", "repo", "revision", "wanted"),
    [
        ("openai/gpt-oss-20b", "openai/gpt-oss-20b", None, [FILES[0], FILES[1], FILES[2], FILES[3]]),
        ("openai/gpt-oss-20b@main", "openai/gpt-oss-20b", "main", [FILES[0], FILES[1], FILES[2], FILES[3]]),
        ("openai/gpt-oss-20b/original", "openai/gpt-oss-20b", None, [FILES[6], FILES[7]]),
        ("gpt2", "gpt2", None, [FILES[0], FILES[1], FILES[2], FILES[3]]),
    ],
)
def test_only_what_is_read_is_downloaded(
    ref: str, repo: str, revision: str | None, wanted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "original").mkdir()
    asked: dict[str, Any] = {}

    def snapshot_download(repo_id: str, **options: Any) -> str:
        asked.update(options, repo=repo_id)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    assert hub.local_folder(ref) == tmp_path / ("original" if "original" in ref else "")
    assert (asked["repo"], asked["revision"]) == (repo, revision)
    chosen = [
        name
        for name in FILES
        if any(fnmatch(name, p) for p in asked["allow_patterns"])
        and not any(fnmatch(name, p) for p in asked["ignore_patterns"])
    ]
    assert chosen == wanted


def test_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(repo_id: str, **options: Any) -> str:
        raise LocalEntryNotFoundError("not in the cache, and offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(CheckpointError, match=r"Qwen/Qwen3-0.6B: is no folder here.*offline.*give a local folder"):
        hub.local_folder("Qwen/Qwen3-0.6B")


@pytest.mark.parametrize("ref", ["./here", "/nowhere/at/all", "../x", "a b", "", "http://x/y", "a/../b", "~/nothing"])
def test_paths_are_never_asked_of_the_hub(ref: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: pytest.fail("asked the hub"))
    with pytest.raises(CheckpointError, match="no such folder"):
        hub.local_folder(ref)
