"""Intervals, paired differences, and results on disk and on paper."""

import io
import json
import time

import numpy as np
import pyarrow as pa
import pytest
from made_results import make_result
from rich.console import Console

from wholegrain.errors import UserError
from wholegrain.evaluation.result import Figure, TaskResult, load_results, save_results
from wholegrain.evaluation.show import print_results
from wholegrain.evaluation.statistics.compare import compare
from wholegrain.evaluation.statistics.intervals import (
    bootstrap_mean,
    bootstrap_statistic,
    paired_difference,
    resample_counts,
    weighted_median,
    wilson,
)
from wholegrain.evaluation.statistics.rows import Rows, figures, join


def test_resamples_draw_as_many_clusters_as_there_are():
    counts = np.concatenate(list(resample_counts(7, 50, cells=30)))
    assert counts.shape == (50, 7)
    assert (counts.sum(1) == 7).all()
    assert counts.std() > 0.5


def test_intervals_cover_clustered_data_and_too_narrow_ones_would_not():
    rng, covered, naive = np.random.default_rng(0), 0, 0
    trials = 150
    for trial in range(trials):
        share = rng.beta(2, 2, size=60)  # each image has its own hit rate, five captions each; the true mean is 0.5
        values = (rng.random((60, 5)) < share[:, None]).astype(float).ravel()
        low, high = bootstrap_mean(values, np.repeat(np.arange(60), 5), resamples=400, seed=trial)
        covered += low <= 0.5 <= high
        low, high = bootstrap_mean(values, np.arange(300), resamples=400, seed=trial)
        naive += low <= 0.5 <= high
    assert 0.90 <= covered / trials <= 0.99
    assert naive / trials < 0.88


def test_the_bootstrap_is_seeded_and_fast():
    rng = np.random.default_rng(0)
    values, clusters = rng.random((10_000, 3)), np.repeat(np.arange(2500), 4)
    started = time.perf_counter()
    first = bootstrap_mean(values, clusters, seed=5)
    assert time.perf_counter() - started < 5
    assert (first[0] == bootstrap_mean(values, clusters, seed=5)[0]).all()
    assert (first[0] != bootstrap_mean(values, clusters, seed=6)[0]).any()
    error = values[:, 0].std() / 100
    assert values[:, 0].mean() - first[0][0] == pytest.approx(1.96 * error, rel=0.2)


def test_a_perfect_score_is_not_certain():
    low, high = bootstrap_mean(np.ones(12), np.arange(12))
    assert (float(low), float(high)) == pytest.approx(wilson(1.0, 12))
    assert low < 0.8


def test_a_difference_that_is_always_zero_is_no_share_of_zero():
    low, high = bootstrap_mean(np.zeros(12), np.arange(12), shares=False)
    assert low == high == 0
    low, high = bootstrap_mean(np.eye(12)[0], np.arange(12))
    assert 0 <= low < high < 0.5


def test_median_interval():
    values = np.arange(101.0)
    statistic = weighted_median(values)
    assert statistic(np.ones((1, 101)))[0] == 50
    assert statistic(np.array([[0.0] * 100 + [3.0]]))[0] == 100
    low, high = bootstrap_statistic(statistic, np.arange(101))
    assert 30 < low < 50 < high < 70


def test_paired_difference_sees_what_unpaired_intervals_cannot():
    rng = np.random.default_rng(1)
    a = (rng.random(400) < 0.5).astype(float)
    b = a.copy()
    b[np.flatnonzero(a == 0)[:20]] = 1  # b repairs twenty items and breaks none
    found = paired_difference(b, a, np.arange(400))
    assert found.value == pytest.approx(0.05)
    assert found.low > 0
    assert found.p < 0.001
    assert paired_difference(a, b, np.arange(400)).value == -found.value


def test_p_values_are_uniform_without_a_difference_and_respect_clusters():
    rng, small = np.random.default_rng(2), 0
    for trial in range(200):
        gap = np.repeat(rng.normal(size=20), 10)  # ten copies of twenty independent differences
        small += paired_difference(gap, np.zeros(200), np.repeat(np.arange(20), 10), flips=199, resamples=10, seed=trial).p < 0.05
    assert small / 200 < 0.10
    assert paired_difference(np.ones(5), np.ones(5), np.arange(5)).p == 1


def test_round_trip(tmp_path):
    results = [make_result(), make_result("retrieval")]
    save_results(results, tmp_path / "out", {"dataset": "photos", "model": "small", "split": "test"})
    loaded, meta = load_results(tmp_path / "out")
    assert loaded == results
    assert meta["model"] == "small"
    document = json.loads((tmp_path / "out" / "results.json").read_text())["results"][0]
    assert document["metrics"]["accuracy"] == 0.5
    assert document["dataset"] == "photos"
    assert document["task"] == "composition"
    assert sorted(p.name for p in (tmp_path / "out").rglob("*")) == [
        "clip_benchmark",
        "composition.json",
        "composition.parquet",
        "items",
        "results.json",
        "retrieval.json",
        "retrieval.parquet",
    ]


def test_what_is_not_finite_becomes_null(tmp_path):
    figure = Figure("x", float("nan"), float("nan"), float("nan"), 0)
    save_results([TaskResult("t", "p", (figure,), pa.table({"item": ["a"]}))], tmp_path)
    assert "NaN" not in (tmp_path / "results.json").read_text()
    assert np.isnan(load_results(tmp_path)[0][0].figures[0].value)


def test_missing_and_damaged_results_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no results\.json"):
        load_results(tmp_path)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(UserError, match="JSON"):
        load_results(tmp_path)
    save_results([make_result()], tmp_path)
    (tmp_path / "items" / "composition.parquet").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"composition\.parquet"):
        load_results(tmp_path)


def test_the_table_shows_protocol_interval_chance_and_control():
    out = io.StringIO()
    print_results([make_result()], Console(file=out, width=120))
    text = out.getvalue()
    for part in ("a protocol in one sentence.", "kind0", "chance", "50.0%", "shuffled", "40.0%", "95% interval", "10.5"):
        assert part in text


def test_figures_are_means_of_items_per_group():
    result = make_result()
    rows = result.items.to_pylist()
    for kind in ("kind0", "kind1"):
        assert result.metrics[f"{kind}/accuracy"] == np.mean([r["accuracy"] for r in rows if r["group"] == kind])
    joined = join(
        [Rows(["a"], [""], ["k"], {"x": np.array([1.0])}), Rows(["b"], ["g"], ["k"], {"y": np.array([0.0])}, {"y": 0.5})]
    )
    names = {f.name: f for f in figures(joined)}
    assert names["x"].count == 1
    assert names["g/y"].chance == 0.5
    assert "g/x" not in names


def test_comparison_joins_items_by_name():
    mixed = np.random.default_rng(0).permutation(20)
    a, b = make_result(shift=1), make_result(order=mixed)
    found = compare(a, b, "kind0/accuracy")
    assert found.value == -1
    assert found.count == 10
    assert compare(a, a, "accuracy").value == 0
    with pytest.raises(UserError, match="same items"):
        compare(a, TaskResult(a.task, a.protocol, a.figures, a.items.slice(0, 10)), "accuracy")
