"""What ends a text, as a checkpoint's files say: against transformers, and values that are no ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from blockzoo.cli import main
from blockzoo.errors import CheckpointError
from blockzoo.registry import Registry
from blockzoo.tokenizers import BYTE_OF, load_tokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
ABSENT: Any = object()


def write_tokenizer(folder: Path, vocabulary: dict[str, int]) -> tokenizers.Tokenizer:
    """A byte-level tokenizer.json that names no end."""
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    return tokenizer


def say(folder: Path, name: str, value: object) -> None:
    (folder / name).unlink(missing_ok=True)
    if value is not ABSENT:
        (folder / name).write_text(json.dumps(value), encoding="utf-8")


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3 as transformers saves it."""
    folder = tmp_path_factory.mktemp("judge")
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=256,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    transformers.Qwen3ForCausalLM(config).save_pretrained(folder)
    write_tokenizer(folder, BYTE_OF)
    return folder


def test_a_text_ends_where_transformers_ends_it(judge: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompt, most = list(b"ab"), 12
    config = json.loads((judge / "config.json").read_text())

    def theirs() -> list[int]:
        model = transformers.AutoModelForCausalLM.from_pretrained(judge, dtype=torch.float32)
        out = model.generate(torch.tensor([prompt]), max_new_tokens=most, do_sample=False, pad_token_id=0)
        return out[0, len(prompt) :].tolist()

    whole = theirs()
    assert len(whole) == most
    fifth = next(token for token in whole[4:] if token not in whole[:4])
    ended = set()
    for in_config, in_generation in (
        (fifth, ABSENT),
        ([fifth, 255], ABSENT),
        (fifth, {"eos_token_id": whole[1]}),
        (ABSENT, {"eos_token_id": [whole[2], fifth]}),
        (fifth, {"eos_token_id": None}),
        (fifth, {"use_cache": True}),
        (None, ABSENT),
    ):
        say(judge, "config.json", config if in_config is ABSENT else {**config, "eos_token_id": in_config})
        say(judge, "generation_config.json", in_generation)
        reference = theirs()
        asked = ["generate", str(judge), "--prompt", "ab", "--max-new-tokens", str(most), "--json"]
        assert main(asked) == 0
        said = json.loads(capsys.readouterr().out)
        stopped = len(reference) < most
        assert said["tokens"] == len(reference) - stopped, (in_config, in_generation)
        ended.add(said["tokens"])
    assert len(ended) >= 3


@pytest.mark.parametrize("value", ["x", -1, 1e12, 10**12, 256, True, 1.0, {}, {"id": 3}, [3, "x"], [[3]], [-1], ""])
@pytest.mark.parametrize("name", ["generation_config.json", "config.json"])
def test_values_that_are_no_ids(
    name: str, value: object, tmp_path: Path, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tokenizer(tmp_path, BYTE_OF)
    say(tmp_path, name, {"eos_token_id": value})
    if name == "config.json" and value in (256, 10**12, -1, [-1]) and type(value) is not float:  # larger models', none
        assert load_tokenizer(tmp_path, registry=registry).stop_tokens == ()
        return
    words = r"must be the id of a token, from 0 to 255, a list of such, or null"
    with pytest.raises(CheckpointError, match=rf"{name}: 'eos_token_id' is .*; it {words}"):
        load_tokenizer(tmp_path, registry=registry)
    assert main(["generate", str(tmp_path), "--prompt", "a"]) == 2
    assert f"{tmp_path / name}: 'eos_token_id' is" in capsys.readouterr().err


def test_ids_and_where_they_are_found(tmp_path: Path, registry: Registry) -> None:
    write_tokenizer(tmp_path, BYTE_OF)
    derived = {"_from_model_config": True}
    for in_config, in_generation, stops in (
        ([], ABSENT, ()),
        (0, ABSENT, (0,)),
        ([7, 7, 255], ABSENT, (7, 255)),
        ([7, 50256], ABSENT, (7,)),
        ("x", {"eos_token_id": 9}, (9,)),
        (7, {**derived, "eos_token_id": 50256}, ()),
        (7, {**derived, "eos_token_id": [50256, 8]}, (8,)),
        (7, {}, ()),
    ):
        say(tmp_path, "config.json", {"eos_token_id": in_config})
        say(tmp_path, "generation_config.json", in_generation)
        assert load_tokenizer(tmp_path, registry=registry).stop_tokens == stops, (in_config, in_generation)


def test_a_model_that_names_its_tokenizer(tmp_path: Path, registry: Registry) -> None:
    """The end is the folder's also where the vocabulary is not."""
    (tmp_path / "blockzoo.yaml").write_text(
        "{vocab_size: 256, context_length: 8, d_model: 8, norm: rms_norm, position: rope, tokenizer: bytes,"
        " layers: {count: 1, mixer: {type: gqa, n_heads: 1}, ffn: {type: glu, d_ff: 8}}}"
    )
    assert load_tokenizer(tmp_path, registry=registry).stop_tokens == ()
    say(tmp_path, "generation_config.json", {"eos_token_id": 10})
    assert load_tokenizer(tmp_path, registry=registry).stop_tokens == (10,)
    assert load_tokenizer("bytes", registry=registry).stop_tokens == ()
    say(tmp_path, "generation_config.json", {"eos_token_id": 256})
    with pytest.raises(CheckpointError, match="from 0 to 255"):
        load_tokenizer(tmp_path, registry=registry)


def test_an_empty_vocabulary(tmp_path: Path, registry: Registry, capsys: pytest.CaptureFixture[str]) -> None:
    write_tokenizer(tmp_path, {})
    assert main(["generate", str(tmp_path), "--prompt", "a"]) == 2
    assert f"{tmp_path / 'tokenizer.json'}: its vocabulary is empty; copy" in capsys.readouterr().err
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.json").write_text("{}")
    (tmp_path / "merges.txt").write_text("")
    with pytest.raises(CheckpointError, match=r"vocab\.json: its vocabulary is empty"):
        load_tokenizer(tmp_path, registry=registry)


def test_a_vocabulary_without_its_unknown_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    described = json.loads(write_tokenizer(tmp_path, {"q": 0}).to_str())
    described["model"]["unk_token"] = "<u>"
    say(tmp_path, "tokenizer.json", described)
    assert main(["generate", str(tmp_path), "--prompt", "a", "--show-prompt"]) == 2
    assert "can't encode this text (Unk token `<u>` not found" in capsys.readouterr().err


def test_words_outside_the_byte_alphabet_are_themselves(tmp_path: Path, registry: Registry) -> None:
    reference = write_tokenizer(tmp_path, {**BYTE_OF, "日本": 256, "Ġ日": 257})
    ours = load_tokenizer(tmp_path, registry=registry)
    for token in (0, 32, 256, 257):
        assert ours.decode([token]) == reference.decode([token])
