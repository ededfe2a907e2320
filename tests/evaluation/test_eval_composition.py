"""Composition, hard positives, negatives and their text-only controls: closed forms, ties, degenerate models, shuffled images."""

import itertools

import numpy as np
import pytest
import torch
from eval_fakes import FakeDataset, FakeModel, caption, record, vector
from hypothesis import given, settings
from hypothesis import strategies as st

from wholegrain.data.record import HardPositive, Negative, Twin
from wholegrain.errors import UserError
from wholegrain.evaluation.statistics.blind import image_folds, shorter_wins, unigram_wins
from wholegrain.evaluation.tasks.composition import composition, hard_positives, negatives, twin_scores


def twin_data(count=40, kinds=("relation", "swap_object")):
    records = [record(n, [f"caption of {n}"]) for n in range(2 * count)]
    twins = tuple(
        Twin(
            f"t{n}",
            kinds[n % len(kinds)],
            (f"key{2 * n:05d}", f"key{2 * n + 1:05d}"),
            (f"caption of {2 * n}", f"caption of {2 * n + 1}"),
        )
        for n in range(count)
    )
    return FakeDataset(records, twins=twins)


def oracle():
    return FakeModel(vector, lambda text: vector(f"key{int(text.split()[-1]):05d}"))


def same(name):
    return torch.ones(32)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=4, max_size=4))
def test_expected_scores_are_the_mean_over_all_ways_to_break_the_ties(scores):
    # every order of four tiny additions, far smaller than the steps between scores
    outcomes = []
    for tiny in itertools.permutations(range(4)):
        s = np.array(
            [[scores[0] + tiny[0] * 1e-3, scores[1] + tiny[1] * 1e-3], [scores[2] + tiny[2] * 1e-3, scores[3] + tiny[3] * 1e-3]]
        )
        text, image = s[0, 0] > s[0, 1] and s[1, 1] > s[1, 0], s[0, 0] > s[1, 0] and s[1, 1] > s[0, 1]
        outcomes.append((text, image, text and image))
    values = twin_scores(np.array(scores, dtype=float).reshape(1, 2, 2))
    found = [values[f"{name}_score_expected"][0] for name in ("text", "image", "group")]
    assert found == pytest.approx(np.mean(outcomes, 0))
    assert all(values[f"{name}_score"][0] == (f == 1) for name, f in zip(("text", "image", "group"), found, strict=True))


def test_chance_levels_are_those_of_four_random_numbers():
    s = np.random.default_rng(0).normal(size=(40_000, 2, 2))
    values = twin_scores(s)
    for name, chance in (("text_score", 1 / 4), ("image_score", 1 / 4), ("group_score", 1 / 6), ("picks_caption", 1 / 2)):
        assert values[name].mean() == pytest.approx(chance, abs=0.01)


def test_an_oracle_scores_everything_and_falls_to_chance_when_images_are_shuffled():
    result = composition(oracle(), twin_data(200))
    assert result.metrics["group_score"] == 1
    assert result.metrics["relation/text_score"] == 1
    assert result.figure("text_score").shuffled == pytest.approx(0.25, abs=0.08)
    assert result.figure("group_score").shuffled == pytest.approx(1 / 6, abs=0.08)
    assert result.figure("text_score").count == 200
    assert result.figure("relation/text_score").count == 100


def test_a_constant_model_expects_chance_and_scores_nothing():
    result = composition(FakeModel(same, same), twin_data())
    for name in ("text_score", "image_score", "group_score"):
        assert result.figure(f"{name}_expected").value == pytest.approx(result.figure(name).chance)
        assert result.figure(name).value == 0
    assert result.metrics["picks_caption"] == 0.5
    assert result.metrics["tie_rate"] == 1


def test_blind_models():
    no_eyes = composition(FakeModel(same, vector), twin_data()).metrics
    assert no_eyes["text_score_expected"] == no_eyes["group_score_expected"] == 0
    assert no_eyes["picks_caption"] == 0.5
    assert no_eyes["image_score_expected"] == 0.25
    no_reading = composition(FakeModel(vector, same), twin_data()).metrics
    assert no_reading["image_score_expected"] == no_reading["group_score_expected"] == 0
    assert no_reading["text_score_expected"] == 0.25


def test_text_alone_scores_exactly_half_on_twins():
    result = composition(oracle(), twin_data())
    assert result.metrics["blind_shorter"] == 0.5
    assert result.metrics["blind_unigram"] == 0.5


def test_order_of_items_and_kinds_does_not_matter():
    data = twin_data()
    model = FakeModel(vector, vector)
    before = composition(model, data).metrics
    data.twins = data.twins[::-1]
    after = composition(model, data).metrics
    assert before == after


def test_add_kinds_stand_apart():
    data = twin_data(kinds=("relation", "add"))
    result = composition(oracle(), data)
    assert result.figure("group_score").count == 20
    assert result.figure("add/group_score").count == 20
    assert "add" in result.protocol
    assert "add" not in composition(oracle(), twin_data()).protocol


def test_a_split_without_twins_is_named():
    with pytest.raises(UserError, match="val"):
        composition(oracle(), twin_data(), "val")


def hard_data(count=60):
    records = [record(n, [f"x {n}"]) for n in range(count)]
    items = tuple(
        HardPositive(f"h{n}", "inverse", f"key{n:05d}", (f"left {n}", f"right {n}"), f"false {n}") for n in range(count)
    )
    return FakeDataset(records, hard_positives=items)


def test_hard_positives():
    def reads(text):
        word, number = text.split()
        return -vector(f"key{int(number):05d}") if word == "false" else vector(f"key{int(number):05d}")

    result = hard_positives(FakeModel(vector, reads), hard_data())
    assert result.metrics["both_win"] == 1
    assert hard_positives(FakeModel(same, same), hard_data()).metrics["both_win_expected"] == pytest.approx(1 / 3)
    random = hard_positives(FakeModel(vector, vector), hard_data(600)).figure("both_win")
    assert random.value == pytest.approx(1 / 3, abs=0.06)
    assert random.chance == pytest.approx(1 / 3)

    def one_wording(text):  # knows one wording only: the other one loses against the false text
        return vector(text) if text.startswith("false") else reads(text) * (-1 if text.startswith("right") else 1)

    assert hard_positives(FakeModel(vector, one_wording), hard_data()).metrics["both_win"] < 0.2


def negative_data(count=50, longer=False):
    records = [record(n, [caption(f"a cup {n}"), caption(f"a star {n}", "detail")], split="test") for n in range(count)]
    rows = {}
    for r in records:
        for c in r.captions:
            text = c.text.replace("a ", "no red ") if longer else c.text.replace("a ", "b ")
            rows[r.key, c.id] = (
                Negative(r.key, c.id, "replace_object", text),
                Negative(r.key, c.id, "add_object", text + " and more"),
            )
    return FakeDataset(records, negatives=rows)


def test_negatives():
    def reads(text):
        return vector(f"key{int(text.split()[2]):05d}") * (1 if text.startswith("a ") else -1)

    result = negatives(FakeModel(vector, reads), negative_data())
    assert result.metrics["accuracy"] == 1
    assert result.figure("accuracy").count == 100
    assert result.figure("replace_object/accuracy").chance == 0.5
    assert negatives(FakeModel(same, same), negative_data()).metrics["accuracy_expected"] == 0.5
    assert negatives(FakeModel(same, same), negative_data()).metrics["accuracy"] == 0
    random = negatives(FakeModel(vector, vector), negative_data(300)).figure("accuracy")
    assert random.value == pytest.approx(0.5, abs=0.06)
    assert random.shuffled == pytest.approx(0.5, abs=0.06)


def test_blind_controls_find_what_the_texts_give_away():
    result = negatives(FakeModel(vector, vector), negative_data(longer=True))
    assert result.metrics["add_object/blind_shorter"] == 1
    assert result.metrics["replace_object/blind_shorter"] == 1
    assert result.metrics["replace_object/blind_unigram"] == 1
    fair = negatives(FakeModel(vector, vector), negative_data())
    assert fair.metrics["replace_object/blind_shorter"] == 0.5


def test_unigrams_are_learned_from_other_images_only():
    # the only tell-tale word of each item is its own; held-out words weigh nothing
    true = [f"a w{n}" for n in range(30)]
    false = [f"a v{n}" for n in range(30)]
    assert (unigram_wins(true, false, [(f"k{n}",) for n in range(30)]) == 0.5).all()
    # the same word in every item, but all items share one image: nothing may be learned either
    assert (unigram_wins(["a"] * 30, ["b"] * 30, [("k", f"k{n}") for n in range(30)]) == 0.5).all()
    assert (unigram_wins(["a"] * 30, ["b"] * 30, [(f"k{n}",) for n in range(30)]) == 1).all()


def test_folds_keep_connected_images_together():
    images = [("a", "b"), ("c", "d"), ("b", "c"), ("e",), ("f",)]
    folds = image_folds(images, 3)
    assert folds[0] == folds[1] == folds[2]
    assert shorter_wins(["a b", "a"], ["a b c", "b"]).tolist() == [1.0, 0.5]
