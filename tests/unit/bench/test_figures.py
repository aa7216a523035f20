"""What figures are made of: bytes and FLOPs by the account, the roof, errors of logits, and what sides compute."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from blockzoo.bench import roof
from blockzoo.bench.error import divergence, exact_kernels, logits_of
from blockzoo.bench.machine import peak_bytes
from blockzoo.bench.ours import Ours
from blockzoo.bench.peers import Job, Prepared, Refused, transformers_compiled
from blockzoo.bench.peers.transformers import PEER, Loop
from blockzoo.bench.protocol import Request
from blockzoo.bench.subject import of_folder
from blockzoo.bench.traffic import decoding, prefill_flops
from blockzoo.checkpoints import from_pretrained, save_pretrained
from blockzoo.config import load_config
from blockzoo.memory import total_memory
from blockzoo.memory_plan import quantized
from blockzoo.registry import Registry

GB = 10**9


# --- bytes and FLOPs --------------------------------------------------------------------------------------------------


def test_what_a_token_of_gpt_oss_20b_reads(shipping: Registry) -> None:
    """As the design says: experts 1.27 GB, attention and unembedding 2.43 GB in bfloat16, 1.29 GB in int8."""
    config = load_config("gpt-oss-20b", registry=shipping)
    read = decoding(config, torch.bfloat16, 512, 64).weights
    assert read["ffn"] / GB == pytest.approx(1.27, abs=0.01)
    assert (read["mixer"] + read["unembedding"]) / GB == pytest.approx(2.43, abs=0.01)
    packed = quantized(config, {"rest": shipping.get("quantizer", "int8")()})
    rest = decoding(packed, torch.bfloat16, 512, 64).weights
    assert (rest["mixer"] + rest["unembedding"]) / GB == pytest.approx(1.29, abs=0.01)
    assert rest["ffn"] == read["ffn"]


def test_the_cache_is_read_at_the_mean_context(shipping: Registry) -> None:
    config = load_config("qwen3-0.6b", registry=shipping)
    traffic = decoding(config, torch.bfloat16, 512, 64)
    assert traffic.cache == 28 * 2 * 8 * 128 * 2 * (512 + 32)
    assert traffic.total == sum(traffic.weights.values()) + traffic.cache
    table = config.vocab_size * config.d_model * 2
    assert traffic.weights["unembedding"] == table  # tied: read whole as the unembedding


def test_flops_of_a_prompt(shipping: Registry) -> None:
    config = load_config("gpt2", registry=shipping)
    layers = 12 * 12 * 768**2 * 2 * 100
    attention = 12 * 100 * 51 * 768 * 2 * 2
    assert prefill_flops(config, 100) == pytest.approx(layers + attention + 2 * 50257 * 768, rel=0.02)


# --- the roof ---------------------------------------------------------------------------------------------------------


def test_the_roof_is_read_by_the_best_kernel(registry: Registry) -> None:
    found = roof.bandwidth(registry, 2**20)
    assert found["bytes_per_s"] > 0
    assert found["buffer_bytes"] == 2**20
    assert found["kernel"] == "cpu_stream_sum" or found["refused"][0].startswith("cpu_stream_sum: ")


def test_without_a_kernel_the_reference_reads(registry: Registry) -> None:
    bare = Registry(things={key: thing for key, thing in registry.things.items() if key[0] != "kernel"})
    assert roof.bandwidth(bare, 2**20)["kernel"] == "reference"


def test_a_kernel_that_refuses_is_named(registry: Registry) -> None:
    things = dict(registry.things)
    (key,) = (key for key in things if key[:2] == ("kernel", "cpu_stream_sum"))
    op, kernel = things[key]
    things[key] = op, replace(kernel, supports=lambda capabilities, call: 1 / 0)
    found = roof.bandwidth(Registry(things=things), 2**20)
    assert found["kernel"] == "reference"
    assert "ZeroDivisionError" in found["refused"][0]


def test_products_by_dtype() -> None:
    assert all(rate > 0 for rate in roof.products(32).values())


def test_memory_of_this_process() -> None:
    assert 50 * 2**20 < peak_bytes() < total_memory()


# --- errors of logits -------------------------------------------------------------------------------------------------


def test_divergence_of_known_logits() -> None:
    exact = torch.tensor([[0.0, 0.0], [3.0, 1.0]])
    assert divergence(exact, exact) == {"relative": 0.0, "kl": 0.0, "top1": 1.0, "tokens": 2}
    found = divergence(exact, torch.tensor([[0.0, torch.tensor(3.0).log()], [3.0, 1.0]]))
    assert found["relative"] == pytest.approx(1.0986 / 3, rel=1e-4)
    kl = 0.5 * (torch.tensor(0.5 / 0.25).log() + torch.tensor(0.5 / 0.75).log())
    assert found["kl"] == pytest.approx(float(kl) / 2)
    assert found["top1"] == 0.5


def test_the_exact_model_against_itself(folders: dict[str, Path], registry: Registry) -> None:
    model = from_pretrained(folders["gpt-oss-20b"], registry=registry, dtype=torch.float32)
    chosen = exact_kernels(model)
    assert chosen.keys() >= {"attention", "linear", "expert_linear"}
    model.bind(chosen)
    assert {line.kernel for line in model.bindings} == {"reference"}
    with torch.no_grad():
        logits = [logits_of(model, [1, 2, 3], [4, 5, 6, 7], at_once=at_once) for at_once in (True, False)]
    assert divergence(*logits)["relative"] < 1e-5


# --- sides ------------------------------------------------------------------------------------------------------------


def test_what_is_asked_for_is_what_is_loaded(folders: dict[str, Path], registry: Registry) -> None:
    quantizers = {"rest": registry.get("quantizer", "int8")()}
    subject = of_folder(folders["gpt-oss-20b"], {}, quantizers, None, registry=registry)
    assert subject.dtype == torch.bfloat16
    model = from_pretrained(subject.folder, registry=registry, overrides=subject.overrides)
    assert model.config.layers == subject.config.layers
    assert model.config.layers != subject.stored.layers
    assert model.config.head == subject.config.head != subject.stored.head


@pytest.mark.parametrize("name", ["gpt2", "gpt-oss-20b"])
def test_both_sides_decode_the_same_tokens(name: str, folders: dict[str, Path], registry: Registry) -> None:
    pytest.importorskip("transformers")
    prompt = list(range(3, 20))
    request = Request(str(folders[name]), "float32", 1, prompt, 4, 1)
    with torch.no_grad():
        model = from_pretrained(folders[name], registry=registry, dtype=torch.float32)
        sides = []
        for engine in (Ours(model, 32), Loop(request)):
            for _ in range(2):  # a second round begins anew
                tokens = [engine.read(prompt)]
                while len(tokens) < 6:
                    tokens.append(engine.step(tokens[-1]))
            sides.append(tokens)
    assert sides[0] == sides[1]


def job(folder: Path, scratch: Path, memory: int = 100 * GB) -> Job:
    scratch.mkdir()
    return Job(folder, "bfloat16", (), 32, 1, memory, scratch)


def test_transformers_takes_a_folder_as_it_is(folders: dict[str, Path], tmp_path: Path) -> None:
    ready = PEER.prepare(job(folders["gpt2"], tmp_path / "scratch"))
    assert isinstance(ready, Prepared)
    assert ready.path == folders["gpt2"]


def test_compiled_transformers_takes_a_folder_as_it_is(folders: dict[str, Path], tmp_path: Path) -> None:
    ready = transformers_compiled.PEER.prepare(job(folders["gpt2"], tmp_path / "scratch"))
    assert isinstance(ready, Prepared)
    assert ready.path == folders["gpt2"]
    assert ready.what.startswith("compiled, static cache, bfloat16")
    small = transformers_compiled.PEER.prepare(job(folders["gpt-oss-20b"], tmp_path / "other", memory=GB // 2))
    assert isinstance(small, Refused)


@pytest.mark.slow
def test_compiled_transformers_writes_what_eager_does(folders: dict[str, Path]) -> None:
    prompt = list(range(3, 20))
    request = Request(str(folders["gpt2"]), "float32", 1, prompt, 6, 1)
    sides = []
    with torch.no_grad():
        for engine in (Loop(request), transformers_compiled.CompiledLoop(request)):
            tokens = [engine.read(prompt)]
            while len(tokens) < 6:
                tokens.append(engine.step(tokens[-1]))
            sides.append(tokens)
    assert sides[0] == sides[1]


@pytest.mark.slow
def test_a_model_that_is_compiled_for_each_token_is_no_compiled_one(folders: dict[str, Path]) -> None:
    """gpt-oss' windows: transformers' cache counts their tokens in Python."""
    request = Request(str(folders["gpt-oss-20b"]), "float32", 1, list(range(3, 20)), 20, 1)
    with torch.no_grad():
        engine = transformers_compiled.CompiledLoop(request)
        with pytest.raises(Exception, match="recompile_limit"):  # a private class of torch's
            sum(engine.step(token) for token in range(20))


def test_transformers_gets_a_converted_folder(folders: dict[str, Path], registry: Registry, tmp_path: Path) -> None:
    model = from_pretrained(folders["gpt2"], registry=registry)
    save_pretrained(model, tmp_path / "native", registry=registry, layout="native")
    ready = PEER.prepare(job(tmp_path / "native", tmp_path / "scratch"))
    assert isinstance(ready, Prepared)
    assert "converted from layout native" in ready.what
    assert (ready.path / "config.json").is_file()


def test_transformers_is_refused_what_does_not_fit(folders: dict[str, Path], tmp_path: Path) -> None:
    ready = PEER.prepare(job(folders["gpt-oss-20b"], tmp_path / "scratch", memory=GB // 2))
    assert isinstance(ready, Refused)
    assert "0.7 GB, and 0.5 GB are free" in ready.reason
