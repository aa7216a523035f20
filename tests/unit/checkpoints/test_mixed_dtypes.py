"""Files whose tensors are of several float dtypes, held as they are stored: every kernel reads what lies there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from blockzoo.building import build
from blockzoo.checkpoints import from_pretrained, save_pretrained
from blockzoo.config import load_config
from blockzoo.model import Decoder
from blockzoo.recording import Steps
from blockzoo.registry import Registry
from tests.unit.checkpoints.test_converting import SIZES

TOKENS = torch.arange(16)[None] * 5


@torch.no_grad()
def logits(model: Decoder) -> Tensor:
    """(9, V): of a prompt of 8, then of a token at a time."""
    step = Steps(model, model.new_cache(max_length=32))
    return torch.cat([step(tokens).float()[:, -1] for tokens in (TOKENS[:, :8], *TOKENS[:, 8:].split(1, dim=1))])


@pytest.mark.parametrize("narrow", [0, 1], ids=["first of two", "second of two"])
@pytest.mark.parametrize("name", ["gpt2", "qwen3-0.6b"])
def test_every_other_tensor_is_bfloat16(name: str, narrow: int, tmp_path: Path, shipping: Registry) -> None:
    model = build(load_config(name, SIZES[name], registry=shipping), registry=shipping)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter) * parameter.abs().max()
    save_pretrained(model, tmp_path / "a", registry=shipping, layout="native")
    file = tmp_path / "a" / "model.safetensors"
    stored = load_file(file)
    names = ["embedding.tokens.weight", *(name for name in stored if not name.startswith("embedding"))]
    chosen = {name: torch.bfloat16 if at % 2 == narrow or at == 0 else torch.float32 for at, name in enumerate(names)}
    save_file({name: tensor.to(chosen.get(name, torch.bfloat16)) for name, tensor in stored.items()}, file)

    wanted = logits(from_pretrained(tmp_path / "a", registry=shipping, dtype=torch.float32))
    found = logits(from_pretrained(tmp_path / "a", registry=shipping, dtype="stored"))
    assert (found - wanted).abs().max() < 0.05 * wanted.abs().max()
