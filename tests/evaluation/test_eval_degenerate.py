"""Models that see nothing, read nothing or guess have the chance level as their expected score, in every family.

Blind to the picture: one vector for all pictures. One caption for all: one vector for all texts. Constant: both. Composition has its own in
test_benchmark_scoring.py and test_eval_composition.py, pointing in test_eval_dense.py.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from eval_fakes import encoded
from hypothesis import given, settings
from hypothesis import strategies as st

from wholegrain.evaluation.dense.segmentation import labels_of
from wholegrain.evaluation.statistics.average_precision import mean_average_precision
from wholegrain.evaluation.tasks.few_shot import few_shot
from wholegrain.evaluation.tasks.linear_probe import LabelledFeatures, ProbeOptions, probe
from wholegrain.evaluation.tasks.retrieval import retrieval
from wholegrain.evaluation.tasks.zero_shot import classified

fast = settings(max_examples=15, deadline=None)
SEED = st.integers(0, 10_000)


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def spread(chance, count):
    return 5 * np.sqrt(max(chance * (1 - chance), 1e-4) / count)


def judged(scores_BC, true_B):
    names = [f"k{n}" for n in range(len(true_B))]
    return classified("t", names, scores_BC, true_B, [f"c{n}" for n in range(scores_BC.shape[1])], "", 0)


# --- classification -----------------------------------------------------------------------------------------------------


@fast
@given(SEED, st.integers(2, 12), st.integers(2, 40))
def test_one_text_for_all_classes_expects_chance(seed, classes, images):
    """Every class is tied, whatever the picture: the constant model, too."""
    true_B = torch.randint(0, classes, (images,), generator=torch.Generator().manual_seed(seed))
    found = judged(drawn(seed, images, 1).expand(images, classes), true_B)
    for k in (1, 5):
        assert found.metrics[f"acc{k}_expected"] == pytest.approx(min(k / classes, 1))
        assert found.figure(f"acc{k}").chance == pytest.approx(min(k / classes, 1))
    assert found.metrics["acc1"] == 0
    assert found.metrics["mean_per_class_recall"] == pytest.approx(1 / classes)
    assert found.metrics["tie_rate"] == 1


@fast
@given(SEED, st.integers(2, 12), st.integers(1, 5))
def test_one_picture_for_all_is_right_in_one_class_of_all(seed, classes, each):
    true_B = torch.arange(classes).repeat(each)
    found = judged(drawn(seed, 1, classes).expand(len(true_B), classes), true_B)
    assert found.metrics["mean_per_class_recall"] == pytest.approx(1 / classes)
    assert found.metrics["acc1"] == pytest.approx(1 / classes)
    assert found.figure("acc1").shuffled == pytest.approx(1 / classes)
    assert found.metrics["acc5"] == pytest.approx(min(5 / classes, 1))


@settings(max_examples=5, deadline=None)
@given(SEED)
def test_random_scores_and_exchanged_pictures_score_chance(seed):
    true_B = torch.arange(6).repeat(100)
    found = judged(drawn(seed, 600, 6), true_B)
    assert abs(found.metrics["acc1"] - 1 / 6) < spread(1 / 6, 600)
    assert abs(found.metrics["mean_per_class_recall"] - 1 / 6) < spread(1 / 6, 600)
    oracle = judged(torch.nn.functional.one_hot(true_B, 6).float() + 0.01 * drawn(seed, 600, 6), true_B)
    assert oracle.metrics["acc1"] == 1
    assert abs(oracle.figure("acc1").shuffled - 1 / 6) < spread(1 / 6, 600)


@fast
@given(SEED, st.integers(2, 5))
def test_probes_of_constant_features_score_the_most_frequent_class(seed, classes):
    rng = np.random.default_rng(seed)
    train, test = (torch.from_numpy(np.concatenate([np.arange(classes), rng.integers(0, classes, 20)])) for _ in range(2))
    train = torch.cat([train, torch.zeros(30, dtype=train.dtype)])  # one class is clearly the most frequent
    parts = {name: LabelledFeatures(torch.ones(len(part), 3), part) for name, part in (("train", train), ("test", test))}
    names, keys = [str(c) for c in range(classes)], [str(n) for n in range(len(test))]
    figure = probe("p", parts, names, keys, options=ProbeOptions(sweep=(1e-2,)), seed=seed).figure("acc1")
    assert figure.value == pytest.approx(figure.chance)
    even = torch.arange(classes).repeat(6)
    same = LabelledFeatures(even[:, None] * 0.0, even)
    shots = few_shot("f", same, same, names, [str(n) for n in range(len(even))], shots=(2,), draws=2)
    assert shots.metrics["2_shot/acc1"] == pytest.approx(shots.figure("2_shot/acc1").chance)


def test_average_precision_of_ties_is_that_of_random_orders():
    rng = np.random.default_rng(0)
    true = (rng.random((60, 4)) < 0.3).astype(float)
    keys = [str(n) for n in range(60)]
    found = [mean_average_precision(np.zeros((60, 4)), np.zeros((60, 4)), true, keys, resamples=2, seed=s) for s in range(30)]
    for n in range(2):
        assert np.mean([f[n].value for f in found]) == pytest.approx(np.mean([f[n].chance for f in found]), abs=0.02)


# --- retrieval ----------------------------------------------------------------------------------------------------------

OWNERS = st.lists(st.integers(1, 4), min_size=2, max_size=12).map(
    lambda counts: [b for b, n in enumerate(counts) for _ in range(n)]
)


@fast
@given(OWNERS, SEED, st.sampled_from(["constant", "one caption", "one picture"]))
def test_blind_models_expect_chance_in_retrieval(owner, seed, kind):
    images = max(owner) + 1
    image, text = drawn(seed, images, 8), drawn(seed + 1, len(owner), 8)
    image = image[:1].expand_as(image) if kind != "one caption" else image
    text = text[:1].expand_as(text) if kind != "one picture" else text
    found = retrieval(encoded(image, text, owner))
    tied = {"constant": ("text", "image"), "one caption": ("text",), "one picture": ("image",)}[kind]
    for direction in tied:
        for k in (1, 5, 10):
            figure = found.figure(f"{direction}_retrieval_recall@{k}_expected")
            assert figure.value == pytest.approx(figure.chance, abs=1e-9)


@fast
@given(SEED)
def test_one_picture_or_one_caption_for_all_finds_one_in_the_other_direction(seed):
    """Blind to its query, a model ranks all candidates alike: as many are found as there are places."""
    n = 20
    one = drawn(seed, 1, 8).expand(n, 8)
    for image, text, direction in ((one, drawn(seed + 1, n, 8), "text"), (drawn(seed + 1, n, 8), one, "image")):
        found = retrieval(encoded(image, text, range(n)))
        for k in (1, 5, 10):
            assert found.metrics[f"{direction}_retrieval_recall@{k}"] == pytest.approx(k / n)


@fast
@given(SEED)
def test_random_features_score_chance_in_retrieval(seed):
    found = retrieval(encoded(drawn(seed, 300, 8), drawn(seed + 1, 300, 8), range(300)), seed=seed)
    for direction in ("text", "image"):
        figure = found.figure(f"{direction}_retrieval_recall@10")
        assert abs(figure.value - figure.chance) < spread(figure.chance, 300)
        assert abs(figure.shuffled - figure.chance) < spread(figure.chance, 300)


# --- dense --------------------------------------------------------------------------------------------------------------


@fast
@given(SEED, st.integers(2, 6))
def test_equal_maps_and_random_maps_label_pixels_by_chance(seed, classes):
    """All classes tied: the first one everywhere, so over all orders of the classes exactly a share of 1 / classes is right."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, classes, (24, 30))
    flat = labels_of(torch.zeros(classes, 6, 6), true.shape, 40.0, None)
    right = [((flat + turn) % classes == true).mean() for turn in range(classes)]
    assert np.mean(right) == pytest.approx(1 / classes)
    guessed = labels_of(drawn(seed, classes, 24, 30), true.shape, 40.0, None)
    assert abs((guessed == true).mean() - 1 / classes) < spread(1 / classes, true.size)
