"""Word rules: what is changed, what is left alone, and that edits describe the change."""

from __future__ import annotations

import pytest

from wholegrain.data.record import Caption, Record, caption_id
from wholegrain.enrich.paraphrases import paraphrases
from wholegrain.enrich.rules import Rules
from wholegrain.enrich.sidecars import made_from_captions

CORPUS = [
    "A red dog runs", "A blue ball", "a man and a woman", "a cat sits", "an orange cup", "A green car", "the bus", "on the street", "a boy",
    "in the snow on grass", "a girl",
]  # fmt: skip
RULES = Rules.of(CORPUS)


def made(text: str, kind: str, others=(), seed=0) -> list[str]:
    return [m.text for m in RULES.negatives(text, list(others), seed) if m.kind == kind]


@pytest.mark.parametrize(
    ("kind", "text", "false"),
    [
        ("replace_direction", "A cup in front of the box.", "A cup behind the box."),
        ("replace_direction", "The star is to the left of a ring", "The star is to the right of a ring"),
        ("replace_property", "A wet street.", "A dry street."),
        ("swap_attribute", "A red dog near a blue ball", "A blue dog near a red ball"),
        ("swap_object", "A tall man chases a small dog .", "A small dog chases a tall man ."),
        ("replace_action", "A man is pushing a cart", "A man is pulling a cart"),
    ],
)
def test_one_fact_is_changed(kind, text, false):
    assert made(text, kind) == [false]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("replace_colour", "a black and white dog"),  # either colour alone stays true
        ("replace_colour", "He eats an orange."),  # a fruit
        ("replace_object", "a dog park"),  # another thing
        ("replace_direction", "They clean up."),
        ("replace_action", "He takes a walk"),
        ("swap_object", "a man and a dog run"),  # true either way round
        ("swap_object", "a man with a dog runs"),
        ("swap_attribute", "a red ball and a blue ball"),
    ],
)
def test_what_would_stay_true_or_make_no_sense_is_left_alone(kind, text):
    assert [made(text, kind, seed=seed) for seed in range(5)] == [[]] * 5


def test_no_word_comes_in_that_another_caption_uses_or_that_may_mean_the_same():
    words = {t.split()[1] for s in range(60) for t in made("A red ball lies here", "replace_colour", seed=s)}
    assert words == {"blue", "green"}  # and not orange, which is near red
    guarded = {t.split()[1] for s in range(60) for t in made("A red ball lies here", "replace_colour", ["blue thing"], s)}
    assert guarded == {"green"}


def test_words_come_as_often_as_the_captions_use_them():
    rules = Rules.of(["blue"] * 90 + ["green"] * 10)
    drawn = [rules.negatives("a red cup", [], seed)[0].text for seed in range(300)]
    assert 0.8 < drawn.count("a blue cup") / 300 < 0.97


def test_articles_and_capitals_follow():
    rules = Rules.of(["an orange cup"])
    assert [m.text for m in rules.negatives("A blue cup", [])] == ["An orange cup"]


def test_edits_rebuild_the_false_text():
    for text in ("Two men in red coats walk up the hill behind a big dog .", "A tall man chases a small dog ."):
        for m in RULES.negatives(text, []):
            out, last = "", 0
            for start, end, old, new in m.edits:
                assert text[start:end] == old
                out, last = out + text[last:start] + new, end
            assert out + text[last:] == m.text


@pytest.mark.parametrize(
    ("kind", "text", "same"),
    [
        ("exchange_and", "A man and a brown dog run .", "A brown dog and a man run ."),
        ("exchange_colours", "a black and white dog", "a white and black dog"),
        ("converse", "A dog is above a cat.", "A cat is below a dog."),
        ("number_form", "The two cats", "The 2 cats"),
        ("synonym", "A man on a couch", "A man on a sofa"),
    ],
)
def test_rewordings(kind, text, same):
    assert [m.text for m in paraphrases(text) if m.kind == kind] == [same]


@pytest.mark.parametrize("text", ["A man and a woman in red", "A man and a dog with a hat", "A man sits above a cat on a mat"])
def test_nothing_is_exchanged_where_words_hang_on_one_of_two(text):
    assert not {m.kind for m in paraphrases(text)} & {"exchange_and", "converse"}


def records(captions: list[list[str]]) -> list[Record]:
    return [
        Record(f"k{n}", "", (8, 8), "test", None, tuple(Caption(caption_id(t), t) for t in c)) for n, c in enumerate(captions)
    ]


def test_sidecars_spread_over_images_and_keep_to_the_budget():
    found = records([["A red cup here", "A red cup there"], ["A blue cup here"], ["A green cup here"]] * 3)
    negatives, _ = made_from_captions(found, per_kind=9)
    rows = [row for rows in negatives.values() for row in rows if row.kind == "replace_colour"]
    assert len(rows) == 9
    assert {row.key for row in rows} == {record.key for record in found}
    assert made_from_captions(found, per_kind=9)[0] == negatives


def test_a_hard_positive_has_a_false_text_of_its_own():
    _, positives = made_from_captions(records([["A black and white dog runs in the red snow"], ["a blue cup on the grass"]]))
    (item,) = positives
    assert item.captions == ("A black and white dog runs in the red snow", "A white and black dog runs in the red snow")
    assert item.negative not in item.captions
