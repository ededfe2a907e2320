"""Calibration: errors against loops in float64, closed forms, intervals; choices of every kind of result; the page's diagram."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from eval_fakes import FakeDataset, FakeModel, record, vector
from PIL import Image

from wholegrain.data.record import Negative, Twin, caption_id
from wholegrain.evaluation.benchmarks.run import parse_benchmark, run_benchmarks
from wholegrain.evaluation.scores.similarity import logit_scale
from wholegrain.evaluation.statistics.calibration import bin_of, calibration_error, equal_mass, equal_width, reliability
from wholegrain.evaluation.suite import EvaluationOptions, evaluate
from wholegrain.evaluation.tasks.calibration import calibrated, confidence
from wholegrain.report.entry import Entry
from wholegrain.report.reliability import bins_of, reliability_charts

QUIET = EvaluationOptions(progress=False)


def by_loops(sure, right, bounds):
    """Guo's equation, bin by bin."""
    total = 0.0
    for low, high in pairwise(bounds):
        here = [n for n in range(len(sure)) if (low < sure[n] or low == bounds[0]) and sure[n] <= high]
        if here:
            total += len(here) / len(sure) * abs(sum(right[n] for n in here) / len(here) - sum(sure[n] for n in here) / len(here))
    return total


@pytest.mark.parametrize("bounds_of", [lambda sure: equal_width(), lambda sure: equal_mass(sure), lambda sure: equal_mass(sure, 4)])
def test_errors_are_those_of_loops_and_of_drawn_items(bounds_of):
    rng = np.random.default_rng(0)
    for size in (1, 5, 60, 333):
        sure, right = rng.random(size), rng.integers(0, 2, size).astype(float)
        sure[: size // 3] = 0.5  # equal confidences
        bounds = bounds_of(sure)
        assert calibration_error(sure, right, bounds)[0] == pytest.approx(by_loops(sure, right, bounds), abs=1e-12)
        weights = rng.integers(0, 3, (4, size)).astype(float)
        weights[:, 0] = 1
        for row, found in zip(weights, calibration_error(sure, right, bounds, weights), strict=True):
            drawn = np.repeat(np.arange(size), row.astype(int))
            assert found == pytest.approx(by_loops(sure[drawn], right[drawn], bounds), abs=1e-12)


def test_closed_forms():
    # all equally sure: one bin, the gap of the means; always right and sure; always wrong and sure
    assert calibration_error(np.full(10, 0.7), np.array([1.0] * 4 + [0.0] * 6), equal_width())[0] == pytest.approx(0.3)
    assert calibration_error(np.ones(5), np.ones(5), equal_width())[0] == 0.0
    assert calibration_error(np.ones(5), np.zeros(5), equal_width())[0] == 1.0
    rng = np.random.default_rng(1)
    sure = rng.random(200_000)
    right = (rng.random(200_000) < sure).astype(float)  # right as often as it says
    assert calibration_error(sure, right, equal_width())[0] < 0.01
    assert calibration_error(sure, right, equal_mass(sure))[0] < 0.01
    assert calibration_error(sure**0.5, right, equal_width())[0] == pytest.approx(np.mean(sure**0.5) - 0.5, abs=0.01)


def test_bins_hold_their_upper_bound_and_equal_numbers():
    assert bin_of(np.array([0.0, 1 / 15, 1 / 15 + 1e-9, 1.0]), equal_width()).tolist() == [0, 0, 1, 14]
    sure = np.random.default_rng(2).random(150)
    assert np.bincount(bin_of(sure, equal_mass(sure))).tolist() == [10] * 15
    same = np.array([0.5] * 20 + [0.9] * 10)
    assert np.bincount(bin_of(same, equal_mass(same))).tolist() == [20, 10]
    found = reliability(sure, np.ones(150), equal_mass(sure))
    assert sum(b.count for b in found) == 150
    assert all(b.low < b.confidence <= b.high and b.accuracy_low < 1.0 == b.accuracy for b in found)


def test_confidence_is_the_greatest_share_of_a_softmax():
    scores = np.array([[0.3, 0.1, 0.2], [0.5, np.nan, 0.5]])
    wanted = math.exp(3.0) / (math.exp(3.0) + math.exp(1.0) + math.exp(2.0))
    assert confidence(scores, 10.0) == pytest.approx([wanted, 0.5])


def test_the_models_own_temperature_counts():
    model = FakeModel(vector, vector)
    assert logit_scale(model) == 100.0
    model.scale = torch.tensor(20.0)
    assert logit_scale(model) == 20.0


def near(value):
    return torch.tensor([value, (1 - value * value) ** 0.5])


def test_pairs_of_a_benchmark(tmp_path):
    for n in range(4):
        Image.fromarray(np.full((8, 8, 3), n, np.uint8)).save(tmp_path / f"{n}.png")
    rows = [{"image": f"{n}.png", "true": f"true {n}", "false": f"false {n}", "kind": "ab"[n % 2]} for n in range(4)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    gaps = {0: 0.01, 1: 0.02, 2: -0.01, 3: 0.0}  # right, right, wrong, tied
    values = {f"true {n}": 0.5 + gap / 2 for n, gap in gaps.items()} | {f"false {n}": 0.5 - gap / 2 for n, gap in gaps.items()}
    model = FakeModel(lambda key: near(1.0), lambda text: near(values[text]))
    result = run_benchmarks(model, [parse_benchmark(f"pairs={tmp_path / 't.jsonl'}")], progress=False)
    found = calibrated(result, 100.0)[0]
    sure = [1 / (1 + math.exp(-100 * abs(gap))) for gap in gaps.values()]
    right = [1.0, 1.0, 0.0, 0.5]
    assert found.task == "t_calibration"
    assert found.items["confidence"].to_pylist() == pytest.approx(sure, abs=1e-4)
    assert found.items["accuracy"].to_pylist() == right
    assert found.figure("accuracy").chance == 0.5
    assert found.metrics["ece"] == pytest.approx(by_loops(sure, right, equal_width()), abs=1e-4)
    assert found.figure("ece").low <= found.metrics["ece"] <= found.figure("ece").high
    assert found.metrics["overconfidence"] == pytest.approx(np.mean(sure) - np.mean(right), abs=1e-4)
    assert found.metrics["b/ece"] == pytest.approx(by_loops([sure[1], sure[3]], [right[1], right[3]], equal_width()), abs=1e-4)
    constant = FakeModel(lambda key: near(1.0), lambda text: near(0.5))
    result = run_benchmarks(constant, [parse_benchmark(f"pairs={tmp_path / 't.jsonl'}")], progress=False)
    found = calibrated(result, 100.0)[0]
    assert (found.metrics["ece"], found.metrics["accuracy"], found.metrics["confidence"]) == pytest.approx((0.0, 0.5, 0.5))


@pytest.fixture(scope="module")
def results():
    records = [record(n, [f"a {n}"], label=("cat", "dog")[n % 2]) for n in range(8)]
    negatives = {(r.key, r.captions[0].id): (Negative(r.key, caption_id(r.captions[0].text), "swap", f"not {r.captions[0].text}"),) for r in records}
    twins = tuple(Twin(f"t{n}", "swap", (f"key{n:05d}", f"key{n + 4:05d}"), (f"a {n}", f"a {n + 4}")) for n in range(4))
    data = FakeDataset(records, negatives=negatives, twins=twins)
    model = FakeModel(vector, vector)
    return model, evaluate(model, data, QUIET, tasks="zero_shot,negatives,composition,retrieval")


def test_classes_negatives_and_twins_of_a_data_set(results):
    _, found = results
    made = {result.task: result for result in calibrated(found, 10.0)}
    assert list(made) == ["zero_shot_calibration", "negatives_calibration", "composition_calibration"]
    by_task = {result.task: result for result in found}
    assert made["composition_calibration"].figure("accuracy").count == 4 * 4
    twins = by_task["composition"].metrics
    assert made["composition_calibration"].metrics["accuracy"] == pytest.approx((twins["picks_caption"] + twins["picks_picture"]) / 2)
    assert made["negatives_calibration"].metrics["accuracy"] == pytest.approx(by_task["negatives"].metrics["accuracy_expected"])
    assert made["zero_shot_calibration"].metrics["accuracy"] == pytest.approx(by_task["zero_shot"].metrics["acc1_expected"])
    assert made["zero_shot_calibration"].figure("accuracy").chance == 0.5
    # classes keep the confidence at the model's own temperature, 100 here
    scores = np.array([[float(vector(f"key{n:05d}") @ vector(f"a photo of a {name}.")) for name in ("cat", "dog")] for n in range(8)])
    assert made["zero_shot_calibration"].items["confidence"].to_pylist() == pytest.approx(confidence(scores, 100.0), abs=1e-4)


def test_the_diagram_shows_the_bins_of_each_entry(results):
    model, found = results
    made = calibrated(found, 10.0)
    charts = reliability_charts([Entry("one", None, model, [*found, *made]), Entry("two", None, model, [*found, *made])])
    assert len(charts) == 3
    assert all(chart.startswith("<figure>") and ">one<" in chart and ">two<" in chart and "calibrated" in chart for chart in charts)
    assert "confidence, %" in charts[0]
    assert reliability_charts([Entry("one", None, model, found)]) == []
    bins = bins_of(made[0])
    assert sum(b.count for b in bins) == 8
    assert [b.confidence for b in bins] == sorted(b.confidence for b in bins)


MODEL = """
import numpy as np, torch
class Tiny:
    def preprocess(self, picture):
        return torch.from_numpy(np.array(picture.resize((2, 2)))).permute(2, 0, 1).float() + 1
    def encode_images(self, pixels):
        return pixels.flatten(1)
    def encode_texts(self, texts):
        return torch.tensor([[float(len(text)), *[1.0] * 11] for text in texts])
def tiny():
    return Tiny()
"""


def test_the_command_adds_it_when_asked(tmp_path):
    from wholegrain.cli.evaluate import EvaluateArguments
    from wholegrain.cli.evaluate import evaluate as command

    (tmp_path / "tiny.py").write_text(MODEL)
    for n in range(3):
        Image.fromarray(np.full((8, 8, 3), 50 * n, np.uint8)).save(tmp_path / f"{n}.png")
    rows = [{"image": f"{n}.png", "true": "a", "false": "a longer one"} for n in range(3)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    common = {"model": f"{tmp_path / 'tiny.py'}:tiny", "benchmark": (f"pairs={tmp_path / 't.jsonl'}",), "device": "cpu"}
    for wanted, tasks in ((False, ["t"]), (True, ["t", "t_calibration"])):
        out = tmp_path / str(wanted)
        command(EvaluateArguments(**common, out=out, calibration=wanted))
        kept = json.loads((out / "results.json").read_text())["results"]
        assert [row["task"] for row in kept] == tasks
    assert {"ece", "ece_adaptive", "confidence", "accuracy"} <= set(kept[1]["metrics"])
