"""Pairs that a visitor sets: one fact differs, each caption is true of its own picture alone, and verdicts say what the scores say."""

from dataclasses import replace

import numpy as np
import pytest

from wholegrain.data.scenes.captions import RELATION_WORDS
from wholegrain.data.scenes.world import SIZES, holds
from wholegrain.errors import UserError
from wholegrain.report.examples import Scores
from wholegrain.workflows.embedder import load
from wholegrain.workflows.explore.twins import (
    TWINS,
    Setting,
    breaking_setting,
    make_pair,
    random_setting,
    score_pair,
    told_apart,
    verdict,
)


@pytest.fixture(scope="module")
def models():
    return [load("base", "cpu"), load("base,grain=1.5", "cpu")]


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize("where", RELATION_WORDS)
@pytest.mark.parametrize("size", SIZES)
def test_each_caption_is_true_of_its_own_picture_alone(twin, where, size):
    for drawing in range(12):
        pair = make_pair(Setting(twin=twin, relation=where, size=size, second_fill="dotted", drawing=drawing))
        truths = [[holds(caption.claim, scene) for caption in pair.captions] for scene in pair.scenes]
        assert truths == [[True, False], [False, True]]
        assert pair.texts[0] != pair.texts[1]
        assert sorted(pair.texts[0].split()) == sorted(pair.texts[1].split()) or twin == "swap relation"


@pytest.mark.parametrize("twin", TWINS)
def test_twins_hold_the_same_but_for_one_fact_and_another_drawing_changes_none(twin):
    first, second = make_pair(Setting(twin=twin, second_fill="dotted")).scenes
    assert (first.ground, first.texture, first.style, first.seed) == (second.ground, second.texture, second.style, second.seed)
    for name in ("noun", "colour", "fill", "size"):
        assert sorted(getattr(t, name) for t in first.things) == sorted(getattr(t, name) for t in second.things)
    one, other = (make_pair(Setting(twin=twin, second_fill="dotted", drawing=drawing)) for drawing in (1, 2))
    assert one.texts == other.texts
    assert not np.array_equal(one.pixels(64)[0], other.pixels(64)[0])
    assert np.array_equal(one.pixels(64)[0], make_pair(Setting(twin=twin, second_fill="dotted", drawing=1)).pixels(64)[0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"second_noun": "cup"}, "Both things are a cup; choose two different ones"),
        ({"second_colour": "red"}, "would still be with their colours swapped"),
        ({"twin": "swap patterns"}, "would still be with their patterns swapped"),
        ({"noun": "dragon"}, "Nothing can be drawn of 'dragon'"),
        ({"drawing": 100}, "it must be 0 to 99"),
    ],
)
def test_a_setting_that_can_be_no_pair_is_refused(change, said):
    with pytest.raises(UserError, match=said):
        make_pair(replace(Setting(), **change))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (((2, 1), (1, 2)), "m tells them apart"),
        (((1, 2), (2, 1)), "m fails: it takes each picture for the other"),
        (((1, 2), (0, 3)), "m fails: it gives picture A the caption of picture B"),
        (((3, 0), (2, 1)), "m fails: it gives picture B the caption of picture A"),
        (((5, 4), (6, 7)), "m fails: it finds the wrong picture for the caption of picture A"),
        (((1, 1), (1, 1)), "m fails: it scores both captions alike"),
        (((1, 1), (2, 2)), "m fails: it scores both captions alike"),
    ],
)
def test_the_verdict_says_what_the_scores_say(values, said):
    assert verdict(Scores("m", values)) == said


def test_scores_of_a_pair_are_the_models_own(models):
    pair = make_pair(Setting())
    for model, scores in zip(models, score_pair(models, pair, 64), strict=True):
        assert np.allclose(scores.values, model.similarity(pair.pixels(64), pair.texts))


def test_a_visitor_breaks_one_model_and_sees_the_other_repair_it(models):
    found = breaking_setting(models, "swap colours", 64, np.random.default_rng(0))
    assert found is not None
    assert [scores.group for scores in score_pair(models, make_pair(found), 64)] == [False, True]
    base, grain = told_apart(models, Setting(), 64, draws=20)
    assert base <= 3
    assert grain >= 14


def test_settings_at_random_can_all_be_drawn():
    rng = np.random.default_rng(1)
    made = [random_setting(rng, twin) for twin in TWINS for _ in range(30)]
    assert all(make_pair(setting).texts for setting in made)
    assert len({(setting.noun, setting.second_noun) for setting in made}) > 50
