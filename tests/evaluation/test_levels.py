"""When a curve reaches a level: closed forms, and what cannot be known."""

import numpy as np
import pytest

from wholegrain.evaluation.statistics.intervals import bootstrap_over_seeds, drawn_means, drawn_seeds
from wholegrain.evaluation.statistics.levels import NEVER, UNTRAINED, first_reached, span, spent_at


def test_a_figure_that_is_linear_in_the_logarithm_reaches_each_level_where_the_formula_says():
    spent = np.array([100.0, 200.0, 800.0, 1600.0])
    values = 0.1 * np.log2(spent / 100)  # 0, 0.1, 0.3, 0.4
    levels = np.array([0.05, 0.1, 0.25, 0.4])
    place = first_reached(np.tile(values, (4, 1)), levels)
    assert spent_at(place, np.tile(spent, (4, 1))) == pytest.approx(100 * 2 ** (levels / 0.1))


def test_less_is_better_is_the_same_upside_down():
    values, levels = np.array([[0.9, 0.5, 0.2]]), np.array([0.4])
    assert first_reached(values, levels, better=-1).tolist() == first_reached(-values, -levels).tolist()
    assert first_reached(values, levels).tolist() == [0.0]


def test_the_first_of_several_crossings_counts():
    assert first_reached(np.array([[0.0, 0.6, 0.2, 0.8]]), np.array([0.3])).tolist() == [0.5]


@pytest.mark.parametrize(
    ("values", "start", "place", "amount"),
    [
        ([0.1, 0.2], 0.0, NEVER, np.inf),
        ([0.6, 0.7], 0.0, 0.0, 10.0),  # at most the smallest budget
        ([0.1, 0.7], 0.5, UNTRAINED, 0.0),
        ([0.1, np.nan], 0.0, NEVER, np.inf),
    ],
)
def test_what_lies_outside_of_the_budgets_is_not_guessed(values, start, place, amount):
    found = first_reached(np.array([values]), np.array([0.5]), np.array([start]))
    assert found.tolist() == [place]
    assert spent_at(found, np.array([[10.0, 40.0]])) == pytest.approx(amount)


def test_one_budget_is_reached_or_not():
    place = first_reached(np.array([[0.4], [0.6]]), np.array([0.5, 0.5]))
    assert spent_at(place, np.array([[7.0], [7.0]])) == pytest.approx([np.inf, 7.0])


def test_an_interval_whose_end_is_not_reached_says_so_and_averages_nothing():
    found = span(12.0, np.array([10.0] * 50 + [20.0] * 45 + [np.inf] * 5))
    assert (found.low, found.value, found.high) == (10.0, 12.0, np.inf)
    assert span(np.inf, np.full(100, np.inf)).low == np.inf


def test_draws_are_those_of_the_interval_and_the_same_for_every_curve():
    values, clusters = np.random.default_rng(0).random((3, 40)), np.arange(40) // 2
    drawn = drawn_means(values, clusters)
    assert tuple(np.percentile(drawn, [2.5, 97.5])) == pytest.approx(bootstrap_over_seeds(values, clusters))
    assert drawn_means(values + 0.25, clusters) == pytest.approx(drawn + 0.25)
    by_seed = np.repeat(np.array([[1.0], [2.0], [4.0]]), 40, axis=1)  # only the seeds differ
    assert drawn_means(by_seed, clusters) == pytest.approx(drawn_seeds(3) @ [1.0, 2.0, 4.0])
