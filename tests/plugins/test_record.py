"""``blockzoo plugins record``: what transformers computes from a family's samples, and how a wrong family shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from blockzoo.cli import main, plugins_record
from blockzoo.cli.plugins_new import render
from blockzoo.cli.plugins_record import _theirs
from blockzoo_gpt2.samples import HF

pytest.importorskip("transformers", reason="the independent implementation")

FAMILY = render("mine", "family")["src/blockzoo_mine/family.py"]
REGISTER = "\n\ndef blockzoo_register(registry):\n    registry.family(FAMILY)\n"


def test_record_prints_what_is_recorded(fresh: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "record", "gpt2", "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)["samples"]
    for row, sample in zip(rows, HF, strict=True):
        assert row["agrees"]
        if sample.logits is not None:
            assert row["logits"] == pytest.approx(sample.logits, rel=1e-4)


def test_record_says_why_not(fresh: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (fresh / "mine.py").write_text(FAMILY + REGISTER)
    assert main(["plugins", "record", "./mine.py"]) == 1
    out = capfd.readouterr().out
    assert "mine, layout hf, sample 1 of 2: transformers can't: " in out
    assert "--as MODEL_TYPE tells transformers another" in out
    assert main(["plugins", "record", "./mine.py", "--as", "llama"]) == 0
    assert capfd.readouterr().out.count("  Sample(..., logits=(") == 2
    assert main(["plugins", "record", "./mine.py", "--as", "gpt2"]) == 1
    assert "transformers can't: missing keys: " in capfd.readouterr().out
    assert main(["plugins", "record", "blocks"]) == 2
    assert "plugin 'blocks' registers no family" in capfd.readouterr().err


def test_record_shows_another_model(fresh: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Another activation: everything loads and saves, and no check but the recorded logits can tell."""
    wrong = FAMILY.replace('"type": "glu",', '"type": "glu",\n                "activation": "relu",')
    assert wrong != FAMILY
    (fresh / "mine.py").write_text(wrong + REGISTER)
    assert main(["plugins", "check", "./mine.py", "--only", "recorded_logits"]) == 0
    assert "nothing compares this with the original: record logits by" in capfd.readouterr().out
    assert main(["plugins", "record", "./mine.py", "--as", "llama", "--json"]) == 1
    rows = json.loads(capfd.readouterr().out)["samples"]
    assert [row["agrees"] for row in rows] == [False, False]
    assert all(row["off"] > 1e-3 for row in rows)


@pytest.mark.parametrize(
    ("right", "wrong", "words"),
    [
        (
            "default_theta=10000.0",
            "default_theta=500.0",
            "of the greatest logit off: likely the default of a key that this sample leaves out: ",
        ),
        ('"mlp_bias", default=False', '"mlp_bias", default=True', "transformers can't: unexpected keys: model.layers."),
        (
            '"num_key_value_heads", default=heads',
            '"num_key_value_heads", default=2',
            "transformers can't: mismatched keys: model.layers.0.self_attn.k_proj.weight [16, 32] [32, 32]",
        ),
    ],
)
def test_record_shows_a_wrong_default(
    fresh: Path, capfd: pytest.CaptureFixture[str], right: str, wrong: str, words: str
) -> None:
    """Transformers reads the sample's own config.json: what that leaves out it fills in by itself."""
    assert right in FAMILY
    (fresh / "mine.py").write_text(FAMILY.replace(right, wrong) + REGISTER)
    assert main(["plugins", "record", "./mine.py", "--as", "llama"]) == 1
    out = capfd.readouterr().out
    assert words in out
    assert out.count("  Sample(..., logits=(") == 1 + ("transformers can't" not in words)
    assert ("is a default of read_config another than its own" in out) == ("keys" in words)


def test_record_compares_the_defaults_of_keys_that_every_sample_has(
    fresh: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    right = 'keys.integer("max_position_embeddings")'
    assert right in FAMILY
    (fresh / "mine.py").write_text(FAMILY + REGISTER)
    assert main(["plugins", "record", "./mine.py", "--as", "llama", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["defaults"] == []
    wrong = FAMILY.replace(right, 'keys.integer("max_position_embeddings", default=4096)')
    (fresh / "mine.py").write_text(wrong + REGISTER)
    assert main(["plugins", "record", "./mine.py", "--as", "llama"]) == 0  # told: another's default may be right here
    line = "where a config.json leaves 'max_position_embeddings' out, transformers takes 2048, and read_config another"
    assert capfd.readouterr().out.count(line) == 1
    (fresh / "mine.py").write_text(wrong.replace('"mine"', '"llama"') + REGISTER)
    assert main(["plugins", "record", "./mine.py"]) == 1
    assert line in capfd.readouterr().out


@pytest.mark.parametrize(
    ("window", "compared"),
    [
        ('None if keys.is_null("sliding_window") else keys.integer("sliding_window", default=4096)', True),
        ('keys.integer("sliding_window", default=None)', False),
    ],
    ids=["absent is 4096", "absent is null"],
)
def test_record_compares_a_default_of_none_and_what_is_harmless(
    fresh: Path, capfd: pytest.CaptureFixture[str], window: str, compared: bool
) -> None:
    """Phi-3's class has no window unless the file says one, and draws weights of 0.02."""
    mixer, position = '"type": "gqa",', '"position": read_rope('
    assert mixer in FAMILY
    assert position in FAMILY
    text = FAMILY.replace(mixer, f'{mixer} "window": {window},', 1)
    std = 0.01 if compared else 0.02
    init = f'"init": {{"std": keys.number("initializer_range", default={std})}}, {position}'
    (fresh / "mine.py").write_text(text.replace(position, init, 1) + REGISTER)
    main(["plugins", "record", "./mine.py", "--as", "phi3", "--json"])
    lines = json.loads(capfd.readouterr().out)["defaults"]
    for key, theirs in (("sliding_window", "null"), ("initializer_range", "0.02")):
        line = f"where a config.json leaves '{key}' out, transformers takes {theirs}, and read_config another value"
        assert (line in lines) == compared


def test_record_gives_transformers_the_samples_null(
    fresh: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = '"vocab_size": 96,'
    assert tiny in FAMILY
    (fresh / "mine.py").write_text(FAMILY.replace(tiny, f'{tiny} "pad_token_id": 512,') + REGISTER)
    assert main(["plugins", "record", "./mine.py", "--as", "llama"]) == 1
    out = capfd.readouterr().out
    assert "Padding_idx must be within num_embeddings; its pad_token_id is beyond the sample's vocabulary: say" in out
    assert "--as" not in out
    (fresh / "mine.py").write_text(FAMILY.replace(tiny, f'{tiny} "pad_token_id": None,') + REGISTER)
    read = []

    def theirs(folder: Path, *rest: Any) -> torch.Tensor:
        read.append(json.loads((folder / "config.json").read_text()))
        return _theirs(folder, *rest)

    monkeypatch.setattr(plugins_record, "_theirs", theirs)
    assert main(["plugins", "record", "./mine.py", "--as", "llama"]) == 0
    assert [said["pad_token_id"] for said in read] == [None] * 4  # of two samples, and of what is written for them


def test_record_reads_what_the_family_writes(fresh: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A size written as a float is refused, and a key that is left out is transformers' default."""
    size, eps = '"intermediate_size": ffn.d_ff', 'keys.number("rms_norm_eps")'
    wrong_type = FAMILY.replace(size, size.replace("ffn.d_ff", "float(ffn.d_ff)")).replace(
        'keys.integer("intermediate_size")', 'int(keys.number("intermediate_size"))'
    )
    left_out = (
        FAMILY.replace(eps, eps.replace(")", ", default=0.01)"))
        .replace('"rms_norm_eps": expect(layer.norm, RMSNormConfig, "norm").eps,', "")
        .replace('"rms_norm_eps": 1e-6', '"rms_norm_eps": 0.01')
    )
    for wrong, said in (
        (wrong_type, "transformers can't read what write_config writes: "),
        (left_out, "what write_config writes is another model to transformers than the sample, "),
    ):
        (fresh / "mine.py").write_text(wrong + REGISTER)
        assert main(["plugins", "record", "./mine.py", "--as", "llama"]) == 1
        assert said in capfd.readouterr().out
