"""The native layout: any model, packed or training, in whatever layout a kernel has its weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from blockzoo.building import build
from blockzoo.checkpoints import from_pretrained, read_config, save_pretrained
from blockzoo.config import load_config
from blockzoo.config.schema import ModelConfig
from blockzoo.errors import CheckpointError, ConfigError, InputError
from blockzoo.registry import Registry
from tests.contract.test_layouts import small, with_toy

__all__ = ["with_toy"]  # a fixture: a kernel that wants rows interleaved


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("quantizer", [None, "mxfp4", "int8"])
def test_files_never_see_a_kernels_layout(quantizer: str | None, tmp_path: Path, with_toy: Registry) -> None:
    config = small(with_toy, quantizer)
    plain = build(config, registry=with_toy, kernels={"linear": "reference"} if quantizer else None)
    toy = build(config, registry=with_toy, kernels={"linear": "toy"})
    masters = build(config, registry=with_toy, trainable=True)
    for name, model in (("plain", plain), ("toy", toy), ("masters", masters)):
        save_pretrained(model, tmp_path / name, registry=with_toy, layout="native")
        assert bytes_of(tmp_path / name) == bytes_of(tmp_path / "plain")
    again = from_pretrained(tmp_path / "toy", registry=with_toy)
    again.bind({"linear": "toy"})
    tokens = torch.arange(24)[None]
    with torch.no_grad():
        assert torch.allclose(again(tokens), plain(tokens), atol=1e-6)
    save_pretrained(again, tmp_path / "again", registry=with_toy, layout="native")
    assert bytes_of(tmp_path / "again") == bytes_of(tmp_path / "plain")


def test_the_config_comes_back(tmp_path: Path, registry: Registry) -> None:
    config = small(registry, "mxfp4").model_copy(update={"tokenizer": "bytes", "name": "mine"})
    save_pretrained(build(config, registry=registry), tmp_path / "a", registry=registry, layout="native")
    assert read_config(tmp_path / "a", registry=registry) == config


def test_a_checkpoint_extends_no_file(tmp_path: Path, registry: Registry) -> None:
    """It may come from a stranger, and what stands in a file shows in errors."""
    save_pretrained(build(small(registry, None), registry=registry), tmp_path / "a", registry=registry, layout="native")
    file = tmp_path / "a" / "blockzoo.yaml"
    plain = file.read_text()
    for path in ("/etc/passwd", "../secret.yaml", "other.yaml"):
        file.write_text(f"extends: {path}\n{plain}")
        with pytest.raises(ConfigError, match=f"yaml:1:10: extends: found '{path}': a checkpoint extends no"):
            read_config(tmp_path / "a", registry=registry)


def test_saving_again_replaces_a_checkpoint_and_nothing_else(tmp_path: Path, registry: Registry) -> None:
    model = build(small(registry, None), registry=registry)
    save_pretrained(model, tmp_path / "a", registry=registry, layout="native", shard_bytes=10_000)
    save_pretrained(model, tmp_path / "a", registry=registry, layout="native")
    assert set(bytes_of(tmp_path / "a")) == {"blockzoo.yaml", "model.safetensors"}
    (tmp_path / "a" / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"holds other files \(notes.txt\)"):
        save_pretrained(model, tmp_path / "a", registry=registry, layout="native")


def test_what_cannot_be_saved(tmp_path: Path, registry: Registry) -> None:
    config: ModelConfig = small(registry, None)
    with pytest.raises(CheckpointError, match="no family, so only the layout 'native'"):
        save_pretrained(build(config, registry=registry), tmp_path / "a", registry=registry)
    with pytest.raises(CheckpointError, match="meta device"):
        save_pretrained(
            build(config, registry=registry, device="meta"), tmp_path / "a", registry=registry, layout="native"
        )
    assert not list(tmp_path.iterdir())


def test_a_config_of_another_shape_is_refused(tmp_path: Path, registry: Registry) -> None:
    model = build(small(registry, "int8"), registry=registry)
    save_pretrained(model, tmp_path / "a", registry=registry, layout="native")
    path = tmp_path / "a" / "blockzoo.yaml"
    path.write_text(path.read_text().replace("d_ff: 64", "d_ff: 96"))
    with pytest.raises(
        CheckpointError, match=r"gate\.weight\.codes' has shape \(64, 32\), the config wants \(96, 32\)"
    ):
        from_pretrained(tmp_path / "a", registry=registry)
    assert load_config(path, registry=registry).d_model == 32


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        ({"d_model": 64}, r"overrides don't fit.*\n.*'embedding\.tokens\.weight' is \(\d+, 32\) in the checkpoint"),
        ({"layers.count": 1}, "in the checkpoint, absent in the model"),
        ({"embedding.tied": True}, "'head.unembedding.weight'"),
    ],
)
def test_overrides_that_change_the_weights_are_refused(
    overrides: dict[str, object], match: str, tmp_path: Path, registry: Registry
) -> None:
    save_pretrained(build(small(registry, None), registry=registry), tmp_path / "a", registry=registry, layout="native")
    with pytest.raises(CheckpointError, match=match):
        from_pretrained(tmp_path / "a", registry=registry, overrides=overrides)


@pytest.mark.parametrize("options", [{"device": "nowhere"}, {"dtype": torch.int8}, {"dtype": "float32"}])
def test_devices_and_dtypes_that_cannot_be(options: dict, tmp_path: Path, registry: Registry) -> None:
    config = small(registry, None)
    with pytest.raises(InputError, match=next(iter(options))):
        build(config, registry=registry, **options)
    save_pretrained(build(config, registry=registry), tmp_path / "a", registry=registry, layout="native")
    with pytest.raises(InputError, match=next(iter(options))):
        from_pretrained(tmp_path / "a", registry=registry, **options)
