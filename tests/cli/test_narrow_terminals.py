"""Printed tables at 80 columns: no line is longer, no word or number is broken or cut."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from wholegrain.evaluation.result import TaskResult
from wholegrain.evaluation.show import in_words, print_results
from wholegrain.evaluation.statistics.comparisons import compare_all, print_comparison
from wholegrain.evaluation.statistics.rows import Rows, figures, table
from wholegrain.report.audit_page import scorecard, scorecard_table
from wholegrain.report.standings import Standing, Standings

METRICS = {
    "retrieval": ("image_retrieval_recall@1", "text_retrieval_recall@1", "image_retrieval_recall@1_expected"),
    "composition": ("group_score", "picks_caption", "blind_shorter"),
    "negatives": ("accuracy", "blind_unigram"),
    "linear_probe": ("acc1", "majority", "mean_average_precision_11"),
}
GROUPS = {"composition": ("swap_attribute", "counting-small-quant"), "negatives": ("attribute_colour", "relation_spatial")}


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def results(seed: int, count: int = 12_000) -> list[TaskResult]:
    rng, made = np.random.default_rng(seed), []
    for task, metrics in METRICS.items():
        items = [f"i{n}" for n in range(count)]
        groups = [GROUPS.get(task, ("",))[n % 2 if task in GROUPS else 0] for n in range(len(items))]
        values = {name: rng.integers(0, 2, len(items)).astype(float) for name in metrics}
        rows = Rows(items, groups, [i[:4] for i in items], values, dict.fromkeys(metrics, 0.5), values)
        notes = {"majority": "the most frequent class of all"}
        made.append(TaskResult(task, "A protocol in one sentence.", tuple(figures(rows, notes=notes)), table(rows)))
    return made


def questions() -> TaskResult:
    values = np.ones(1000)
    groups = [GROUPS["negatives"][n % 2] for n in range(1000)]
    items = [f"i{n}" for n in range(1000)]
    rows = Rows(items, groups, items, {"accuracy_expected": values, "blind_shorter": values}, {"accuracy_expected": 0.5})
    return TaskResult("negatives", "A protocol.", tuple(figures(rows)), table(rows))


def printed(show) -> str:
    out = io.StringIO()
    show(Console(file=out))
    return out.getvalue()


def check(text: str, names) -> None:
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    there = set(text.split())
    for name in names:
        missing = set(name.split()) - there
        assert not missing, f"{missing} of {name!r} in\n{text}"


def names_of(found) -> set[str]:
    return {in_words(part) for r in found for f in r.figures for part in f.name.split("/") if not f.name.endswith("_expected")}


def test_results():
    found = results(0)
    check(printed(lambda console: print_results(found, console)), names_of(found) | {"12,000", "of all"})


def test_comparisons():
    models = {"clip-0": results(0), "ViT-B-32-quickgelu:metaclip_fullcc/photos-test": results(1), "ce_clip-0": results(2)}
    rows, _ = compare_all(models, groups=True)
    names = {in_words(row.figure.rpartition("/")[2]) for row in rows} | {in_words(row.task) for row in rows}
    text = printed(lambda console: print_comparison(rows, "clip-0", console))
    check("\n".join(line for line in text.splitlines() if not line.startswith("B: ")), names)
    assert text.count("A: clip-0") == 2
    assert "B: ViT-B-32-quickgelu:metaclip_fullcc/photos-test" in text


def test_standings_put_as_many_methods_side_by_side_as_fit():
    methods = ["start", "clip", "negclip", "text_conditioned", "multi_positive", "holistic_mlp", "sparc_images", "degla"]
    rows = [Standing(name, [results(n, 600)], [0.1 + n, 0.2 + n]) for n, name in enumerate(methods)]
    standings = Standings(rows, "clip")
    text = printed(lambda console: console.print(standings.as_table(console.width)))
    check(text, [*methods, *(column.title for column in standings.columns)])
    assert 1 < text.count("its quartiles") < len(methods)
    assert text.count("counting-small-quant") == text.count("its quartiles")


def test_the_scorecard_of_an_audit():
    lines = scorecard([questions()])
    assert [line.kind for line in lines] == list(GROUPS["negatives"])
    check(printed(lambda console: console.print(scorecard_table(lines))), [part for line in lines for part in (line.title, line.said)])
