"""One whole bench of a tiny model: the document is complete and follows from its single values, whatever peers do."""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch

from blockzoo.bench import error, training
from blockzoo.bench.conduct import OURS, Ask, conduct, peers_of
from blockzoo.bench.document import document
from blockzoo.bench.machine import describe
from blockzoo.bench.processes import SideError
from blockzoo.bench.protocol import Reply, Request
from blockzoo.bench.subject import of_folder
from blockzoo.cli import main
from blockzoo.cli.bench_table import show
from blockzoo.errors import InputError
from blockzoo.registry import Registry

ASK = Ask(
    prompt_tokens=20,
    new_tokens=4,
    repeats=2,
    quantize=("rest=int8",),
    against=("steady", "crashing", "refusing"),
    timeout=120,
    stream_bytes=2**22,
    matrix_side=64,
)


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def found(folders: dict[str, Path], shipping: Registry, said: list[str]) -> dict[str, Any]:
    quantizers = {"rest": shipping.get("quantizer", "int8")()}
    subject = of_folder(folders["gpt-oss-20b"], {}, quantizers, None, registry=shipping)
    outcome = conduct(subject, ASK, peers_of(ASK.against), registry=shipping, say=said.append)
    return document(subject, ASK, outcome, "tiny", describe(1), registry=shipping)


def test_it_is_one_json_document_of_every_value(found: dict[str, Any]) -> None:
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    ours, steady = found["sides"][OURS], found["sides"]["steady"]
    assert ours["failed"] is None
    for side in (ours, steady):
        assert {name: len(values) for name, values in side["values"].items()} == dict.fromkeys(
            ("load_s", "prefill_s", "decode_s", "peak_bytes"), 2
        )
        assert all(value > 0 for values in side["values"].values() for value in values)
    assert ours["command"].endswith("-m blockzoo.bench.ours")
    assert steady["versions"] == {"steady": "1"}
    assert found["machine"].keys() >= {"cpu", "cores", "threads", "memory_bytes", "torch", "blockzoo"}
    assert found["model"]["quantize"] == ["rest=int8"]
    assert found["planned_bytes"] > 3 * 10**8


def better(roofs: list[float]) -> list[float]:
    """Of the two beside each repeat."""
    return [max(pair) for pair in itertools.pairwise(roofs)]


def test_figures_follow_from_the_medians(found: dict[str, Any]) -> None:
    bandwidth = better([roof["bytes_per_s"] for roof in found["roof"]["measured"]])
    products = better([roof["flops_per_s"]["bfloat16"] for roof in found["roof"]["measured"]])
    for side in (found["sides"][OURS], found["sides"]["steady"]):
        values, figures = side["values"], side["figures"]
        decode = ASK.new_tokens / median(values["decode_s"])
        assert figures["decode_tokens_per_s"] == pytest.approx(decode)
        assert figures["decode_ms_per_token"] == pytest.approx(1000 / decode)
        shares = [4 * side["bytes_per_token"] / s / b for s, b in zip(values["decode_s"], bandwidth, strict=True)]
        assert figures["share_of_bandwidth"] == pytest.approx(median(shares))
        assert figures["prefill_tokens_per_s"] == pytest.approx(ASK.prompt_tokens / median(values["prefill_s"]))
        shares = [found["prefill_flops"] / s / p for s, p in zip(values["prefill_s"], products, strict=True)]
        assert figures["share_of_matmul"] == pytest.approx(median(shares))
        assert figures["load_s"] == median(values["load_s"])
    cache = found["bytes_per_token"]["cache"]
    assert found["sides"]["steady"]["bytes_per_token"] == 1000 + cache
    assert found["sides"][OURS]["bytes_per_token"] == found["bytes_per_token"]["total"] > cache > 0


def test_ratios_are_ours_over_theirs(found: dict[str, Any]) -> None:
    ours, steady = (found["sides"][name]["figures"] for name in (OURS, "steady"))
    assert found["ratios"]["steady"] == {
        name: pytest.approx(ours[name] / steady[name])
        for name in ("decode_tokens_per_s", "prefill_tokens_per_s", "load_s", "peak_bytes")
    }
    assert set(found["ratios"]["crashing"].values()) == {None}


def test_a_peer_that_falls_over_costs_nobody_else(found: dict[str, Any]) -> None:
    failed = found["sides"]["crashing"]["failed"]
    assert "SIGKILL" in failed
    assert "the last words" in failed
    assert found["sides"]["refusing"]["failed"] == "not this model"
    assert len(found["sides"]["steady"]["values"]["decode_s"]) == 2


def test_the_roof_is_measured_beside_each_repeat(found: dict[str, Any]) -> None:
    roof = found["roof"]
    assert len(roof["measured"]) == ASK.repeats + 1
    assert roof["bytes_per_s"] == max(one["bytes_per_s"] for one in roof["measured"]) > 0
    for dtype in ("float32", "bfloat16"):
        assert roof["flops_per_s"][dtype] == max(one["flops_per_s"][dtype] for one in roof["measured"]) > 0


def test_training_alone(folders: dict[str, Path]) -> None:
    """In this process: importing torch anew is most of what another would do."""
    request = Request(str(folders["gpt2"]), "float32", 1, [], 1, 2, options={"batch_size": 2, "block": 16})
    found = training.measure(request).extra
    assert found["tokens_per_step"] == 32
    assert len(found["step_s"]) == 2
    assert min(found["step_s"]) > 0


def test_error_alone(folders: dict[str, Path], shipping: Registry) -> None:
    subject = of_folder(
        folders["gpt-oss-20b"], {}, {"rest": shipping.get("quantizer", "int8")()}, None, registry=shipping
    )
    options = {"overrides": subject.overrides, "mapped": False, "forced": [5, 6, 7, 8]}
    with torch.enable_grad():  # gives back what it switches off
        told = error.measure(Request(str(subject.folder), "bfloat16", 1, [1, 2, 3], 1, 1, options=options)).extra
    assert told["tokens"] == 4
    assert 0 < told["relative"] < 0.2  # int8 rows, bfloat16 activations
    assert 0 <= told["kl"] < 0.1
    assert 0 <= told["top1"] <= 1


@pytest.mark.parametrize(
    ("times", "mapped", "told"),
    [(1.02, False, ""), (1.04, False, "+4.0%"), (0.96, False, "-4.0%"), (0.96, True, ""), (1.04, "embedding", "+4.0%")],
)
def test_a_plan_that_is_off_is_told(
    found: dict[str, Any], capsys: pytest.CaptureFixture[str], times: float, mapped: bool | str, told: str
) -> None:
    changed = copy.deepcopy(found)
    changed["model"]["mapped"] = mapped
    changed["planned_bytes"] = changed["sides"]["blockzoo"]["figures"]["peak_bytes"] / times
    show(changed)
    lines = [line for line in capsys.readouterr().out.splitlines() if "held to 3%" in line]
    assert len(lines) == bool(told)
    assert all(f"the measured peak is {told} off the planned one" in line for line in lines)


def test_the_table_says_it_all(found: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    show(found)
    text = capsys.readouterr().out
    for words in (
        "decoding, tokens/s",
        "share of the roof",
        f"{OURS} / steady: decode",
        "crashing: was killed (SIGKILL",
    ):
        assert words in text
    assert "refusing: not this model" in text


def test_sides_run_in_turns(said: list[str], found: dict[str, Any]) -> None:
    rounds = [text for text in said if text.startswith("round")]
    assert rounds == [
        f"round 1 of 2: {OURS}",
        "round 1 of 2: steady",
        "round 1 of 2: crashing",
        f"round 2 of 2: {OURS}",
        "round 2 of 2: steady",
    ]


# --- input that can't be served ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--against", "lama.cpp"], "did you mean 'llama.cpp'?"),
        (["--measure", "decode,spede"], "--measure spede"),
        (["--prompt-tokens", "0"], "--prompt-tokens 0"),
        (["--prompt-tokens", "60", "--new-tokens", "20"], "80 together"),
        (["--dtype", "int8"], "--dtype int8"),
        (["--quantize", "int8"], "PART=QUANTIZER"),
        (["--quantize", "rest=int9"], "int9"),
    ],
)
def test_wrong_options(
    options: list[str], words: str, folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(folders["gpt2"]), *options]) == 2
    out, err = capsys.readouterr()
    assert words in err
    assert out == ""


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs transformers.*pip install 'blockzoo\[bench\]'"):
        peers_of(["transformers"])


def test_a_folder_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(tmp_path)]) == 2
    assert "holds neither" in capsys.readouterr().err


# --- the verb, with sides that answer at once -------------------------------------------------------------------------

ROOF = {"bytes_per_s": 4e9, "kernel": "reference", "refused": ["fast: no compiler"], "flops_per_s": {"bfloat16": 1e12}}
SMALL = ["--set", "layers.count=1", "--set", "vocab_size=64", "--prompt-tokens", "8", "--new-tokens", "2"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Request]]:
    """What sides were asked, in place of processes."""
    found: list[tuple[str, Request]] = []

    def answer(module: str, request: Request, *, timeout: float) -> Reply:
        found.append((module, request))
        if module.endswith(".roof"):
            return Reply(extra=ROOF)
        if module.endswith(".training"):
            return Reply(extra={"step_s": [1.0, 9.0, 2.0], "tokens_per_step": 10})
        if module.endswith(".error"):
            raise SideError("was killed")
        return Reply([1.0], [0.5] * request.repeats, [0.25] * request.repeats, peak_bytes=4 * 10**8)

    monkeypatch.setattr("blockzoo.bench.conduct.run_side", answer)
    return found


def test_the_verb_on_a_config(asked: list[tuple[str, Request]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "gpt2", *SMALL, "--measure", "decode,training,error", "--threads", "1", "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["model"]["random_weights"] is True
    assert found["model"]["dtype"] == "bfloat16"
    assert found["sides"][OURS]["figures"]["decode_tokens_per_s"] == 2 / 0.25
    assert found["training"]["tokens_per_s"] == 10 / 2
    assert found["error"]["failed"] == "was killed"
    assert "config without weights" in err
    *turns, _, compared = asked
    assert [module.rpartition(".")[2] for module, _ in turns] == ["roof", *["ours", "roof"] * 3]
    sides = turns[1::2]
    assert all(len(request.prompt) == 8 and request.repeats == 1 for _, request in sides)
    assert len(compared[1].options["forced"]) == 2
    assert not Path(sides[0][1].path).exists()  # it was a temporary folder


def test_the_verb_in_words(
    asked: list[tuple[str, Request]], folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["bench", str(folders["gpt2"]), *SMALL[4:], "--quantize", "rest=int8", "--measure", "decode,error"]
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert "warning: a plain loop measured the bandwidth" in out
    assert "no compiler" in out
    assert "error: not measured: was killed" in out
    assert "packed as it loads" in out
    assert "prompt, tokens/s" not in out  # it wasn't asked for
    assert err.count("round") == 3


def test_our_own_failure_is_the_verbs(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(module: str, request: Request, *, timeout: float) -> Reply:
        raise SideError("ended with status 1: the last words")

    monkeypatch.setattr("blockzoo.bench.conduct.run_side", fail)
    assert main(["bench", str(folders["gpt2"]), *SMALL[4:]]) == 1
    out = capsys.readouterr().out
    assert f"{OURS}: ended with status 1: the last words" in out
    assert "the roof could not be measured" in out
