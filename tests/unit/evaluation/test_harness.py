"""Numbers of lm-evaluation-harness over our models, against those of its own transformers backend."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from blockzoo import building
from blockzoo.checkpoints import from_pretrained, save_pretrained
from blockzoo.cli import main
from blockzoo.config import load_config
from blockzoo.errors import InputError
from blockzoo.evaluation.likelihood import likelihoods
from blockzoo.registry import Registry
from blockzoo.tokenizers import ByteTokenizer, load_tokenizer
from blockzoo_qwen3.family import QWEN3

pytest.importorskip("lm_eval")
pytestmark = pytest.mark.filterwarnings("ignore")  # the harness's libraries, on import

CONTEXT = 32
GPT2 = {
    "name": "tiny",
    "context_length": 40,
    "d_model": 32,
    "norm": "layer_norm",
    "position": "none",
    "embedding": {"position": "learned"},
    "layers": {"count": 2, "mixer": {"type": "gqa", "n_heads": 4}, "ffn": {"type": "mlp", "d_ff": 64}},
}
WORDS = ("six", "seven", "eight apples and a pear", " 9")
TASKS: dict[str, dict[str, Any]] = {
    "choices": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "doc_to_choice": "{{choices}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "texts": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question * 6}}",  # several windows of the context
        "metric_list": [{"metric": "word_perplexity"}],
    },
    "answers": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "six",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 6},
        "metric_list": [{"metric": "exact_match"}],
    },
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of task files and their questions."""
    folder = tmp_path_factory.mktemp("tasks")
    lines = [
        {"question": f"Question: what is {n} + 5?\nAnswer:", "choices": [f" {word}" for word in WORDS], "answer": 0}
        for n in range(4)
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = {"data_files": {"test": str(folder / "questions.jsonl")}}
    for name, task in TASKS.items():
        whole = {"task": f"local_{name}", "dataset_path": "json", "dataset_kwargs": files, "test_split": "test", **task}
        (folder / f"{name}.yaml").write_text(json.dumps(whole))
    return folder


@pytest.fixture(scope="module")
def checkpoint(data: Path, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    said = {**QWEN3.layouts["hf"].samples[0].config_json, "vocab_size": 151936, "max_position_embeddings": CONTEXT}
    config = load_config({"name": "tiny", **QWEN3.layouts["hf"].read_config(said)}, registry=registry)
    folder = tmp_path_factory.mktemp("model") / "tiny"
    save_pretrained(building.build(config, registry=registry, seed=1), folder, registry=registry)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).write_bytes((data / "qwen3-tokenizer" / file).read_bytes())
    return folder


def evaluated(model: Any, tasks: Path) -> dict[str, list[Any]]:
    """Task -> the answers that the model gave, question by question."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    found = simple_evaluate(
        model=model, tasks=[f"local_{name}" for name in TASKS], task_manager=manager, bootstrap_iters=0
    )
    assert found is not None
    samples: Mapping[str, list[dict[str, Any]]] = found["samples"]
    return {task: [line["filtered_resps"] for line in lines] for task, lines in samples.items()}


def test_equal_to_the_transformers_backend(checkpoint: Path, tasks: Path, registry: Registry) -> None:
    from lm_eval.models.huggingface import HFLM

    from blockzoo.evaluation.harness import HarnessModel

    ours = HarnessModel(from_pretrained(checkpoint, registry=registry), load_tokenizer(checkpoint, registry=registry))
    theirs = HFLM(pretrained=str(checkpoint), dtype="float32", device="cpu", batch_size=2)
    assert ours.prefix_token_id == theirs.prefix_token_id
    found, wanted = evaluated(ours, tasks), evaluated(theirs, tasks)
    for one, other in zip(found["local_choices"], wanted["local_choices"], strict=True):
        assert [greedy for _, greedy in one] == [greedy for _, greedy in other]
        assert [log for log, _ in one] == pytest.approx([log for log, _ in other], rel=1e-5)
    assert found["local_texts"] == [pytest.approx(value, rel=1e-5) for value in wanted["local_texts"]]
    assert found["local_answers"] == wanted["local_answers"]


def test_a_likelihood_is_the_sum_over_the_whole_pass(registry: Registry) -> None:
    config = load_config({**GPT2, "vocab_size": 300}, registry=registry)
    model = building.build(config, registry=registry)
    context, continuations = [5, 7, 9], [[1], [2, 3, 4], list(range(20, 50))]
    found = likelihoods(model, context, continuations)
    for one, continuation in zip(found, continuations, strict=True):
        line = torch.tensor([[*context, *continuation[:-1]]])
        with torch.no_grad():
            choices = model(line)[0, 2:].log_softmax(-1)
        wanted = sum(float(choices[i, token]) for i, token in enumerate(continuation))
        assert one.log == pytest.approx(wanted, rel=1e-5)
        assert one.greedy == (choices.argmax(-1).tolist() == continuation)


def test_a_vocabulary_without_an_end_begins_with_a_line_break(registry: Registry) -> None:
    from blockzoo.evaluation.harness import HarnessModel

    config = load_config({**GPT2, "vocab_size": 256}, registry=registry)
    model = building.build(config, registry=registry)
    assert HarnessModel(model, ByteTokenizer()).prefix_token_id == ord("\n")
    with pytest.raises(InputError, match="prefix token 256 is not among"):
        HarnessModel(model, ByteTokenizer(), prefix_token=256)


def test_the_verb_prints_one_document(
    checkpoint: Path, tasks: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = tmp_path / "samples.jsonl"
    options = ["--tasks", "local_choices", "--include-path", str(tasks), "--samples", str(lines), "--json"]
    assert main(["evaluate", str(checkpoint), *options]) == 0
    printed = json.loads(capfd.readouterr().out)
    assert {row["metric"]: row["questions"] for row in printed["results"]} == {"acc": 4, "acc_norm": 4}
    assert len(lines.read_text().splitlines()) == 4


def test_a_file_that_cannot_be_written_is_told_before_a_question_is_asked(
    checkpoint: Path, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lm_eval.simple_evaluate", None)
    options = ["--tasks", "local_choices", "--include-path", str(tasks), "--samples", str(tmp_path / "no" / "file")]
    assert main(["evaluate", str(checkpoint), *options]) == 2
    assert "can't be written (No such file or directory)" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tasks", "local_choicez"], "did you mean"),
        (["--tasks", ","], "names no task"),
        (["--tasks", "local_choices", "--limit", "0"], "at least 1"),
        (["--tasks", "broken"], "the harness can't run them"),
    ],
)
def test_what_is_wrong_is_said(
    arguments: list[str], words: str, checkpoint: Path, tasks: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": "none.jsonl"}, "test_split": "test"}
    broken = {"task": "broken", "output_type": "multiple_choice", "doc_to_text": "", **data}
    (tasks / "broken.yaml").write_text(json.dumps(broken))
    assert main(["evaluate", str(checkpoint), "--include-path", str(tasks), *arguments]) == 2
    assert words in capfd.readouterr().err
