"""A run among the published ones: its ring stands where its figure is, and a run of a published figure stands on the curve."""

import re

import pyarrow as pa
import pytest

from wholegrain.evaluation.result import Figure, TaskResult
from wholegrain.report.entry import Entry
from wholegrain.report.published import Published, PublishedCurve, PublishedFigure, among_published, load_published

FIGURE = PublishedFigure(
    "relation", "composition", 1 / 6,
    {"clip": PublishedCurve("group_score", [[0.2, 0.1, 0.3], [0.4, 0.3, 0.5]]), "sparc": PublishedCurve("own", [[0.6, 0.5, 0.7], [0.8, 0.7, 0.9]])},
)  # fmt: skip
PUBLISHED = Published("d", [0, 1], [100, 200], [FIGURE])


def entry(name, **values):
    figures = tuple(Figure(figure, value, 0.0, 1.0, 10) for figure, value in values.items())
    return Entry(name, None, None, [TaskResult("composition", "", figures, pa.table({"item": ["a"]}))])


def places(svg, of):
    return [tuple(map(float, found)) for found in re.findall(rf'<circle class="{of}" cx="([\d.]+)" cy="([\d.]+)"', svg)]


@pytest.mark.parametrize(("pairs", "value", "point"), [(100, 0.2, 0), (200, 0.4, 1)])
def test_a_run_with_a_published_figure_stands_on_its_curve(pairs, value, point):
    (chart,) = among_published(PUBLISHED, {"clip": entry("CLIP", group_score=value)}, pairs).charts
    assert places(chart, "r0") == [places(chart, "d0")[point]]
    assert "SPARC" not in chart, "only what was run here"


def test_a_better_run_stands_above_and_each_method_is_read_by_its_own_figure():
    entries = {"clip": entry("CLIP", group_score=0.95, own=0.1), "sparc": entry("SPARC", group_score=0.1, own=0.8)}
    (chart,) = among_published(PUBLISHED, entries, 200).charts
    assert places(chart, "r0")[0][1] < places(chart, "d0")[1][1]
    assert places(chart, "r1") == [places(chart, "d1")[1]]


def test_without_the_figure_there_is_a_curve_and_no_ring_and_other_methods_have_none():
    (chart,) = among_published(PUBLISHED, {"clip": entry("CLIP")}, 200).charts
    assert places(chart, "d0")
    assert not places(chart, "r0")
    assert not among_published(PUBLISHED, {"mine": entry("mine", group_score=0.5)}, 200).charts


def test_what_ships_has_every_method_of_the_demo():
    shipped = load_published()
    for figure in shipped.figures:
        assert {"clip", "ce_clip", "wholegrain"} <= set(figure.curves)
        assert all(len(curve.points) == len(shipped.pairs) for curve in figure.curves.values())
        assert all(low <= value <= high for curve in figure.curves.values() for value, low, high in curve.points)
