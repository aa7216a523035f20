"""The plugins that the guide for authors shows: installed for real they pass their own tests, and their models work."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

import blockzoo
from blockzoo.accounting import account
from blockzoo.building import build
from blockzoo.checkpoints import from_pretrained, save_pretrained
from blockzoo.config import load_config
from blockzoo.config.schema import ModelConfig
from blockzoo.plugins import load_plugins
from blockzoo.registry import Registrar, Registry
from blockzoo.selection import Selection
from blockzoo.testing import CheckFailed, checks
from tests.conftest import builtin_registry

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "plugin-authors" / "examples"
TUTORIAL = EXAMPLES.parent / "tutorial.md"
NAMES = sorted(folder.parent.name for folder in EXAMPLES.glob("*/pyproject.toml"))
SHAPE = """
vocab_size: 128
context_length: 64
d_model: 32
position: {type: rope, theta: 1000, interleaved: true}
blocks:
  latent: {type: mla, n_heads: 4, q_rank: 16, kv_rank: 16, nope_dim: 8, rope_dim: 4, v_dim: 8, norm: rms_norm}
  recurrent: {type: gated_delta_net, n_heads: 4, n_key_heads: 2, key_dim: 8, value_dim: 8, norm: rms_norm, chunk: 8}
  attention: {type: gqa, n_heads: 4, n_kv_heads: 2}
  dense: {type: glu, d_ff: 64}
  experts: {type: moe, n_experts: 4, top_k: 2, expert: {use: dense, d_ff: 32}, shared: {use: dense, d_ff: 32}}
"""
MODELS = {
    "mla": """
norm: rms_norm
layers: {count: 3, mixer: latent, ffn: {runs: [{use: dense, count: 1}, {use: experts}]}}
""",
    "hybrid": """
norm: rms_norm
layers: {count: 4, mixer: {cycle: [recurrent, recurrent, recurrent, attention]}, ffn: dense}
""",
    "all of them": """
norm: dyt
layers: {count: 4, mixer: {cycle: [recurrent, recurrent, recurrent, latent]}, ffn: {cycle: [dense, experts]}}
""",
}


@pytest.mark.parametrize("name", NAMES)
def test_it_passes_its_own_tests(name: str, examples: Path, warm_python: Callable) -> None:
    done = warm_python("-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", str(EXAMPLES / name), path=[examples])
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert " passed" in done.stdout


@pytest.fixture(scope="module")
def registry(examples: Path) -> Iterator[Registry]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(examples))
        yield load_plugins(selection=Selection(frozenset({"mla", "delta_net", "dyt", "online_softmax"}))).registry


@pytest.fixture(params=MODELS)
def config(request: pytest.FixtureRequest, registry: Registry, tmp_path: Path) -> ModelConfig:
    path = tmp_path / "model.yaml"
    path.write_text(SHAPE + MODELS[request.param])
    return load_config(path, registry=registry)


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(0, 128, (2, 40), generator=torch.Generator().manual_seed(1))


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((found - expected).abs().max() <= 2e-5 * expected.abs().max())


def test_it_trains_generates_saves_and_loads(
    config: ModelConfig, registry: Registry, tokens: torch.Tensor, tmp_path: Path
) -> None:
    model = build(config, registry=registry, trainable=True).train()
    assert account(config).parameters["total"] == sum(parameter.numel() for parameter in model.parameters())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1

    model.eval()
    prompt = tokens[0, :8].tolist()
    greedy = list(blockzoo.generate(model, prompt, max_new_tokens=12))
    with torch.no_grad():  # every token is the likeliest after all that stands before it, without a cache
        expected = model(torch.tensor([prompt + greedy])).argmax(-1)[0]
    assert expected[len(prompt) - 1 : -1].tolist() == greedy

    save_pretrained(model, tmp_path / "saved", layout="native", registry=registry)
    again = from_pretrained(tmp_path / "saved", dtype=torch.float32, registry=registry)
    with torch.no_grad():
        assert torch.equal(again(tokens), model(tokens))


@torch.no_grad()
@pytest.mark.parametrize("kernel", ["auto", "online_softmax"])
def test_cached_equals_full(config: ModelConfig, registry: Registry, tokens: torch.Tensor, kernel: str) -> None:
    model = build(config, registry=registry, kernels={} if kernel == "auto" else {"attention": kernel})
    full = model(tokens)
    for cuts in (range(41), [0, 1, 9, 30, 40], [0, 39, 40], [0, 17, 18, 19, 40]):
        cache = model.new_cache(batch_size=2, max_length=40)
        parts = [model(tokens[:, a:b], cache=cache) for a, b in pairwise(cuts)]
        assert close(torch.cat(parts, dim=1), full)
    assert cache.nbytes() == 2 * account(config, context=40).kv_cache_bytes(torch.float32)


@torch.no_grad()
def test_padding(config: ModelConfig, registry: Registry, tokens: torch.Tensor) -> None:
    """A row of its own length, padded on the left and then on the right, gives what it gives alone."""
    model = build(config, registry=registry)
    cache = model.new_cache(batch_size=2)
    line = torch.arange(10)
    model(tokens[:, :10], positions=torch.stack([line, (line - 4).clamp(min=-1)]), cache=cache)
    model(tokens[:, 10:13], positions=torch.tensor([[10, 11, 12], [6, -1, -1]]), cache=cache)
    found = model(tokens[:, 13:14], cache=cache)
    assert close(found[0], model(tokens[:1, :14])[0, -1:])
    assert close(found[1], model(tokens[1:, [4, 5, 6, 7, 8, 9, 10, 13]])[0, -1:])


def test_what_a_recurrence_cannot_use_is_dropped(registry: Registry) -> None:
    config = load_config("delta-hybrid-tiny", registry=registry)
    assert [layer.position.form for layer in config.layers] == ["none", "none", "none", "rotating"]


def test_the_tutorial_writes_the_smallest_example() -> None:
    written = dict(re.findall(r"```\w+ file=(\S+)\n(.*?)```", TUTORIAL.read_text(encoding="utf-8"), flags=re.DOTALL))
    sources = [path for path in (EXAMPLES / "dyt").iterdir() if path.suffix in (".py", ".toml")]
    files = {path.name: path.read_text(encoding="utf-8") for path in sources}
    assert written == files
    assert sum(len(text.splitlines()) for text in files.values()) < 70


@pytest.mark.parametrize(
    ("right", "wrong", "check"),
    [
        ('                "bias": Parameter((dim,), Role.BIAS),\n', "", "parameters"),
        ("self.alpha * x)", "self.alpha.float() * x.float())", "dtypes"),
    ],
)
def test_the_tutorials_mistakes_are_caught_in_the_words_it_shows(right: str, wrong: str, check: str) -> None:
    source = (EXAMPLES / "dyt" / "blockzoo_dyt.py").read_text(encoding="utf-8")
    assert source.count(right) == 1
    module: dict[str, Any] = {"__name__": "mistaken"}
    exec(source.replace(right, wrong), module)
    registry = builtin_registry()
    registrar = Registrar(registry, "dyt")
    module["blockzoo_register"](registrar)
    registrar.commit()
    (found,) = [one for one in checks("dyt", registry) if one.name == check]
    with pytest.raises(CheckFailed) as caught:
        found.run()
    assert f"\n{caught.value}\n" in TUTORIAL.read_text(encoding="utf-8")
