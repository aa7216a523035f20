"""The report: whole, alone, the same bytes every time, safe from what arms are called."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from blockzoo.cli import main
from blockzoo.experiments.report import NO_PLOTS, words, write
from blockzoo.experiments.report.table import rows
from blockzoo.experiments.results import Results, collect
from blockzoo.experiments.statistics import Interval
from tests.unit.experiments.fakes import DATA, FakeArm, write_experiment

ALL_PLOTS = [
    "differences",
    "views",
    "curve-tokens",
    "curve-flops",
    "curve-seconds",
    "rates",
    "aspect-ratio",
    "decoding",
    "cache",
    "parameters",
    "experts",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_experiment(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def results(folder: Path) -> Results:
    return collect(folder)


@pytest.fixture(scope="module")
def page(folder: Path, results: Results) -> str:
    pytest.importorskip("matplotlib")
    written = write(results, folder)
    assert written.missing is None
    return written.html.read_text(encoding="utf-8")


class Outline(HTMLParser):
    """Tags that are open, ids, and whatever would be fetched."""

    VOID = frozenset({"meta", "link", "br", "img", "input", "hr", "path", "use", "rect", "circle", "line"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.fetched: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        of = dict(attrs)
        self.scripts += tag == "script" or any(name.startswith("on") for name in of)
        if "id" in of:
            self.ids.append(of["id"] or "")
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_one_file_with_everything_in_it(page: str) -> None:
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids))
    assert outline.scripts == 0
    assert all(link.startswith("#") for link in outline.fetched)
    assert {link[1:] for link in outline.fetched} <= set(outline.ids)
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org/)", page)


def test_every_plot_has_a_name_and_follows_the_theme(page: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(drawings) == len(ALL_PLOTS)
    for name, text in zip(ALL_PLOTS, drawings, strict=True):
        svg = ElementTree.fromstring(text)
        assert svg.attrib["role"] == "img"
        title, description = list(svg)[:2]
        assert [title.attrib["id"], description.attrib["id"]] == svg.attrib["aria-labelledby"].split()
        assert title.attrib["id"] == f"{name}-title"
        assert title.text
        assert description.text
        assert "var(--ink)" in text
        assert not re.findall(r"#[0-9a-f]{6}\b", text)
        assert "DejaVu" not in text


def test_what_it_says(page: str) -> None:
    for said in (
        f"deep ({words.MINUS}0.0218) is better than balanced",
        "wide-experts (+0.007) is inconclusive against balanced",
        "more seeds would show a difference of",
        "Noise: seeds move balanced",
        "blockzoo compare little.yaml --out runs",
        DATA,
        "training diverged",
        "threads",
        "Equal training FLOPs: 27 T",
        "&lt;b&gt;path&lt;/b&gt;",
    ):
        assert said in page, said


def test_the_same_results_give_the_same_bytes(page: str, results: Results, tmp_path: Path) -> None:
    assert write(results, tmp_path).html.read_text(encoding="utf-8") == page
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "report.html",
        "results.csv",
        "results.json",
        "runs.csv",
    ]


def test_the_table_has_what_the_design_lists(results: Results) -> None:
    found = {row.key: row for row in rows(results)}
    for key in (
        *("bits_per_byte", "train_loss", "effect", "interval", "p_holm", "verdict", "n_layers", "d_model", "n_heads"),
        *("aspect_ratio", "d_ff", "n_experts", "parameters_total", "parameters_embedding", "parameters_experts_active"),
        *("lr", "flops_per_token", "tokens", "train_tokens_per_second", "prefill_tokens_per_second"),
        *("decode_tokens_per_second", "peak_memory_bytes", "weight_bytes_float32", "weight_bytes_as_configured"),
        *("kv_cache_bytes_1024", "kv_cache_bytes_8192", "kv_cache_bytes_32768", "kv_cache_bytes_131072"),
    ):
        assert key in found, key
    assert found["effect"].cells[0] == ""
    assert found["effect"].cells[1].startswith(f"{words.MINUS}0.02")
    assert found["mismatch_flops_per_token"].cells[1] == "+6.25 %"
    assert found["bits_per_byte"].cells[1].endswith("(5)")


def test_csv_for_other_programs(page: str, folder: Path, results: Results) -> None:
    arms = list(csv.DictReader((folder / "results.csv").read_text().splitlines()))
    assert [arm["arm"] for arm in arms] == ["balanced", "deep", "wide", "wide-experts"]
    deep = results.comparison.differences["deep"]
    assert float(arms[1]["effect"]) == deep.effect
    assert deep.interval is not None
    assert float(arms[1]["effect_high"]) == deep.interval.high
    assert arms[0]["effect"] == ""
    runs = list(csv.DictReader((folder / "runs.csv").read_text().splitlines()))
    assert len(runs) == sum(len(arm.runs) + len(arm.scouts) for arm in results.arms)
    assert {run["purpose"] for run in runs} == {"scout", "verdict"}
    assert json.loads((folder / "results.json").read_text())["experiment"]["name"] == "little"


HOSTILE = '<script>alert("&")<script>'
STATES = {
    "nothing has run": ([FakeArm("a", 1.8, states={0: "planned"}), FakeArm("b", 1.8, states={0: "planned"})], (0,)),
    "one arm, one seed": ([FakeArm("alone", 1.8)], (0,)),
    "all failed": ([FakeArm("a", 1.8, states={0: "diverged", 1: "failed"}), FakeArm("b", 1, problem="none")], (0, 1)),
    "hostile names": ([FakeArm(HOSTILE, 1.8), FakeArm("ärm 的 " + "x" * 80, 1.7)], (0,)),
    "many arms": ([FakeArm(f"arm {i}", 1.8 + i / 100, n_layers=2 + i) for i in range(11)], (0, 1)),
}


@pytest.mark.parametrize("state", STATES)
def test_any_state_of_an_experiment_has_a_report(tmp_path: Path, state: str) -> None:
    arms, seeds = STATES[state]
    folder = write_experiment(tmp_path, arms, seeds=seeds, policy="fixed")
    text = write(collect(folder), folder).html.read_text(encoding="utf-8")
    assert "<script" not in text
    assert ">nan<" not in text
    assert ">None<" not in text
    outline = Outline()
    outline.feed(text)
    assert outline.open == []
    if state == "all failed":
        assert "b has no verdict runs: none" in text


def test_without_matplotlib_there_are_tables(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blockzoo.experiments.report.can_draw", lambda: False)
    written = write(collect(folder), tmp_path)
    assert written.missing == NO_PLOTS
    text = written.html.read_text()
    assert "<svg" not in text
    assert "blockzoo[report]" in text
    assert "All arms" in text


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blockzoo.experiments.report.can_draw", lambda: False)
    folder = write_experiment(tmp_path)
    assert main(["report", str(folder)]) == 0
    shown, said = capsys.readouterr()
    assert said == NO_PLOTS + "\n"
    assert f"deep ({words.MINUS}0.0218) is better than balanced" in shown
    assert f"report: {folder / 'report.html'}" in shown
    assert main(["report", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["comparison"]["baseline"] == "balanced"
    assert main(["report", str(tmp_path)]) == 2
    assert "no experiment is recorded there" in capsys.readouterr().err


def test_the_verb_cannot_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blockzoo.experiments.report.can_draw", lambda: False)
    folder = write_experiment(tmp_path)
    (folder / "report.html").mkdir()
    assert main(["report", str(folder)]) == 2
    assert "report.html" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (1.23456, Interval(-0.01, 0.01), "1.235"),
        (-0.5, Interval(0, 20), f"{words.MINUS}0"),
        (1.23456, None, "1.235"),
        (0.000123456, None, "0.0001235"),
        (1.0, Interval(0.5, 0.5), "1"),
    ],
)
def test_numbers_have_the_digits_their_error_leaves(value: float, error: Interval | None, text: str) -> None:
    assert words.number(value, error) == text


def test_a_difference_far_below_its_error_keeps_its_sign() -> None:
    assert words.signed(-0.003, Interval(-0.11, 0.104)) == f"{words.MINUS}0.003"
    assert words.signed(0.0, Interval(-0.1, 0.1)) == "+0.00"


def test_short_numbers() -> None:
    assert [words.short(x) for x in (0.5, 999, 4.1e6, 2.7e13, 3e18)] == ["0.5", "999", "4.1 M", "27 T", "3e+18"]
