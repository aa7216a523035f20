"""References: local folders, and repositories of the model hub, which is not asked here."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest

from blockzoo.checkpoints import hub
from blockzoo.checkpoints.folder import name_of, path_in
from blockzoo.errors import CheckpointError


@pytest.mark.parametrize(
    ("ref", "repo", "folder", "revision"),
    [
        ("openai/gpt-oss-20b", "openai/gpt-oss-20b", "", "main"),
        ("openai/gpt-oss-20b@v1", "openai/gpt-oss-20b", "", "v1"),
        ("openai/gpt-oss-20b/original", "openai/gpt-oss-20b", "original", "main"),
        ("openai/gpt-oss-20b/original@v1", "openai/gpt-oss-20b", "original", "v1"),
        ("gpt2", "gpt2", "", "main"),
    ],
)
def test_what_a_reference_means(
    ref: str, repo: str, folder: str, revision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = hub.parse(ref)
    assert place == hub.Reference(repo, folder, revision)
    assert hub.parse(str(place)) == place


@pytest.mark.parametrize("ref", ["./here", "/nowhere/at/all", "../x", "a b", "", "http://x/y", "a/../b", "~/nothing"])
def test_paths_are_never_asked_of_the_hub(ref: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda *a, **k: pytest.fail("asked the hub"))
    with pytest.raises(CheckpointError, match="no such folder"):
        hub.local_folder(ref)


@pytest.mark.parametrize("inside", ["", "original"])
@pytest.mark.parametrize("blob", ["models--o--m/blobs/abc", "blobs/ab/abc"])
def test_links_of_a_hub_cache(inside: str, blob: str, tmp_path: Path) -> None:
    """Into the repository's blobs, or those that all repositories of a cache share; nowhere else."""
    folder = tmp_path / "models--o--m" / "snapshots" / "1234" / inside
    folder.mkdir(parents=True)
    target = tmp_path / blob
    target.parent.mkdir(parents=True)
    target.write_text("{}")
    (folder / "config.json").symlink_to(target)
    assert path_in(folder, "config.json") == target.resolve()
    assert name_of(folder) == "m"
    (tmp_path / "secret").write_text("{}")
    (folder / "stolen.json").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match="link out of the folder"):
        path_in(folder, "stolen.json")
