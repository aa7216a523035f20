"""Results from folders: figures, views and notes, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from blockzoo.errors import BlockzooError, CheckpointError, InputError
from blockzoo.experiments.reading import Point
from blockzoo.experiments.results import Results, collect
from blockzoo.experiments.views import at
from tests.unit.experiments.fakes import ARMS, DATA, TOKENS, FakeArm, write_experiment


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return collect(write_experiment(tmp_path_factory.mktemp("runs")))


def test_the_planted_truth_comes_out(results: Results) -> None:
    verdicts = {arm.name: arm.difference.verdict for arm in results.arms if arm.difference}
    assert verdicts == {"deep": "better", "wide": "worse", "wide-experts": "inconclusive"}
    for arm, fake in zip(results.arms, ARMS, strict=True):
        assert arm.sample.n == 5
        assert arm.sample.mean == pytest.approx(fake.truth, abs=0.02)
        assert arm.train_tokens_per_second == fake.speed
        assert arm.tokens == TOKENS
        assert arm.peak_memory_bytes == 150_000_004
        assert [run.seed for run in arm.runs] == [0, 1, 2, 3, 4]
        assert {run.seed for run in arm.scouts} == {1000}
    assert results.baseline.difference is None
    assert len(results.arm("wide-experts").expert_load) == 4


def test_curves_know_tokens_flops_and_seconds(results: Results) -> None:
    run = results.arm("deep").runs[0]
    assert [point.tokens for point in run.curve] == [TOKENS * i // 10 for i in range(1, 11)]
    assert run.curve[-1].flops == pytest.approx(3 * 3.4e6 * TOKENS)
    assert run.curve[-1].seconds == pytest.approx(TOKENS / 13_000.0)
    assert run.curve[-1].metric == run.metric


def test_three_views_of_the_same_runs(results: Results) -> None:
    tokens, flops, seconds = results.views
    assert tokens.budget == TOKENS
    assert tokens.comparison is not None
    assert {arm: round(share, 9) for arm, share in tokens.cut.items()} == dict.fromkeys(tokens.cut, 1.0)
    assert tokens.note == ""
    assert flops.budget == pytest.approx(3 * 2.2e6 * TOKENS)
    assert "balanced" in flops.note
    assert "learning rate" in flops.note
    assert seconds.cut == pytest.approx(
        {"balanced": 20 / 27, "deep": 13 / 27, "wide": 1.0, "wide-experts": 9 / 27}, abs=5e-3
    )


def test_a_constant_rate_may_be_cut_anywhere(tmp_path: Path) -> None:
    folder = write_experiment(tmp_path)
    record = json.loads((folder / "experiment.json").read_text())
    for arm in record["arms"]:
        arm["train"]["schedule"]["type"] = "constant"
    (folder / "experiment.json").write_text(json.dumps(record))
    assert all(view.note == "" for view in collect(folder).views)


def test_interpolation_between_evaluations() -> None:
    curve = [Point(i, 100 * 2**i, 1.0 * 2**i, 1.0 * i, 4.0 - i) for i in range(3)]
    assert at(curve, "tokens", 99) is None
    assert at(curve, "tokens", 100) == (100, 4.0)
    assert at(curve, "tokens", 400) == (400, 2.0)
    tokens, metric = at(curve, "tokens", 100 * 2**0.5) or (0, 0)
    assert metric == pytest.approx(3.5)
    assert tokens == pytest.approx(150)
    assert at(curve, "seconds", 0.5) == (150, 3.5)


def test_evaluated_only_at_the_end(tmp_path: Path) -> None:
    folder = write_experiment(tmp_path)
    for file in tmp_path.glob("*/metrics.jsonl"):
        lines = [line for line in file.read_text().splitlines() if "loss" in line or '"step": 1000' in line]
        file.write_text("\n".join(lines) + "\n")
    views = {view.axis: view for view in collect(folder).views}
    assert views["tokens"].comparison is not None
    assert views["seconds"].comparison is None
    assert "set train.eval.every" in views["seconds"].note


def test_what_did_not_end_well(tmp_path: Path) -> None:
    arms = (
        FakeArm("base", 1.8, states={0: "failed"}),
        FakeArm("shaky", 1.7, states={1: "diverged"}),
        FakeArm("late", 1.8, states={2: "planned", 3: "planned"}),
        FakeArm("lost", 1.8, lr=None, problem="the best rate is at the end of the grid"),
    )
    results = collect(write_experiment(tmp_path, arms))
    assert results.baseline.sample.n == 4
    assert results.baseline.sample.diverged == ()
    shaky = results.arm("shaky")
    assert shaky.sample.diverged == (1,)
    assert shaky.difference is not None
    assert (shaky.difference.verdict, shaky.difference.n) == ("inconclusive", 3)
    assert math.isnan(shaky.runs[1].figure or 0)
    lost = results.arm("lost").difference
    assert lost is not None
    assert lost.reason == "no verdict runs: the best rate is at the end of the grid"
    assert results.arm("lost").sample.n == 0
    assert [run.arm for run in results.failures if run.purpose == "verdict"] == ["base", "shaky"]
    said = " ".join(results.notes)
    assert "2 verdict runs aren't finished" in said
    assert "lost has no verdict runs: the best rate is at the end of the grid" in said


def test_notes_tell_what_a_reader_must_know(tmp_path: Path) -> None:
    heavy = [FakeArm("a", 1.8, d_model=6000), FakeArm("b", 1.8, d_model=6000)]
    results = collect(write_experiment(tmp_path, heavy, policy="fixed", demonstration=True))
    demonstration, embedding, rates = results.notes
    assert "demonstration" in demonstration
    assert "Embedding and unembedding are most of the parameters (a 66 %" in embedding
    assert "none was tuned" in rates


def test_json_holds_all_and_is_strict(results: Results) -> None:
    text = json.dumps(results.as_json(), allow_nan=False)
    again = json.loads(text)
    assert again["experiment"]["name"] == "little"
    assert again["arms"][1]["record"]["account"]["n_layers"] == 16
    assert again["comparison"]["differences"]["deep"]["verdict"] == "better"
    assert again["arms"][1]["runs"][0]["curve"][0]["tokens"] == TOKENS // 10


def _edit(name: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        file = folder / name if name == "experiment.json" else folder.parent / name
        value = json.loads(file.read_text())
        change(value)
        file.write_text(json.dumps(value))

    return apply


def _write(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


OTHER = {"data": "f" * 64}


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda folder: (folder / "experiment.json").unlink(), InputError, "no experiment is recorded there"),
        (_write("experiment.json", "{"), CheckpointError, "experiment.json: damaged: Invalid JSON"),
        (_edit("experiment.json", lambda r: r.pop("metric")), CheckpointError, "damaged at metric: Field required"),
        (_edit("experiment.json", lambda r: r["arms"][0].update(lr="x")), CheckpointError, "damaged at arms.0.lr"),
        (_edit("experiment.json", lambda r: r["arms"][0]["account"].pop("tokens")), CheckpointError, "account of arm"),
        (_edit("experiment.json", lambda r: r.update(baseline="nobody")), CheckpointError, "no arm 'nobody'"),
        (_edit("experiment.json", lambda r: r.update(format=2)), CheckpointError, "damaged at format"),
        (_edit("deep-0-0.001/run.json", lambda r: r.update(OTHER)), InputError, "different data are not compared"),
        (_edit("experiment.json", lambda r: r.update(data_sha256="0" * 64)), InputError, "than the experiment's"),
        (_edit("deep-0-0.001/result.json", lambda r: r.pop("bits_per_byte")), CheckpointError, "has no bits_per_byte"),
        (_write("../deep-0-0.001/result.json", "{]"), CheckpointError, "deep-0-0.001/result.json: can't read it"),
        (_write("../deep-0-0.001/metrics.jsonl", '{"loss": 1, "tokens": 3}\n'), CheckpointError, "metrics.jsonl:1: "),
        (_write("../deep-0-0.001/metrics.jsonl", "[1]\n"), CheckpointError, "metrics.jsonl:1: "),
    ],
)
def test_damage_is_told_with_its_place(
    tmp_path: Path, damage: Callable[[Path], None], error: type[BlockzooError], message: str
) -> None:
    folder = write_experiment(tmp_path)
    damage(folder)
    with pytest.raises(error) as raised:
        collect(folder)
    assert message in str(raised.value)


def test_a_hash_for_each_tokenizer(tmp_path: Path) -> None:
    """The hash is of tokens too, so two tokenizers have two; runs that share one share both."""
    folder = write_experiment(tmp_path)
    for file in tmp_path.glob("deep-*/run.json"):
        file.write_text(json.dumps({**json.loads(file.read_text()), "data": "e" * 64, "tokenizer": "gpt2"}))
    assert collect(folder).arm("deep").sample.n == 5
    assert DATA != "e" * 64
