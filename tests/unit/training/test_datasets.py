"""Data sets in the format of the hub, read by the hub's library from this machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from blockzoo.config.parse import section
from blockzoo.config.yaml_source import read_yaml
from blockzoo.errors import ConfigError, InputError
from blockzoo.tokenizers import ByteTokenizer
from blockzoo.training.data import Dataset, prepare
from blockzoo.training.data_config import DataConfig
from blockzoo.training.datasets import DatasetCorpus

TEXTS = [f"document {i}: {'words ' * (i % 7)}" for i in range(200)]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def config(folder: Path, **changes: Any) -> DataConfig:
    return DataConfig.model_validate({"held_out": 0.2, "dataset": {"name": str(folder), "column": "story", **changes}})


def read(data: DataConfig) -> list[tuple[str, bool]]:
    assert data.dataset is not None
    return [tuple(piece) for piece in DatasetCorpus(data.dataset, data.held_out, data.max_bytes).pieces()]


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    folder = tmp_path / "stories"
    folder.mkdir()
    for number, part in enumerate((TEXTS[:120], TEXTS[120:])):
        lines = (json.dumps({"story": text, "n": i}) + "\n" for i, text in enumerate(part))
        (folder / f"train-0000{number}-of-00002.jsonl").write_text("".join(lines))
    (folder / "test.jsonl").write_text('{"story": "of the test"}\n')
    return folder


@pytest.fixture
def library() -> Any:
    return pytest.importorskip("datasets", reason="Hugging Face datasets is not installed (extra [data])")


def test_documents_come_in_order(library: Any, jsonl: Path) -> None:
    found = read(config(jsonl))
    assert [text for text, _ in found] == [f"{text}\n\n" for text in TEXTS]
    held_out = [index for index, (_, is_held_out) in enumerate(found) if is_held_out]
    assert 20 < len(held_out) < 60
    fewer = read(config(jsonl, max_documents=150))
    assert fewer == found[:150], "a shorter read holds out the same documents"


def test_parquet_goes_the_same_way(library: Any, jsonl: Path, tmp_path: Path) -> None:
    parquet = tmp_path / "parquet"
    library.Dataset.from_dict({"story": TEXTS}).to_parquet(str(parquet / "train.parquet"))
    assert read(config(parquet)) == read(config(jsonl)) == read(config(parquet / "train.parquet"))
    bytes_of = prepare(config(parquet), ByteTokenizer(), "bytes", tmp_path / "a")
    assert bytes_of.sha256 == prepare(config(jsonl), ByteTokenizer(), "bytes", tmp_path / "b").sha256


def test_a_second_run_reads_tokens_alone(
    library: Any, jsonl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(config(jsonl), ByteTokenizer(), "bytes", tmp_path / "cache")
    assert isinstance(first, Dataset)
    assert bytes(first.train[:10].tolist()) == b"document 0"
    monkeypatch.setattr(DatasetCorpus, "pieces", None)
    assert prepare(config(jsonl), ByteTokenizer(), "bytes", tmp_path / "cache").sha256 == first.sha256
    (jsonl / "train-00000-of-00002.jsonl").write_text('{"story": "changed", "n": 1}\n' * 30)
    monkeypatch.undo()
    assert prepare(config(jsonl), ByteTokenizer(), "bytes", tmp_path / "cache").sha256 != first.sha256


def test_only_so_many_bytes(library: Any, jsonl: Path) -> None:
    data = config(jsonl).model_copy(update={"max_bytes": 1000})
    assert sum(len(text.encode()) for text, _ in read(data)) == 1000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"column": "text"}, r"no column 'text' .*it has story, n"),
        ({"column": "n"}, "document 0, column 'n': is int, no text"),
        ({"split": "validation"}, r"split 'validation' .*found none"),
        ({"max_documents": 1}, "of 1 documents 0 are held out"),
        ({"name": "./nowhere"}, "no such file or folder"),
    ],
)
def test_what_cannot_be_read_is_told(library: Any, jsonl: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(config(jsonl, **changes))


def test_a_damaged_file_is_told(library: Any, tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"no parquet")
    with pytest.raises(InputError, match="can't be read, split 'train'"):
        read(config(tmp_path))


def test_the_hub_is_asked_for_the_revision(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(*where: Any, **how: Any) -> Any:
        asked.append((where, how))
        return library.IterableDataset.from_generator(lambda: ({"text": text} for text in TEXTS))

    monkeypatch.setattr(library, "load_dataset", load)
    data = DataConfig.model_validate({"dataset": {"name": "owner/stories", "revision": COMMIT, "config": "small"}})
    assert len(read(data)) == 200
    assert asked == [(("owner/stories", "small"), {"revision": COMMIT, "split": "train", "streaming": True})]


def test_a_missing_library_says_what_to_install(jsonl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"pip install 'blockzoo\[data\]'"):
        read(config(jsonl))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{name: owner/stories}", "4:10: .*give the revision of owner/stories"),
        ("{name: owner/stories, revision: main}", "4:10: .*revision is 'main': branches and tags move"),
        ("{name: ./stories, revision: abc}", "4:10: .*has no revision"),
        ("{name: a b}", "4:10: .*is no data set"),
        ("{name: ./stories, colunm: text}", "4:28: .*unknown key 'colunm'; did you mean 'column'"),
    ],
)
def test_mistakes_are_told_with_their_place(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "data.yaml").write_text(f"held_out: 0.1\n\n\ndataset: {text}\n")
    with pytest.raises(ConfigError, match=message):
        section(DataConfig, read_yaml(tmp_path / "data.yaml"))
