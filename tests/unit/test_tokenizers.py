"""Tokenizers: against tiktoken and the tokenizers library on real vocabularies, and small ones made here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockzoo.config import dump_yaml, load_config
from blockzoo.errors import CheckpointError, InputError
from blockzoo.registry import Registry
from blockzoo.tokenizers import ByteTokenizer, load_tokenizer, tokenizer_files, tokenizer_name
from blockzoo.tokenizers.writing import _for_oniguruma, _of_tiktoken

TEXT = "Hello wörld! It's 12345 o'clock…\n\n\t  日本語 🙂 e\u0301 <think>x</think> end  \n"

TINY = {
    "vocab_size": 256,
    "context_length": 8,
    "d_model": 8,
    "norm": "rms_norm",
    "position": "rope",
    "layers": {"count": 1, "mixer": {"type": "gqa", "n_heads": 1}, "ffn": {"type": "glu", "d_ff": 8}},
}


@pytest.fixture
def tiktoken_cache(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(data / "tiktoken-cache"))


@given(st.text())
def test_bytes_come_back(text: str) -> None:
    tokenizer = ByteTokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text.encode("utf-8", "replace").decode()


def test_bytes_and_unknown_ids(registry: Registry) -> None:
    tokenizer = load_tokenizer("bytes", registry=registry)
    assert (tokenizer.n_tokens, tokenizer.stop_tokens) == (256, ())
    assert tokenizer.encode("é") == [0xC3, 0xA9]
    assert tokenizer.decode([0xC3]) == "\ufffd"
    with pytest.raises(InputError, match="token id 256"):
        tokenizer.decode([256])


@pytest.mark.usefixtures("tiktoken_cache")
@pytest.mark.parametrize(
    ("name", "n_tokens", "stops"),
    [
        ("gpt2", 50257, (50256,)),
        ("r50k_base", 50257, (50256,)),
        ("o200k_base", 200019, (199999,)),
        ("o200k_harmony", 201088, (199999, 200002, 200012)),
        ("gpt-oss-20b", 201088, (200002, 200012)),
        ("gpt2-xl", 50257, (50256,)),
    ],
)
def test_tiktoken_by_name(name: str, n_tokens: int, stops: tuple[int, ...], registry_with_configs: Registry) -> None:
    tokenizer = load_tokenizer(name, registry=registry_with_configs)
    assert (tokenizer.n_tokens, tokenizer.stop_tokens) == (n_tokens, stops)
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    user = tokenizer.encode("a <|endoftext|> b")
    end = 50256 if n_tokens == 50257 else 199999
    assert end not in user
    assert tokenizer.encode("<|endoftext|>", control=True) == [end]
    assert tokenizer.decode(user) == "a <|endoftext|> b"


@pytest.fixture
def registry_with_configs(registry: Registry) -> Registry:
    from blockzoo.plugins import shipped_configs

    folders = {name: [shipped_configs(name)] for name in ("gpt2", "gpt_oss", "qwen3")}
    return Registry(builtin=registry.builtin, things=registry.things, config_folders=folders)


def test_tiktoken_without_a_network(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tiktoken

    def no_network(name: str) -> object:
        raise ConnectionError("no route")

    monkeypatch.setattr(tiktoken, "get_encoding", no_network)
    with pytest.raises(InputError, match="point TIKTOKEN_CACHE_DIR at a folder"):
        load_tokenizer("o200k_base", registry=registry)


@pytest.mark.usefixtures("tiktoken_cache")
@pytest.mark.parametrize("name", ["bytes", "gpt2", "o200k_harmony"])
def test_as_files_it_is_the_same_tokenizer_to_everybody(
    name: str, data: Path, tmp_path: Path, registry: Registry
) -> None:
    """Nothing names its end token in ``bytes``: it has none."""
    from transformers import AutoTokenizer

    before = load_tokenizer(name, registry=registry)
    config = load_config({**TINY, "tokenizer": name}, registry=registry)
    for file, content in tokenizer_files(config, registry=registry).items():
        (tmp_path / file).write_bytes(content)
    after, theirs = load_tokenizer(tmp_path, registry=registry), AutoTokenizer.from_pretrained(tmp_path)
    assert after.n_tokens == before.n_tokens
    assert set(after.stop_tokens) <= set(before.stop_tokens)
    assert bool(after.stop_tokens) == bool(before.stop_tokens)
    for text in (TEXT, (data / "text" / "tinyshakespeare.txt").read_text()[:20000], "<|endoftext|>"):
        want = before.encode(text)
        assert after.encode(text) == want
        assert after.encode(text, control=True) == before.encode(text, control=True)
        assert theirs(text)["input_ids"] == before.encode(text, control=True)
        assert theirs.decode(want) == before.decode(want)


def test_as_files_a_tokenizer_in_a_folder_is_that_of_the_folder(data: Path, registry: Registry) -> None:
    folder = data / "qwen3-tokenizer"
    found = tokenizer_files(load_config({**TINY, "tokenizer": str(folder)}, registry=registry), registry=registry)
    assert found == {path.name: path.read_bytes() for path in folder.iterdir() if path.name in found}
    assert "tokenizer.json" in found


def test_as_files_a_tokenizer_that_another_checkpoint_names_is_the_one_it_leads_to(
    data: Path, tmp_path: Path, registry: Registry
) -> None:
    folder = data / "qwen3-tokenizer"
    between = load_config({**TINY, "tokenizer": str(folder)}, registry=registry)
    (tmp_path / "blockzoo.yaml").write_text(dump_yaml(between, registry))
    config = load_config({**TINY, "tokenizer": str(tmp_path)}, registry=registry)
    made = tmp_path / "made"
    made.mkdir()
    for file, content in tokenizer_files(config, registry=registry).items():
        (made / file).write_bytes(content)
    before, after = (load_tokenizer(place, registry=registry) for place in (folder, made))
    assert before.encode(TEXT) == after.encode(TEXT)
    assert after.encode("<|im_end|>", control=True) == [151645]


def test_as_files_added_tokens_keep_ids_that_leave_some_out() -> None:
    """As those of ``cl100k_base`` do."""
    import tiktoken

    ranks = {**{bytes([byte]): byte for byte in range(256)}, b"ab": 256}
    encoding = tiktoken.Encoding("gaps", pat_str=r"\w+|\W+", mergeable_ranks=ranks, special_tokens={"<|x|>": 300})
    found = _of_tiktoken(encoding)
    assert found.encode("cab<|x|>!").ids == encoding.encode("cab<|x|>!", allowed_special="all") == [99, 256, 300, 33]


def test_what_gives_nothing_back_is_told_in_the_words_of_the_other_engine() -> None:
    """``cl100k_base`` cuts digits so: three at a time."""
    from tokenizers import Regex, pre_tokenizers

    cut = pre_tokenizers.Split(Regex(_for_oniguruma(r"\p{N}{1,3}+|[^\s\p{N}]{2,}+|\s++")), "isolated")
    assert [piece for piece, _ in cut.pre_tokenize_str("1234567 abc ")] == ["123", "456", "7", " ", "abc", " "]
    assert _for_oniguruma(r"[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}") == r"[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}"


@pytest.mark.usefixtures("tiktoken_cache")
def test_what_is_no_unicode_is_replaced_by_all(data: Path, registry: Registry) -> None:
    """So arrive the bytes FF and FE of an argument."""
    for ref in ("bytes", "gpt2", data / "qwen3-tokenizer"):
        tokenizer = load_tokenizer(ref, registry=registry)
        assert tokenizer.decode(tokenizer.encode("a\udcff\udcfe")) == "a\ufffd\ufffd"


def test_qwen3_with_and_without_tokenizer_json(data: Path, tmp_path: Path, registry: Registry) -> None:
    whole = load_tokenizer(data / "qwen3-tokenizer", registry=registry)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(data / "qwen3-tokenizer" / name, tmp_path)
    parts = load_tokenizer(tmp_path, registry=registry)
    shakespeare = (data / "text" / "tinyshakespeare.txt").read_text()[:20000]
    for text in (TEXT, shakespeare, "1234", "<|im_end|>", "e\u0301"):
        assert whole.encode(text) == parts.encode(text)
        assert whole.encode(text, control=True) == parts.encode(text, control=True)
    for tokenizer in (whole, parts):
        assert tokenizer.n_tokens == 151669
        assert set(tokenizer.stop_tokens) == {151645, 151643}
        assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT.replace("e\u0301", "\u00e9")
        assert tokenizer.encode("<think>\n\n</think>\n\n") == [151667, 271, 151668, 271]
        assert 151645 not in tokenizer.encode("<|im_end|>")
        assert tokenizer.encode("<|im_end|>", control=True) == [151645]
        assert len(tokenizer.encode("1234")) == 4
        assert tokenizer.token_bytes(151667) == b"<think>"
        with pytest.raises(InputError, match="151669"):
            tokenizer.decode([151669])


def test_a_small_gpt2_style_vocabulary(tmp_path: Path, registry: Registry) -> None:
    vocabulary = {
        "h": 0,
        "e": 1,
        "l": 2,
        "o": 3,
        "\u0120": 4,
        "he": 5,
        "ll": 6,
        "hell": 7,
        "hello": 8,
        "\u0120hello": 9,
    }
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nh e\nl l\nhe ll\nhell o\n\u0120 hello\n")
    tokenizer = load_tokenizer(tmp_path, registry=registry)
    assert tokenizer.encode("hello hello") == [8, 9]
    assert tokenizer.decode([8, 9]) == "hello hello"
    (tmp_path / "merges.txt").write_text("x y\n")
    with pytest.raises(CheckpointError, match="make no tokenizer"):
        load_tokenizer(tmp_path, registry=registry)


def test_folders_without_one(tmp_path: Path, registry: Registry) -> None:
    with pytest.raises(CheckpointError, match=r"holds no tokenizer\.json"):
        load_tokenizer(tmp_path, registry=registry)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(CheckpointError, match="is no tokenizer"):
        load_tokenizer(tmp_path, registry=registry)
    with pytest.raises(CheckpointError, match="no such folder"):
        load_tokenizer(tmp_path / "absent", registry=registry)


def test_a_config_that_names_its_own_folder(tmp_path: Path, registry: Registry) -> None:
    config = load_config(TINY, {"tokenizer": str(tmp_path)}, registry=registry)
    (tmp_path / "blockzoo.yaml").write_text(dump_yaml(config, registry))
    with pytest.raises(CheckpointError, match="each names the next one's tokenizer, and none has one: copy it in"):
        load_tokenizer(tmp_path, registry=registry)


def test_the_tokenizer_of_a_model(registry: Registry) -> None:
    assert tokenizer_name(load_config(TINY, registry=registry), registry=registry) == "bytes"
    family = load_config({**TINY, "family": "gpt_oss"}, registry=registry)
    assert tokenizer_name(family, registry=registry) == "o200k_harmony"
    own = load_config({**TINY, "family": "gpt_oss", "tokenizer": "bytes"}, registry=registry)
    assert tokenizer_name(own, registry=registry) == "bytes"
