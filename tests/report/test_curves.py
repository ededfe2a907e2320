"""Curves from known results: what is in the tables, what is drawn, what is found."""

import csv
import io
import re

import numpy as np
import pytest
from made_curves import BUDGETS, curve, curves, hits

from wholegrain.errors import UserError
from wholegrain.report.curves import Curve, Curves
from wholegrain.report.curves_page import write_curves_page
from wholegrain.report.curves_text import curves_csv, curves_markdown, levels_csv
from wholegrain.report.figures import Line, line_chart
from wholegrain.report.standings import Standing


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_the_level_is_reached_where_a_line_in_the_logarithm_crosses_it():
    made = curves(curve("fast", (0.5, 0.7, 0.8), (3.0, 6.0, 12.0)))
    (column,) = made.columns
    needed = made.needed["fast", column]
    assert needed.level == pytest.approx(0.6)
    assert needed.pairs.value == pytest.approx(80 * 2**0.5)  # half way between the first two budgets
    assert needed.pairs_share.value == pytest.approx(2**0.5 / 4)
    assert needed.seconds is not None
    assert needed.seconds_share is not None
    assert needed.seconds.value == pytest.approx(3 * 2**0.5)
    assert needed.seconds_share.value == pytest.approx(3 * 2**0.5 / 4)
    assert needed.pairs.low < needed.pairs.value < needed.pairs.high
    assert made.needed["clip", column].pairs_share.value == pytest.approx(1)
    assert made.sooner == ("fast", column)
    assert "fast reaches the last value of clip in “Zero-shot” (60.0%) with 0.35x" in made.finding


@pytest.mark.parametrize(
    ("shares", "start", "value", "said"),
    [
        ((0.1, 0.2, 0.3), 0.1, np.inf, "not reached"),
        ((0.7, 0.7, 0.7), 0.1, 80.0, "at most 80"),
        ((0.7, 0.8, 0.9), 0.65, 0.0, "none"),
    ],
)
def test_what_is_not_reached_or_needs_no_training_is_said_and_no_finding(shares, start, value, said, tmp_path):
    made = curves(curve("other", shares), start=start)
    (column,) = made.columns
    assert made.needed["other", column].pairs.value == pytest.approx(value)
    line = next(line for line in curves_markdown(made).splitlines() if line.startswith("| other"))
    assert re.search(rf"\| {said}(<br>| \|)", line)
    if value != 80.0:
        assert made.sooner is None
        assert "no figure does another method reach" in made.finding


def test_a_difference_that_may_be_luck_is_no_finding():
    made = curves(curve("twin", (0.2, 0.41, 0.6)))
    assert made.sooner is None
    assert "goes from 20.0% at 10 steps to 60.0% at 40 steps" in made.finding


def test_the_tables_hold_every_figure_of_every_method_and_budget(tmp_path):
    made = curves(curve("fast", (0.5, 0.7, 0.8)))
    found = rows(curves_csv(made))
    assert len(found) == 1 + 2 * len(BUDGETS)
    assert [(row["method"], row["budget"], row["pairs"]) for row in found[:3]] == [("start", "0", "0"), ("clip", "10", "80"), ("fast", "10", "80")]
    row = found[-1]
    assert [float(row[name]) for name in ("value", "chance", "difference", "seconds")] == pytest.approx([0.8, 0.05, 0.2, 4.0])
    assert float(row["low"]) < 0.8 < float(row["high"])
    assert float(row["difference_low"]) < 0.2 < float(row["difference_high"])
    levels = rows(levels_csv(made))
    assert [(row["method"], row["pairs"]) for row in levels] == [("clip", "320"), ("fast", f"{80 * 2**0.5:.6g}")]
    page = write_curves_page(made, tmp_path / "curves.html").read_text(encoding="utf-8")
    for text in ("80.0", "+20.0", made.finding, "40 steps", "chance"):
        assert text in page
    assert page.count("<table") == page.count("</table>") == 3
    assert "src=" not in page


def test_every_figure_is_drawn_over_pairs_and_over_seconds_with_bands(tmp_path):
    made = curves(curve("fast", (0.5, 0.7, 0.8)))
    page = write_curves_page(made, tmp_path / "curves.html").read_text(encoding="utf-8")
    assert page.count('<svg class="chart"') == 2
    assert page.count('<polygon class="b') == 4
    assert page.count('<circle class="d') == 2 * 2 * len(BUDGETS)
    assert "pairs seen" in page
    assert "seconds of training" in page
    unknown = curves(curve("fast", (0.5, 0.7, 0.8), (np.nan,) * 3), reference=(0.2, 0.4, 0.6))
    assert unknown.needed["fast", unknown.columns[0]].seconds is None
    assert write_curves_page(unknown, tmp_path / "unknown.html").exists()


def test_a_logarithmic_axis_puts_equal_ratios_at_equal_distances():
    line = Line("a", np.array([10.0, 20.0, 40.0]), np.array([1.0, 2.0, 3.0]), (np.zeros(3), np.array([2.0, 3.0, 9.0])))
    drawn = line_chart("t", [line], log_x=True, rules={"chance": -4.0})
    points = re.search(r'<polyline class="l0" points="([^"]+)"', drawn)
    assert points is not None
    x = [float(pair.split(",")[0]) for pair in points[1].split()]
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.11)
    assert "chance" in drawn
    heights = [float(y) for y in re.findall(r'y1="([\d.]+)"', drawn)]
    assert 0 <= min(heights) < max(heights) <= 220, "bands and level lines are inside"


def test_one_budget_is_a_point(tmp_path):
    points = [Curve(name, curve(name, shares).points[:1]) for name, shares in (("clip", (0.2, 0.3, 0.4)), ("other", (0.6, 0.7, 0.8)))]
    made = Curves(points, "clip", Standing("start", [hits(0.1)]))
    assert made.needed["other", made.columns[0]].pairs.value == pytest.approx(80)
    assert write_curves_page(made, tmp_path / "curves.html").exists()


def test_other_budgets_or_names_are_refused():
    other = curve("other", (0.5, 0.7, 0.8))
    with pytest.raises(UserError, match="same budgets for every method"):
        curves(Curve("other", other.points[:2]))
    with pytest.raises(UserError, match="one row for each name"):
        curves(curve("clip", (0.5, 0.7, 0.8)))
