"""The verbs that report: what they print for people, and the one document under --json."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from blockzoo.blocks import KINDS
from blockzoo.cli import main
from blockzoo.cli.kernels import collapse, ranges
from blockzoo.kernels import Binding
from blockzoo.plugins import reset_host
from tests.docs.test_plugin_pages import files_of

Cli = Callable[..., tuple[int, str, str]]
WRONG = """\
vocab_size: 256
context_length: 64
d_model: 30
norm: {type: rms_nrm}
position: {type: rope, thta: 1}
layers: {count: 2, mixer: {type: gqa, n_heads: 4}, ffn: {type: mlp, d_ff: 64}}
"""
TINY = """\
name: tiny
vocab_size: 256
context_length: 64
d_model: 32
norm: rms_norm
position: rope
blocks:
  local: {type: gqa, n_heads: 4, window: 8}
  full: {use: local, window: null}
layers: {count: 4, mixer: {cycle: [local, full]}, ffn: {type: mlp, d_ff: 64}}
"""


@pytest.fixture(scope="module", autouse=True)
def only_built_in() -> Iterator[None]:
    """Whatever else this machine has installed is no part of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BLOCKZOO_PLUGINS", "none")
        reset_host()
        yield
    reset_host()


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    (tmp_path / "tiny.yaml").write_text(TINY)
    return str(tmp_path / "tiny.yaml")


def document(result: tuple[int, str, str]) -> Any:
    status, out, _ = result
    assert status == 0
    return json.loads(out)


def test_list(cli: Cli) -> None:
    found = document(cli("list", "--json"))
    assert {row["name"] for row in found["norm"]} >= {"rms_norm", "layer_norm"}
    assert {"name": "gqa", "plugin": "blocks"}.items() <= found["mixer"][0].items()
    assert {row["op"] for row in found["kernel"]} >= {"attention"}
    assert {row["name"] for row in found["config"]} >= {"gpt2", "qwen3-0.6b", "gpt-oss-20b"}
    status, out, _ = cli("list", "norm")
    assert status == 0
    assert "rms_norm" in out
    assert "gqa" not in out
    assert cli("list", "nrm")[0] == 2


def test_list_ends_no_description_in_the_middle_of_a_sentence(cli: Cli) -> None:
    rows = document(cli("list", "--json"))
    about = {row["name"]: row["about"] for kind in (*KINDS, "op") for row in rows[kind]}
    assert [name for name, said in about.items() if not said.endswith(".")] == []
    assert about["mix_experts"].endswith("added up: (N, D).")
    assert about["linear"] == "x (..., in) @ weight (out, in).T + bias."


def test_list_has_the_options_of_a_block(cli: Cli) -> None:
    rows = {row["option"]: row for row in document(cli("list", "gqa", "--json"))["mixer"]}
    assert rows["n_heads"]["default"] == "required"
    assert rows["window"]["takes"] == "whole number > 0, or null"
    assert rows["qk_norm"]["takes"] == "a norm block"
    assert rows["bias"]["takes"] == "true or false, or a list of q | k | v | o"
    assert "router.weights" in cli("list", "blocks:moe")[1]
    assert "scaling.yarn.beta_fast" in cli("list", "rope")[1]
    assert "It has no options." in cli("list", "mxfp4")[1]
    assert "did you mean 'gqa'" in cli("list", "gqaa")[2]


def test_list_has_what_an_op_takes(cli: Cli) -> None:
    said = document(cli("list", "gate", "--json"))["op"]
    assert said["about"].startswith("activation(gate) * (up + up_shift), ")
    assert said["call"] == (
        "gate(gate: Tensor, up: Tensor, *, activation: Activation, activation_scale: float, limit: float | None,"
        " up_shift: float) -> Tensor"
    )
    assert said["static"] == ["activation", "activation_scale", "limit", "up_shift"]
    assert said["tolerances"]["bfloat16"] == 0.01
    assert "cpu_gate" in {kernel["name"] for kernel in said["kernels"]}
    both = document(cli("list", "rms_norm", "--json"))
    assert both.keys() == {"norm", "op"}
    _, out, _ = cli("list", "blocks:attention")
    assert "op attention: q (B, H, T, Dh), k (B, Hk, S, Dh), v (B, Hk, S, Dv) -> (B, H, T, Dv)." in out
    assert "window: int | None = None" in out
    assert "kernels may be off, of the greatest value: float64 1e-12, float32 1e-05" in out
    assert "sdpa" in out
    assert "did you mean 'gate'" in cli("list", "gates")[2]


def test_show_lists_the_weights(cli: Cli, tiny: str) -> None:
    rows = {row["name"]: row for row in document(cli("show", tiny, "--keys", "--json", "--set", "quantizer=mxfp4"))}
    assert rows["embedding.tokens.weight"] == {
        "name": "embedding.tokens.weight",
        "shape": [256, 32],
        "dtype": "float",
        "role": "embedding",
    }
    assert rows["layers.3.ffn.up.weight.scales"]["dtype"] == "uint8"
    assert rows["layers.3.ffn.up.weight.scales"]["role"] == "hidden"
    assert "head.norm.weight" in cli("show", tiny, "--keys")[1]


def test_show_is_yaml_that_loads_back(cli: Cli, tiny: str, tmp_path: Path) -> None:
    _, out, _ = cli("show", tiny)
    (tmp_path / "again.yaml").write_text(out)
    assert cli("show", str(tmp_path / "again.yaml"))[1] == out
    assert document(cli("show", tiny, "--json", "--set", "d_model=64"))["d_model"] == 64


def test_show_expanded_names_the_source_of_each_value(cli: Cli, tiny: str) -> None:
    status, out, _ = cli("show", tiny, "--expanded", "--set", "blocks.local.n_heads=2")
    assert status == 0
    lines = {line.partition(":")[0]: line for line in out.splitlines()}
    assert lines["layers.0.mixer.window"].endswith(f"# {tiny}:8")
    assert lines["layers.3.ffn.d_ff"].endswith(f"# {tiny}:10")
    assert "n_heads: 2" in lines["layers.2.mixer.n_heads"]
    assert "blocks.local.n_heads" in lines["layers.2.mixer.n_heads"]
    assert lines["layers.1.position.theta"].endswith("# default of blocks:rope")


def test_validate_tells_everything_at_once(cli: Cli, tiny: str, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(WRONG)
    status, out, err = cli("validate", tiny, str(wrong))
    assert status == 2
    assert out == f"ok {tiny}: tiny, 4 layers\n"
    assert f"blockzoo: error: {wrong}:4:" in err
    assert f"blockzoo: error: {wrong}:5:" in err
    assert "did you mean 'rms_norm'" in err
    assert "did you mean 'theta'" in err
    status, out, _ = cli("validate", tiny, str(wrong), "--json")
    assert status == 2
    assert [report["ok"] for report in json.loads(out)] == [True, False]


@pytest.fixture
def another_host() -> Iterator[None]:
    reset_host()
    yield
    reset_host()


@pytest.mark.usefixtures("another_host")
def test_validate_tells_what_was_dropped(cli: Cli, tmp_path: Path) -> None:
    plugin, file = tmp_path / "average.py", tmp_path / "model.yaml"
    plugin.write_text(files_of("mixer")["average.py"])
    file.write_text(TINY.replace("cycle: [local, full]", "cycle: [local, average]"))
    status, out, _ = cli("--plugin", str(plugin), "validate", str(file))
    assert status == 0
    dropped = [
        f"layers.{n}.position: blocks:rope (rotating) is dropped, mixer average:average takes none" for n in (1, 3)
    ]
    assert out.splitlines() == [f"ok {file}: tiny, 4 layers", *(f"  {line}" for line in dropped)]
    assert document(cli("--plugin", str(plugin), "validate", str(file), "--json"))[0]["dropped"] == dropped


def test_schema_accepts_what_the_loader_accepts(cli: Cli, tmp_path: Path) -> None:
    schema = document(cli("schema"))
    jsonschema.Draft202012Validator.check_schema(schema)
    file = tmp_path / "schema.json"
    assert cli("schema", "--output", str(file))[:2] == (0, "")
    assert json.loads(file.read_text()) == schema
    status, _, err = cli("schema", "--output", str(tmp_path / "nowhere" / "schema.json"))
    assert status == 2
    assert "nowhere/schema.json: No such file or directory" in err


def test_inspect(cli: Cli, tiny: str) -> None:
    one, two = document(cli("inspect", "gpt2", tiny, "--context", "32", "--json"))
    assert one["parameters"]["total"] == 124_439_808
    assert {"name", "n_layers", "d_model", "weight_bytes", "kv_cache_bytes", "flops_per_token"} <= set(one)
    assert set(one["parameters"]) == {"total", "active", "embedding", "unembedding", "mixer", "ffn", "other"}
    assert (two["name"], two["n_layers"], two["context"]) == ("tiny", 4, 32)
    assert (
        two["kv_cache_bytes"] == 2 * 2 * 32 * (8 + 32) * 2
    )  # bytes, k and v, width, keys of both kinds, layers of each
    status, out, _ = cli("inspect", "gpt2", tiny)
    assert status == 0
    assert "124,439,808" in out
    status, _, err = cli("inspect", "gpt3", "qwen4", "--json")
    assert status == 2
    assert "gpt3" in err
    assert "qwen4" in err
    assert cli("inspect", "gpt2", "--context", "0")[0] == 2


def test_inspect_every_published_size(cli: Cli) -> None:
    names = [row["name"] for row in document(cli("list", "config", "--json"))["config"] if row["plugin"] != "blocks"]
    assert len(names) == 15
    assert len(document(cli("inspect", *names, "--json"))) == 15


def test_plugins(cli: Cli) -> None:
    rows = document(cli("plugins", "--json"))
    assert [row["state"] for row in rows if row["builtin"]] == ["loaded"] * 7
    assert {"name", "distribution", "version", "state", "error", "components"} <= set(rows[0])
    assert {"kind": "norm", "name": "rms_norm", "canonical": "blocks:rms_norm"} in rows[0]["components"]
    listed = document(cli("plugins", "list", "--json"))
    assert {row["state"] for row in listed if row["builtin"]} == {"found"}
    assert "blocks:rms_norm" in cli("plugins", "show", "blocks")[1]
    assert cli("plugins", "show", "blcks")[0] == 2


def test_kernels(cli: Cli, tiny: str) -> None:
    rows = document(cli("kernels", tiny, "--json"))
    places = {row["place"]: row for row in rows if row["op"] == "attention"}
    assert set().union(*(row["layers"] for row in places.values())) == {0, 1, 2, 3}
    assert all(row["kernels"]["prefill"] == "sdpa" for row in places.values())
    assert any(lost["kernel"] == "flex" and lost["reason"] for row in places.values() for lost in row["lost"])
    status, out, _ = cli("kernels", tiny, "--use", "attention=reference")
    assert status == 0
    assert "reference" in out
    for wrong in (["--use", "attention=fast"], ["--use", "x"], ["--dtype", "int4"], ["--device", "abacus"]):
        assert cli("kernels", tiny, *wrong)[0] == 2
    stored = document(cli("kernels", tiny, "--use", "linear=reference", "--json"))
    every = {"train", "prefill", "decode"}
    assert {row["op"]: set(row["kernels"]) for row in stored} == {
        **dict.fromkeys(("activation", "attention", "rms_norm", "rotary"), every),
        "linear": every - {"train"},  # what is stored for a kernel does not train
    }


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([0], "0"), ([0, 1], "0-1"), ([0, 1, 2, 5], "0-2,5"), ([0, 2, 4], "0-4:2"), ([1, 4], "1,4")],
)
def test_ranges(numbers: list[int], text: str) -> None:
    assert ranges(numbers) == text


def test_collapse_keeps_apart_what_differs() -> None:
    lines = [Binding(f"layers.{n}.mixer", "attention", "decode", "fast" if n % 2 else "slow", ()) for n in range(6)]
    lines.append(Binding("head", "linear", "decode", "slow", (("fast", "no tiles"),)))
    assert [(row["place"], row["kernels"]) for row in collapse(lines)] == [
        ("layers.0-4:2.mixer", {"decode": "slow"}),
        ("layers.1-5:2.mixer", {"decode": "fast"}),
        ("head", {"decode": "slow"}),
    ]


def test_doctor(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    report = document(cli("doctor", "--json"))
    assert report["ok"]
    found = {check["name"]: check["found"] for check in report["checks"]}
    assert "cpu_stream_sum" in found["kernels on the CPU"]
    assert {"python", "blockzoo", "torch", "cpu", "compiler"} <= found.keys()
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "lost"))
    status, out, _ = cli("doctor")
    assert status == 1
    assert "BROKEN" in out


def test_a_checkpoint_folder_is_a_model_too(cli: Cli, tiny: str, tmp_path: Path) -> None:
    from blockzoo.building import build
    from blockzoo.checkpoints import save_pretrained
    from blockzoo.config import load_config
    from blockzoo.plugins import host

    registry = host().registry
    model = build(load_config(tiny, registry=registry), registry=registry)
    folder = tmp_path / "saved"
    save_pretrained(model, folder, layout="native", registry=registry)
    assert document(cli("inspect", str(folder), "--json")) == document(cli("inspect", tiny, "--json"))
    assert cli("show", str(folder))[1] == cli("show", tiny)[1]
    status, _, err = cli("inspect", str(tmp_path))
    assert status == 2
    assert "Traceback" not in err


def test_a_distribution_is_told_from_its_plugins(cli: Cli) -> None:
    status, _, err = cli("plugins", "check", "blockzoo")
    assert status == 2
    assert "'blockzoo' is a distribution; its plugins are: blocks, cpu, gpt2, gpt_oss, qwen3, tensorboard, torch" in err
