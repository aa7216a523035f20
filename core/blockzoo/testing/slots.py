"""Any block at work: in the slots of small models shaped like GPT-2, Qwen3 and gpt-oss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from tempfile import TemporaryDirectory

import torch

from blockzoo.accounting import account
from blockzoo.blocks import QuantizerConfig
from blockzoo.building import build
from blockzoo.checkpoints import from_pretrained, save_pretrained
from blockzoo.config.schema import ModelConfig
from blockzoo.errors import ConfigError
from blockzoo.registry import Registry
from blockzoo.testing.check import need, need_close
from blockzoo.testing.houses import Unfit, house, placed
from blockzoo.testing.quantizers import need_rows_apart
from blockzoo.testing.subjects import BlockSubject

LENGTH = 10
CUTS = (0, 4, 5, 6, 9, LENGTH)


def _slot(name: str, about: str) -> Callable[[BlockSubject], None]:
    def check(subject: BlockSubject) -> None:
        if isinstance(subject.config, QuantizerConfig):
            need_rows_apart(subject.config)
        config = placed(house(name, subject.config, subject.registry), subject.config, subject.registry)
        try:
            works(config, subject.registry)
        except ConfigError as error:
            raise Unfit(f"{name}: {error.problems[0]}") from error

    check.__name__, check.__doc__ = (
        f"in_{name}",
        f"In {about}: builds, trains, decodes as it reads, is saved and loaded, costs what it says.",
    )
    return check


def alone(subjects: Sequence[BlockSubject]) -> list[BlockSubject]:
    """Each sample once, by itself: the model brings what stands around it."""
    return [replace(subject, label=name) for name, subject in {subject.sample: subject for subject in subjects}.items()]


def works(config: ModelConfig, registry: Registry) -> None:
    """The model builds, has gradients everywhere, decodes with a cache as without, comes back from a checkpoint, and
    costs what it says.

    Raises CheckFailed, or ConfigError where a quantizer refuses a weight.
    """
    tokens = torch.randint(config.vocab_size, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    model = build(config, registry=registry, trainable=True).train()
    logits, aux = model(tokens, return_aux=True)
    need(logits.isfinite().all(), "logits are not finite")
    (torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()) + sum(
        value for name, value in aux.items() if name == "balance_loss"
    )).backward()  # fmt: skip
    for name, parameter in model.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.isfinite().all())
        need(reached, f"'{name}' gets no gradient, or one that is not finite")
    model = build(config, registry=registry)
    with torch.no_grad():
        full, cache = model(tokens), model.new_cache(batch_size=2, max_length=LENGTH)
        parts = [model(tokens[:, a:b], cache=cache) for a, b in pairwise(CUTS)]
        need_close(torch.cat(parts, dim=1), full, 2e-5, "decoding with a cache differs from the full pass")
        with TemporaryDirectory() as folder:
            save_pretrained(model, folder, registry=registry, layout="native")
            loaded = from_pretrained(folder, registry=registry)
            need(torch.equal(loaded(tokens), full), "saved and loaded it gives other logits")
    said = 2 * account(config, context=LENGTH).kv_cache_bytes(torch.float32)
    need(cache.nbytes() == said, f"the cache holds {cache.nbytes()} bytes, cost() says {said}")


in_gpt2 = _slot("gpt2", "a small GPT-2")
in_qwen3 = _slot("qwen3", "a small Qwen3")
in_gpt_oss = _slot("gpt_oss", "a small gpt-oss")
CHECKS = (in_gpt2, in_qwen3, in_gpt_oss)
