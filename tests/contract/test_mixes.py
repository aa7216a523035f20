"""Any mix works: random models over all registered blocks keep every promise of the contract.

Tens of draws by default, hundreds with ``-m slow``.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from blockzoo.accounting import account, parameters_of
from blockzoo.building import build, empty
from blockzoo.checkpoints import from_pretrained, save_pretrained
from blockzoo.config import dump, load_config
from blockzoo.config.schema import ModelConfig
from blockzoo.model import Decoder
from blockzoo.registry import Registry
from tests.contract.mixes import draw_model

T = 24
FEW = range(24)
MANY = [pytest.param(seed, marks=pytest.mark.slow) for seed in range(24, 324)]


@pytest.fixture(params=[*FEW, *MANY])
def mix(request: pytest.FixtureRequest, registry: Registry) -> ModelConfig:
    return draw_model(request.param, registry)


def tokens_for(config: ModelConfig, batch: int = 2) -> torch.Tensor:
    return torch.randint(config.vocab_size, (batch, T), generator=torch.Generator().manual_seed(1))


def close(found: torch.Tensor, expected: torch.Tensor, within: float = 2e-5) -> bool:
    return bool((found - expected).abs().max() <= within * expected.abs().max())


def check_causality(model: Decoder, tokens: torch.Tensor) -> None:
    """No gradient from later tokens: by the embedding rows of tokens that stand only after the cut."""
    changed = tokens.clone()
    changed[:, T // 2 :] = (changed[:, T // 2 :] + 1) % model.config.vocab_size
    with torch.no_grad():
        assert close(model(changed)[:, : T // 2], model(tokens)[:, : T // 2], within=1e-6)
    seen: list[torch.Tensor] = []
    handle = model.embedding.register_forward_hook(lambda module, args, out: seen.append(out.requires_grad_()) or out)
    if not any(p.requires_grad for p in model.embedding.parameters()):
        model.embedding.norm.requires_grad_()
    logits = model(tokens)
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[:, : T // 2].square().sum(), seen[0], allow_unused=True)
    assert gradient is not None
    assert gradient[:, T // 2 :].abs().max() == 0
    assert gradient[:, : T // 2].abs().max() > 0


def check_cache(model: Decoder, tokens: torch.Tensor, full: torch.Tensor) -> None:
    cache = model.new_cache(batch_size=2, max_length=T)
    cuts = [0, 1, 8, 15, *range(16, T + 1)]
    parts = [model(tokens[:, a:b], cache=cache) for a, b in pairwise(cuts)]
    assert close(torch.cat(parts, dim=1), full)
    assert cache.nbytes() == 2 * account(model.config, context=T).kv_cache_bytes(torch.float32)


def check_padding(model: Decoder, tokens: torch.Tensor, full: torch.Tensor) -> None:
    """Row 1 loses its first half to padding on the left; both rows then decode on."""
    half = T // 2
    padded, positions = tokens[:, :half].clone(), torch.arange(half).expand(2, half).clone()
    positions[1] = torch.where(torch.arange(half) < half - 5, -1, torch.arange(half) - (half - 5))
    padded[1, half - 5 :] = tokens[1, :5]
    cache = model.new_cache(batch_size=2, max_length=T)
    logits = model(padded, positions=positions, cache=cache, last_only=True)[:, 0]
    for offset in range(4):
        expected = torch.stack([full[0, half - 1 + offset], full[1, 4 + offset]])
        assert close(logits, expected)
        fresh = torch.stack([tokens[0, half + offset], tokens[1, 5 + offset]])[:, None]
        logits = model(fresh, cache=cache)[:, 0]


def check_cost(model: Decoder, config: ModelConfig, registry: Registry) -> None:
    plain = empty(config, registry=registry, device="meta", trainable=True)
    built = {name: tuple(p.shape) for name, p in plain.named_parameters()}
    assert built == {name: p.shape for name, p in parameters_of(config).items()}
    held = sum(t.numel() * t.itemsize for t in model.to(torch.bfloat16).state_dict().values())
    assert held == account(config).weight_bytes["as_configured"]


def test_mix(mix: ModelConfig, registry: Registry, tmp_path: Path) -> None:
    model = build(mix, registry=registry, seed=3)
    tokens = tokens_for(mix)
    with torch.no_grad():
        full = model(tokens)
        assert full.shape == (2, T, mix.vocab_size)
        assert full.isfinite().all()
        assert close(model(tokens[1:]), full[1:])
        assert close(model(tokens, last_only=True)[:, 0], full[:, -1])
        check_cache(model, tokens, full)
        check_padding(model, tokens, full)
    check_causality(model, tokens)
    assert load_config(dump(mix, registry), registry=registry) == mix
    save_pretrained(model, tmp_path / "saved", layout="native", registry=registry)
    again = from_pretrained(tmp_path / "saved", dtype=torch.float32, registry=registry)
    assert again.config == mix
    with torch.no_grad():
        assert torch.equal(again(tokens), full)
    check_cost(again, mix, registry)


def test_one_training_step_lowers_the_loss(mix: ModelConfig, registry: Registry) -> None:
    model = build(mix, registry=registry, seed=3, trainable=True).train()
    tokens = tokens_for(mix)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    losses = []
    for _ in range(4):
        logits, aux = model(tokens, return_aux=True)
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten())
        losses.append(loss.item())
        (loss + aux.get("balance_loss", 0.0)).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]
