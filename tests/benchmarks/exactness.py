"""How far packed weights with byte activations are from the same weights computed exactly, on text.

    python tests/benchmarks/exactness.py FOLDER [--text FILE] [--tokens 40960] [--length 256]

FOLDER is a trained checkpoint; what it stores as floats is packed to int8 on the way (``rest=int8``). The exact side
computes in float32 with every op's reference; ours in bfloat16 with what binds by itself, once as prompts and once
token by token. Prints the mean Kullback-Leibler divergence in nats a token and how often the likeliest token is the
same. Aim: below 1e-3, above 0.99. The third line is bfloat16 alone: the references on the same weights.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from blockzoo.checkpoints import from_pretrained
from blockzoo.checkpoints.convert import convert
from blockzoo.memory_plan import quantized
from blockzoo.model import Decoder
from blockzoo.plugins import host
from blockzoo.tokenizers import load_tokenizer


def references(model: Decoder) -> Decoder:
    model.bind({binding.op: "reference" for binding in model.bindings})
    return model


def by_token(model: Decoder, tokens: Tensor) -> Tensor:
    cache = model.new_cache(len(tokens), tokens.shape[1])
    return torch.cat([model(tokens[:, i : i + 1], cache=cache) for i in range(tokens.shape[1])], dim=1)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--text", type=Path, default=Path(torch.__file__).with_name("functional.py"))
    parser.add_argument("--tokens", type=int, default=40960)
    parser.add_argument("--length", type=int, default=256)
    options = parser.parse_args()
    registry = host().registry
    int8 = registry.get("quantizer", "int8")()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "packed")
        convert(
            options.folder, folder, registry=registry, layout="native", change=lambda c: quantized(c, {"rest": int8})
        )
        exact = references(from_pretrained(folder, registry=registry, dtype=torch.float32))
        ours = from_pretrained(folder, registry=registry, dtype=torch.bfloat16)
        rounded = references(from_pretrained(folder, registry=registry, dtype=torch.bfloat16))
    text = options.text.read_text(encoding="utf-8")
    ids = load_tokenizer(ours.config.tokenizer, registry=registry).encode(text)
    rows = min(options.tokens, len(ids)) // options.length
    tokens = torch.tensor(ids[: rows * options.length]).view(rows, options.length)
    wanted = exact(tokens).log_softmax(-1)
    sides: dict[str, Callable[[], Tensor]] = {
        "token by token": lambda: by_token(ours, tokens),
        "prompts": lambda: ours(tokens),
        "bfloat16 alone": lambda: rounded(tokens),
    }
    for name, logits in sides.items():
        found = logits().float().log_softmax(-1)
        divergence = (wanted.exp() * (wanted - found)).sum(-1).mean()
        same = (wanted.argmax(-1) == found.argmax(-1)).float().mean()
        print(f"{name:15} {float(divergence):.1e} nats a token, the same likeliest token {float(same):.2%}")


if __name__ == "__main__":
    main()
