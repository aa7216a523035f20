"""Checkpoints from strangers and accidents: one readable error, in bounded time and memory, nothing executed."""

from __future__ import annotations

import json
import os
import pickle
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from blockzoo.checkpoints import from_pretrained
from blockzoo.checkpoints.convert import convert
from blockzoo.checkpoints.folder import CONFIG_BYTES, stored_tensors
from blockzoo.checkpoints.safetensors_io import HEADER_BYTES, Planned, read_header, write_safetensors
from blockzoo.errors import BlockzooError, CheckpointError
from blockzoo.registry import Registry

WTE = "transformer.wte.weight"


def refused(folder: Path, registry: Registry, match: str) -> None:
    with pytest.raises(CheckpointError, match=match):
        from_pretrained(folder, registry=registry)


def change_config(folder: Path, **changes: Any) -> None:
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **changes}))


def change_header(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Rewrite the header of model.safetensors; the data stays."""
    path = folder / "model.safetensors"
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    changed = change(header)
    text = changed if isinstance(changed, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = {name: stored.read() for name, stored in stored_tensors(folder).items()}
    change(tensors)
    planned = [Planned(name, t.dtype, tuple(t.shape), lambda t=t: t) for name, t in tensors.items()]
    write_safetensors(folder / "model.safetensors", planned)


def with_index(folder: Path, shard: str) -> None:
    names = list(read_header(folder / "model.safetensors"))
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, shard)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../outside.safetensors",
        "/etc/passwd",
        "a/b.safetensors",
        "..",
        "",
        "a\\b.safetensors",
        "nul\0.safetensors",
        "\ud800.safetensors",
    ],
)
def test_shard_names_that_lead_elsewhere(name: str, checkpoint: Path, registry: Registry) -> None:
    (checkpoint.parent / "outside.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes())
    with_index(checkpoint, name)
    refused(checkpoint, registry, "no plain file name")


def test_symlinks_out_of_the_folder(checkpoint: Path, registry: Registry) -> None:
    outside = checkpoint.parent / "outside.safetensors"
    (checkpoint / "model.safetensors").rename(outside)
    (checkpoint / "model.safetensors").symlink_to(outside)
    refused(checkpoint, registry, "is a link out of the folder")


def test_a_symlinked_config(checkpoint: Path, registry: Registry) -> None:
    (checkpoint / "config.json").rename(checkpoint.parent / "config.json")
    (checkpoint / "config.json").symlink_to("../config.json")
    refused(checkpoint, registry, "is a link out of the folder")


def test_a_loop_of_symlinks(checkpoint: Path, registry: Registry) -> None:
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "model.safetensors").symlink_to("model.safetensors")
    refused(checkpoint, registry, "can't be opened")


def test_the_snapshot_of_a_download_is_links_into_its_blobs(checkpoint: Path, registry: Registry) -> None:
    repository = checkpoint.parent / "models--someone--tiny"
    snapshot = repository / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, file in enumerate(sorted(checkpoint.iterdir())):
        file.rename(repository / "blobs" / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    from_pretrained(snapshot, registry=registry)
    (snapshot / "config.json").unlink()
    (checkpoint.parent / "secret").write_text("{}")
    (snapshot / "config.json").symlink_to("../../../secret")
    refused(snapshot, registry, "is a link out of the folder")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "blockzoo.yaml"])
def test_pipes_are_not_waited_for(name: str, checkpoint: Path, registry: Registry) -> None:
    (checkpoint / name).unlink(missing_ok=True)
    os.mkfifo(checkpoint / name)
    refused(checkpoint, registry, "is no regular file")


def test_sockets_and_folders(checkpoint: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkpoint / "model.safetensors").unlink()
    monkeypatch.chdir(checkpoint)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("model.safetensors")
        refused(checkpoint, registry, "is no regular file")
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "model.safetensors").mkdir()
    refused(checkpoint, registry, "is no regular file")


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 4, 8, 100, -1, -100])
def test_truncation(keep: int, checkpoint: Path, registry: Registry) -> None:
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    refused(checkpoint, registry, "truncated|no safetensors file")


def test_a_file_that_shrinks_after_its_header_was_read(checkpoint: Path) -> None:
    stored = read_header(checkpoint / "model.safetensors")
    os.truncate(checkpoint / "model.safetensors", 3000)
    with pytest.raises(CheckpointError, match="it is truncated"):
        [tensor.read() for tensor in stored.values()]


def test_a_missing_shard(checkpoint: Path, registry: Registry) -> None:
    with_index(checkpoint, "model-00002-of-00002.safetensors")
    refused(checkpoint, registry, r"1 of its 1 files are not there(.|\n)*model-00002-of-00002.safetensors")


def test_an_index_that_lies(checkpoint: Path, registry: Registry) -> None:
    with_index(checkpoint, "model-00001-of-00001.safetensors")
    path = checkpoint / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    del index["weight_map"][WTE]
    index["weight_map"]["ghost"] = "model-00001-of-00001.safetensors"
    path.write_text(json.dumps(index))
    refused(checkpoint, registry, rf"(?s)'ghost' is not in.*'{WTE}' is in")
    path.write_text('{"weight_map": [1]}')
    refused(checkpoint, registry, "must map tensor names")


def test_stale_files_beside_each_other(checkpoint: Path, registry: Registry) -> None:
    (checkpoint / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    refused(checkpoint, registry, "remove the one that is stale")


class Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("touch executed",))


def test_pickles_are_never_read(checkpoint: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkpoint)
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "pytorch_model.bin").write_bytes(pickle.dumps(Runs()))
    refused(checkpoint, registry, "only pickled weights")
    assert not (checkpoint / "executed").exists()


# --- headers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [HEADER_BYTES + 1, 2**40, 2**63, 2**64 - 1])
def test_lying_header_lengths(length: int, checkpoint: Path, registry: Registry) -> None:
    path = checkpoint / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    refused(checkpoint, registry, "says its header has")


def test_a_header_that_is_too_large(checkpoint: Path, registry: Registry) -> None:
    with open(checkpoint / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", HEADER_BYTES + 1))
        file.truncate(HEADER_BYTES + 100)
    refused(checkpoint, registry, "at most")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b"not json", "no valid JSON"),
        (b"[" * 200_000, "no valid JSON"),
        (b"[]", "not an object"),
        (b'{"a": ' * 100_000 + b"1" + b"}" * 100_000, "no valid JSON"),
        (b'{"a": {}, "a": {}}', "repeated key 'a'"),
        (b'{"a": 1}', "must have dtype, shape and data_offsets"),
        (b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], "more": 1}}', "must have dtype, shape"),
        (b'{"a": {"dtype": "F32", "shape": [' + b"9" * 5000 + b'], "data_offsets": [0, 4]}}', "no valid JSON"),
        (b"\xff\xfe{}", "no valid JSON"),
    ],
)
def test_headers_that_are_none(text: bytes, match: str, checkpoint: Path, registry: Registry) -> None:
    change_header(checkpoint, lambda header: text)
    refused(checkpoint, registry, match)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"dtype": "F99"}, "dtype 'F99' is not read"),
        ({"dtype": ["F32"]}, "is not read"),
        ({"dtype": "BF16"}, "takes"),
        ({"shape": [50, 9]}, "takes"),
        ({"shape": [2**62, 2**62]}, "takes"),
        ({"shape": [2**70]}, "no list of at most 8 sizes"),
        ({"shape": [-50, -8]}, "no list of at most 8 sizes"),
        ({"shape": [50.0, 8]}, "no list of at most 8 sizes"),
        ({"shape": [True] * 3}, "no list of at most 8 sizes"),
        ({"shape": [1] * 100}, "no list of at most 8 sizes"),
        ({"shape": "50"}, "no list of at most 8 sizes"),
        ({"data_offsets": [0, 2**60]}, "lie outside the file"),
        ({"data_offsets": [-8, 1592]}, "lie outside the file"),
        ({"data_offsets": [1600, 0]}, "lie outside the file"),
        ({"data_offsets": [4, 1604]}, "overlaps|leaves a hole"),
        ({"data_offsets": [0]}, "lie outside the file"),
    ],
)
def test_lying_entries(change: dict[str, Any], match: str, checkpoint: Path, registry: Registry) -> None:
    change_header(checkpoint, lambda header: header[WTE].update(change))
    refused(checkpoint, registry, match)


def test_overlaps(checkpoint: Path, registry: Registry) -> None:
    def overlap(header: dict[str, Any]) -> None:
        header["again"] = dict(header[WTE])

    change_header(checkpoint, overlap)
    refused(checkpoint, registry, "overlaps another")


def test_holes(checkpoint: Path, registry: Registry) -> None:
    change_header(checkpoint, lambda header: header.pop("transformer.h.0.ln_1.bias"))
    refused(checkpoint, registry, "leaves a hole")


def test_bytes_after_the_last_tensor(checkpoint: Path, registry: Registry) -> None:
    with open(checkpoint / "model.safetensors", "ab") as file:
        file.write(b"more")
    refused(checkpoint, registry, "4 bytes that belong to no tensor")


# --- tensors ----------------------------------------------------------------------------------------------------------


def test_all_that_does_not_fit_at_once(checkpoint: Path, registry: Registry) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["transformer.h.0.ln_1.bias"]
        tensors["transformer.h.7.ln_1.bias"] = torch.zeros(8)
        tensors["transformer.h.0.attn.masked_bias.more"] = torch.zeros(1)
        tensors["transformer.h.1.mlp.c_fc.weight"] = torch.zeros(32, 8)
        tensors["transformer.ln_f.weight"] = torch.zeros(8, dtype=torch.int32)

    change_tensors(checkpoint, spoil)
    with pytest.raises(CheckpointError) as caught:
        from_pretrained(checkpoint, registry=registry)
    message = str(caught.value)
    assert "missing: 'transformer.h.0.ln_1.bias' (8,)" in message
    assert "not known in this layout: 'transformer.h.7.ln_1.bias'" in message
    assert "not known in this layout: 'transformer.h.0.attn.masked_bias.more'" in message
    assert "'transformer.h.1.mlp.c_fc.weight' has shape (32, 8), the config wants (8, 32)" in message
    assert "'transformer.ln_f.weight' is int32, the config wants a float" in message


def test_names_that_a_wrapper_put_something_before(checkpoint: Path, registry: Registry) -> None:
    def wrap(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[f"module.{name}"] = tensors.pop(name)

    change_tensors(checkpoint, wrap)
    with pytest.raises(CheckpointError) as caught:
        from_pretrained(checkpoint, registry=registry)
    message = str(caught.value)
    assert "not known in this layout: 'module.transformer.h.0.attn.c_attn.bias'" in message
    assert message.endswith("every missing one is there with 'module.transformer.' before its name: take that off")


@pytest.mark.parametrize("name", [WTE, "transformer.h.1.attn.c_attn.weight", "transformer.h.0.ln_1.bias"])
def test_nan_is_refused_wherever_it_is(name: str, checkpoint: Path, registry: Registry) -> None:
    change_tensors(checkpoint, lambda tensors: tensors[name].view(-1)[-1:].fill_(float("nan")))
    refused(checkpoint, registry, f"'{name}' has NaN")


def test_infinity_is_refused_in_a_matrix(checkpoint: Path, registry: Registry) -> None:
    change_tensors(checkpoint, lambda tensors: tensors[WTE][3, :1].fill_(float("-inf")))
    refused(checkpoint, registry, f"'{WTE}' has infinity")


def test_what_float16_cannot_hold_is_refused(checkpoint: Path, registry: Registry, tmp_path: Path) -> None:
    change_tensors(checkpoint, lambda tensors: tensors[WTE][3, :1].fill_(1e5))
    match = "has 99840 in it|has 100000 in it, more than float16 holds: say bfloat16 or float32"
    with pytest.raises(CheckpointError, match=match):
        from_pretrained(checkpoint, registry=registry, dtype=torch.float16)
    with pytest.raises(CheckpointError, match=match):
        convert(checkpoint, tmp_path / "new", registry=registry, layout="native", dtype=torch.float16)
    assert not (tmp_path / "new").exists()
    from_pretrained(checkpoint, registry=registry, dtype=torch.bfloat16)


# --- config.json ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"auto_map": {"AutoModelForCausalLM": "evil.Model"}},
        {"trust_remote_code": True},
        {"custom_pipelines": {"text-generation": {"impl": "evil.Pipeline"}}},
    ],
)
def test_remote_code(changes: dict[str, Any], checkpoint: Path, registry: Registry) -> None:
    (checkpoint / "evil.py").write_text("raise SystemExit")
    change_config(checkpoint, **changes)
    refused(checkpoint, registry, "asks for code of its own")


@pytest.mark.parametrize(
    "changes",
    [
        {"n_embd": 2**19},
        {"n_embd": 10**30},
        {"n_layer": 10_000},
        {"n_layer": 10**9},
        {"vocab_size": 2**26},
        {"vocab_size": 10**18},
        {"n_positions": 2**26},
        {"n_inner": 2**22},
        {"n_embd": 0},
        {"n_embd": -8},
        {"n_embd": "8"},
        {"n_embd": 8.0},
        {"n_embd": True},
        {"n_head": 3},
        {"n_head": [2]},
        {"layer_norm_epsilon": 0},
        {"layer_norm_epsilon": "tiny"},
        {"embd_pdrop": 2},
        {"activation_function": "softsign"},
        {"activation_function": 3},
        {"scale_attn_by_inverse_layer_idx": "yes"},
        {"reorder_and_upcast_attn": 1},
        {"add_cross_attention": True},
        {"model_type": "bert"},
        {"model_type": ["gpt2"]},
        {"quantization_config": {"quant_method": "gptq"}},
        {"some_new_mechanism": {"on": True}},
        {"tie_word_embeddings": "yes"},
    ],
)
def test_config_values_that_make_no_sense(changes: dict[str, Any], checkpoint: Path, registry: Registry) -> None:
    change_config(checkpoint, **changes)
    with pytest.raises(BlockzooError):
        from_pretrained(checkpoint, registry=registry)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{",
        b'{"n_embd": NaN}',
        b'{"n_embd": 1, "n_embd": 2}',
        b"[" * 100_000,
        b"\x80",
        b'{"a": ' + b"9" * 5000 + b"}",
    ],
)
def test_config_files_that_are_no_json(text: bytes, checkpoint: Path, registry: Registry) -> None:
    (checkpoint / "config.json").write_bytes(text)
    refused(checkpoint, registry, "no valid JSON")


def test_a_huge_config_file(checkpoint: Path, registry: Registry) -> None:
    with open(checkpoint / "config.json", "wb") as file:
        file.truncate(10**12)
    refused(checkpoint, registry, f"larger than {CONFIG_BYTES} bytes")


def test_places_without_a_checkpoint(tmp_path: Path, registry: Registry) -> None:
    refused(tmp_path, registry, "holds neither blockzoo.yaml nor config.json")
    refused(tmp_path / "absent", registry, "no such folder")
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / "blockzoo.yaml").touch()
    refused(tmp_path / "run", registry, f"a checkpoint is in {tmp_path / 'run' / 'model'}: name that")
    steps = tmp_path / "run" / "checkpoints" / "step-00000010"
    steps.mkdir(parents=True)
    for folder in (steps, steps.parent):
        refused(folder, registry, f"going on with a run; its trained model is in {tmp_path / 'run' / 'model'}: name")
    refused(Path("/dev/null"), registry, "is no folder")
    (tmp_path / "original").mkdir()
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    refused(tmp_path, registry, "did you mean the folder 'original'")
