"""Downloads from a hub on this machine that breaks off, lies and refuses: whole, or a clear error and nothing half."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch

from blockzoo.checkpoints import from_pretrained, hub, save_pretrained
from blockzoo.checkpoints.hub import transfer
from blockzoo.checkpoints.hub.access import log
from blockzoo.cli import main
from blockzoo.errors import CheckpointError
from blockzoo.model import Decoder
from blockzoo.registry import Registry
from blockzoo.tokenizers import load_tokenizer
from tests.unit.checkpoints.hub_server import COMMIT, Hub, serving

REF = "owner/tiny"
SHARD = "model-00002-of-00004.safetensors"


@pytest.fixture
def files(tmp_path: Path, registry: Registry, checkpoint: Path) -> dict[str, bytes]:
    """A tiny GPT-2 in four shards, with what a repository has besides."""
    model = from_pretrained(checkpoint, registry=registry)
    save_pretrained(model, tmp_path / "sharded", registry=registry, shard_bytes=3000)
    sharded = {path.name: path.read_bytes() for path in (tmp_path / "sharded").iterdir()}
    assert SHARD in sharded
    more = {"pytorch_model.bin": b"pickle", "modeling.py": b"import os", "generation_config.json": b"{}"}
    return {**more, **sharded, "original/model.safetensors": b"other layout", "README.md": b"# Tiny"}


@pytest.fixture
def server(files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub that huggingface_hub asks, with an empty cache and no token, and without waits."""
    with serving(Hub(files)) as served:
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "ENDPOINT", served.endpoint)
        template = served.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(tmp_path / "no-tokens"))
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        monkeypatch.setattr(transfer, "FIRST_WAIT", 0.0)
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100)
        monkeypatch.chdir(tmp_path)
        yield served


@pytest.fixture(autouse=True)
def _quiet_library() -> Iterator[None]:
    library = logging.getLogger("huggingface_hub")
    level = library.level
    library.setLevel(logging.ERROR)
    yield
    library.setLevel(level)


def same(a: Decoder, b: Decoder) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def shards(files: dict[str, bytes]) -> set[str]:
    return {name for name in files if name.startswith("model-")}


def test_a_whole_checkpoint_arrives_and_loads(
    server: Hub, files: dict[str, bytes], checkpoint: Path, registry: Registry
) -> None:
    model = from_pretrained(REF, registry=registry)
    assert same(model, from_pretrained(checkpoint, registry=registry))
    assert model.config.name == "tiny"
    needed = {"config.json", "generation_config.json", "model.safetensors.index.json", *shards(files)}
    assert server.fetched() == needed, "each file that is read, and no other"
    server.asked.clear()
    from_pretrained(f"{REF}@{COMMIT}", registry=registry)
    assert server.asked == [], "a commit that is whole in the cache needs no hub"


def test_what_breaks_off_is_resumed(server: Hub, files: dict[str, bytes], registry: Registry) -> None:
    server.drops[SHARD] = [700, 900]
    server.statuses[SHARD] = [500, 503]
    server.statuses["list"] = [502]
    from_pretrained(REF, registry=registry)
    ranges = [asked for method, path, asked in server.asked if method == "GET" and path.endswith(SHARD)]
    assert ranges == [None, None, None, "bytes=700-", "bytes=1600-"]


def test_a_killed_download_goes_on_where_it_ended(
    server: Hub, files: dict[str, bytes], tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.drops[SHARD] = [700]
    server.statuses[SHARD] = []

    def killed(*arguments: object) -> None:
        server.statuses[SHARD] = [500] * 100

    monkeypatch.setattr("time.sleep", killed)
    with pytest.raises(CheckpointError, match="what was downloaded is kept"):
        from_pretrained(REF, registry=registry)
    parts = list((tmp_path / "cache").rglob("*.incomplete"))
    assert [part.stat().st_size for part in parts] == [700]
    snapshot = next((tmp_path / "cache").rglob(COMMIT))
    assert not (snapshot / SHARD).exists()
    for ref in (snapshot, f"{REF}@{COMMIT}"):  # half is never taken for whole
        with pytest.raises(CheckpointError, match=SHARD):
            _offline(ref, registry)
    server.statuses.clear()
    server.asked.clear()
    from_pretrained(REF, registry=registry)
    assert ("GET", f"/{REF}/resolve/{COMMIT}/{SHARD}", "bytes=700-") in server.asked
    assert server.fetched() <= {SHARD, *shards(files)}
    assert not list((tmp_path / "cache").rglob("*.incomplete"))


def _offline(ref: str | Path, registry: Registry) -> Decoder:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        return from_pretrained(ref, registry=registry)


def test_a_process_that_is_killed(server: Hub, tmp_path: Path, registry: Registry) -> None:
    """The real thing: SIGKILL in the middle of a file, then another process's download of the rest."""
    server.stalls[SHARD] = 900
    script = (
        "import huggingface_hub.constants as c; c.DOWNLOAD_CHUNK_SIZE = 100\n"
        "from blockzoo.checkpoints import hub; hub.local_folder('owner/tiny')\n"
    )
    environment = {**os.environ, "HF_ENDPOINT": server.endpoint, "HF_HUB_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen([sys.executable, "-c", script], env=environment, stderr=subprocess.DEVNULL)
    try:
        assert server.stalled.wait(60)
    finally:
        process.kill()
        process.wait()
    digest = hashlib.sha256(server.files[SHARD]).hexdigest()
    (part,) = (tmp_path / "cache").rglob(f"{digest}.incomplete")
    part.write_bytes(server.files[SHARD][:800])  # what of the 900 had left the process's buffers is a matter of time
    with pytest.raises(CheckpointError, match=rf"not whole in the cache(.|\n)*{SHARD}"):
        _offline(f"{REF}@{COMMIT}", registry)
    from_pretrained(REF, registry=registry)
    assert ("GET", f"/{REF}/resolve/{COMMIT}/{SHARD}", "bytes=800-") in server.asked


def test_a_server_without_ranges(server: Hub, registry: Registry) -> None:
    server.ranges = False
    server.drops[SHARD] = [700]
    from_pretrained(REF, registry=registry)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("damaged", "is damaged: its sha256"),
        ("short", r"\d+ bytes|size"),
        ("long", "sends more than the"),
        ("list", "two sizes"),
        ("absent shard", "names files that are not there"),
    ],
)
def test_lies(
    fault: str, message: str, server: Hub, files: dict[str, bytes], tmp_path: Path, registry: Registry
) -> None:
    data = files[SHARD]
    if fault == "damaged":
        server.sent[SHARD] = data[:-1] + bytes([data[-1] ^ 1])
    elif fault == "short":
        server.sent[SHARD] = data[:-10]
    elif fault == "long":
        server.sent[SHARD] = data + b"more"
    elif fault == "list":
        server.sizes[SHARD] = len(data) + 1
    else:
        server.files = {name: content for name, content in files.items() if name != SHARD}
    with pytest.raises(CheckpointError, match=message):
        from_pretrained(REF, registry=registry)
    assert not [path for path in (tmp_path / "cache").rglob(SHARD) if path.is_file()]
    server.sent.clear()
    server.sizes.clear()
    server.files = files
    if fault in ("list", "absent shard"):  # a commit does not change: what was listed once is remembered
        server.commit = COMMIT[::-1]
    from_pretrained(REF, registry=registry)


def test_small_files_are_verified_too(server: Hub, tmp_path: Path, registry: Registry) -> None:
    server.sent["config.json"] = server.files["config.json"].replace(b"gpt2", b"gptx")
    with pytest.raises(CheckpointError, match="damaged: its sha1"):
        from_pretrained(REF, registry=registry)
    assert not list((tmp_path / "cache").rglob("config.json"))


def test_an_unknown_model_is_refused_before_its_weights(server: Hub, registry: Registry) -> None:
    server.files = {**server.files, "config.json": b'{"model_type": "mystery"}'}
    with pytest.raises(CheckpointError, match="claimed by no family"):
        from_pretrained(REF, registry=registry)
    assert server.fetched() == {"config.json", "generation_config.json"}


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        ((401, "RepoNotFound"), "a private one: then log in by `hf auth login`, or set HF_TOKEN"),
        ((403, "GatedRepo"), "is gated: accept its terms on http.*/owner/tiny, then log in"),
        ((401, None), "log in by"),
        ((403, None), "refuses access"),
    ],
)
def test_refusals_name_the_fix(refusal: tuple[int, str | None], message: str, server: Hub, registry: Registry) -> None:
    server.token, server.refusal = "hf_right", refusal
    with pytest.raises(CheckpointError, match=message):
        from_pretrained(REF, registry=registry)
    with pytest.raises(CheckpointError, match="token in use"):
        hub.local_folder(REF, access=hub.Access(token="hf_wrong"))
    assert hub.local_folder(REF, access=hub.Access(token="hf_right")).name == COMMIT


def test_absent_ones(server: Hub, registry: Registry) -> None:
    for ref, message in (
        ("owner/none", "no repository on the hub"),
        (f"{REF}@never", "has no revision 'never'"),
        (f"{REF}/nowhere", "has no folder 'nowhere'; with weights: original"),
    ):
        with pytest.raises(CheckpointError, match=message):
            from_pretrained(ref, registry=registry)


def test_offline(server: Hub, registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(CheckpointError, match=r"not in the cache.*offline"):
        _offline(REF, registry)
    assert server.asked == []
    from_pretrained(REF, registry=registry)
    server.asked.clear()
    _offline(REF, registry)
    assert server.asked == []
    server.statuses["list"] = [503] * 9
    with caplog.at_level(logging.WARNING, logger=log.name):
        from_pretrained(REF, registry=registry)
    assert f"taking {COMMIT}" in caplog.text


def test_a_cache_that_another_program_filled(server: Hub, tmp_path: Path, registry: Registry) -> None:
    from_pretrained(REF, registry=registry)
    for record in (tmp_path / "cache").rglob("blockzoo/*.json"):
        record.unlink()
    _offline(REF, registry)
    (next((tmp_path / "cache").rglob(COMMIT)) / SHARD).unlink()
    with pytest.raises(CheckpointError, match=rf"not whole in the cache(.|\n)*{SHARD}"):
        _offline(REF, registry)


def test_a_damaged_cache_is_mended(server: Hub, tmp_path: Path, registry: Registry) -> None:
    folder = hub.local_folder(REF)
    shard = folder / SHARD
    good = shard.read_bytes()
    shard.resolve().write_bytes(good[:-1])
    assert (hub.local_folder(REF) / SHARD).read_bytes() == good
    shard.resolve().write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    said: list[str] = []
    assert (hub.local_folder(REF, access=hub.Access(again=True, say=said.append)) / SHARD).read_bytes() == good
    assert "is damaged" in said[0]


def test_too_small_a_disk(server: Hub, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 4000})())
    with pytest.raises(CheckpointError, match="4,000 free"):
        from_pretrained(REF, registry=registry)


def test_tokenizers_need_no_weights(server: Hub, data: Path, registry: Registry) -> None:
    source = next(data.glob("*/tokenizer.json"), None)
    if source is None:
        pytest.skip(f"no tokenizer.json in {data}")
    server.files = {**server.files, "tokenizer.json": source.read_bytes()}
    tokenizer = load_tokenizer(REF, registry=registry)
    assert tokenizer.decode(tokenizer.encode("of mice")) == "of mice"
    assert not any(name.endswith(".safetensors") for name in server.fetched())


# --- the verb ---------------------------------------------------------------------------------------------------------


def test_the_verb(server: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download", REF]) == 0
    out, err = capsys.readouterr()
    assert Path(out.strip()).name == COMMIT
    assert f"'main' is commit {COMMIT}" in err
    assert main(["download", REF, "--offline", "--verify", "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert (about["commit"], about["revision"], about["layout"]) == (COMMIT, "main", "hf")
    assert about["files"][SHARD] == len(server.files[SHARD])


def test_into_a_folder(
    server: Hub, tmp_path: Path, files: dict[str, bytes], registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    out, part = tmp_path / "out", tmp_path / ".out.downloading"
    server.statuses[SHARD] = [500] * transfer.TRIES
    assert main(["download", REF, "--to", str(out)]) == 2
    assert "what was downloaded is kept" in capsys.readouterr().err
    assert part.is_dir()
    assert not out.exists()
    server.asked.clear()
    assert main(["download", REF, "--to", str(out)]) == 0
    assert SHARD in server.fetched()
    assert "config.json" not in server.fetched(), "what had arrived is kept"
    assert not part.exists()
    record = json.loads((out / "blockzoo-download.json").read_text())
    assert record["reference"] == f"{REF}@{COMMIT}"
    assert {path.name for path in out.iterdir()} == {"blockzoo-download.json", *record["files"]}
    model = from_pretrained(out, registry=registry)
    assert main(["download", REF, "--to", str(out), "--verify"]) == 0
    assert main(["download", REF, "--to", str(tmp_path / "second"), "--offline"]) == 2, "weights are not in the cache"
    (out / SHARD).write_bytes(files[SHARD][:-1])
    assert main(["download", REF, "--to", str(out)]) == 2
    assert "is not as it was downloaded" in capsys.readouterr().err
    save_pretrained(model, out, registry=registry)  # a folder that we made may be replaced
    (out / "notes.txt").write_text("mine")
    assert main(["download", REF, "--to", str(out)]) == 2
    assert "choose another place" in capsys.readouterr().err


def test_only_the_layout_that_is_asked(
    server: Hub, data: Path, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    original, top = data / "gpt-oss-original-tiny", Path("top")
    model = from_pretrained(original, registry=registry)
    save_pretrained(model, top, registry=registry)
    server.files = {path.name: path.read_bytes() for path in top.iterdir()} | {
        f"original/{name}": (original / name).read_bytes() for name in ("config.json", "model.safetensors")
    }
    assert main(["download", REF, "--layout", "original"]) == 0
    assert Path(capsys.readouterr().out.strip()).name == "original"
    assert server.fetched() == {"config.json", "original/config.json", "original/model.safetensors"}
    assert same(_offline(f"{REF}/original", registry), model)
    assert main(["download", REF, "--layout", "hf"]) == 0
    assert same(from_pretrained(REF, registry=registry), model)
    assert main(["download", REF, "--layout", "orignal"]) == 2
    assert "did you mean 'original'" in capsys.readouterr().err


def test_what_a_user_gets_wrong(server: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        ((str(tmp_path),), "nothing to download"),
        ((f"{REF}@main", "--revision", "main"), "leave one of them out"),
        ((REF, "--layout", "original"), "is in the layout 'hf'"),
        ((REF, "--offline"), "not in the cache"),
        (("a b",), "no such folder"),
    ):
        assert main(["download", *arguments]) == 2
        assert message in capsys.readouterr().err
