"""Hard negatives by word rules: what is changed, what is left alone, that edits describe the change, and that order does not matter."""

from __future__ import annotations

import pickle
import random
import re
from collections import Counter

import pytest

from wholegrain.data.record import Caption, GeneratedCaption, Record, caption_id
from wholegrain.enrich.negatives.edits import KINDS
from wholegrain.enrich.negatives.negated_captions import NegatedCaptionsStage
from wholegrain.enrich.negatives.word_rules import ALL_KINDS, NegativesStage
from wholegrain.enrich.questions import made_from_captions
from wholegrain.errors import UserError
from wholegrain.evaluation.statistics.blind import shorter_wins, unigram_wins


def record(*texts: str, key: str = "k", split: str = "test") -> Record:
    return Record(key, f"{key}.jpg", (8, 8), split, None, tuple(Caption(caption_id(text), text) for text in texts))


def possible(text: str, kind: str, *others: str) -> set[str]:
    """All that some seed makes of a caption."""
    found = set()
    for seed in range(40):
        rows = NegativesStage((kind,), 20, seed, balance=()).of(record(text, *others))
        found |= {row.text for row in rows if row.caption == caption_id(text)}
    return found


@pytest.mark.parametrize(
    ("kind", "text", "false"),
    [
        ("relation", "A man stands in front of a box .", "A man stands behind a box ."),
        ("relation", "The star is to the left of a ring", "The star is to the right of a ring"),
        ("relation", "A man runs up a hill .", "A man runs down a hill ."),
        ("attribute_state", "A wet street .", "A dry street ."),
        ("attribute_colour", "A girl in a red coat", "A girl in a green coat"),
        ("attribute_colour", "A black and white dog runs .", "A brown and white dog runs ."),
        ("attribute_colour", "A boy in red jumps .", "A boy in blue jumps ."),
        ("attribute_size", "A large dog", "A small dog"),
        ("attribute_age", "An old man", "A young man"),
        ("attribute_material", "A wooden bench", "A metal bench"),
        ("attribute_texture", "A striped shirt", "A plaid shirt"),
        ("swap_attribute", "A boy in a red hat sits on a blue chair", "A boy in a blue hat sits on a red chair"),
        ("swap_object", "A tall man chases a small dog .", "A small dog chases a tall man ."),
        ("swap_object", "A boy in a red hat and a blue shirt", "A boy in a red shirt and a blue hat"),
        ("action", "A man is pushing a cart", "A man is pulling a cart"),
        ("action", "A dog runs on the beach .", "A dog walks on the beach ."),
        ("count", "A dog runs .", "Two dogs run ."),
        ("count", "A dog is on the beach .", "Three dogs are on the beach ."),
        ("count", "Two dogs run .", "Three dogs run ."),
        ("count", "Two dogs are on the beach .", "One dog is on the beach ."),
        ("count", "A group of people sits on a bench .", "Two people sit on a bench ."),
        ("object_place", "A dog on the grass", "A dog on the sand"),
        ("object_being", "A cat sleeps .", "A dog sleeps ."),
        ("object_being", "A man puts on his hat .", "A woman puts on her hat ."),
        ("object_clothing", "A man wearing a hat .", "A man wearing a crown ."),
        ("object_thing", "A soccer player runs .", "A hockey player runs ."),
        ("object_thing", "A race car is here .", "A dirt bike is here ."),
    ],
)
def test_one_fact_is_changed(kind, text, false):
    assert false in possible(text, kind)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("attribute_colour", "He eats an orange ."),  # a fruit
        ("object", "a dog park"),  # another thing
        ("object", "A man with a beard and a woman"),  # of one sex alone
        ("relation", "They clean up ."),
        ("relation", "A man looks over a wall ."),
        ("action", "He takes a walk"),
        ("action", "A man sits reading on a bench ."),  # who reads may sit, and who sits read
        ("swap_object", "a man and a dog run"),  # true either way round
        ("swap_object", "a man with a dog runs"),
        ("swap_attribute", "a red ball and a blue ball"),
        ("count", "Two dogs , one black and the other white ."),
        ("count", "A man in a hat sings ."),  # "two men in a hat" share it
        ("count", "A man holds his hat ."),
    ],
)
def test_what_would_stay_true_or_make_no_sense_is_left_alone(kind, text):
    assert possible(text, kind) == set()


def test_one_is_never_put_in_for_two_as_a_plain_article():
    assert not any(text.startswith("A dog") for text in possible("Two dogs run .", "count"))


def test_articles_and_capitals_follow():
    assert "An orange cup" in possible("A blue cup", "attribute_colour")
    assert "a car stands behind an old house" not in possible("a car stands behind a house", "attribute_age")
    assert "An umbrella" not in possible("A dog", "object")
    assert "A man holds a sign ." in possible("A man holds an umbrella .", "object_thing")


@pytest.mark.parametrize(
    ("kind", "text", "other", "never"),
    [
        ("attribute_colour", "A red ball lies here", "A blue thing", "blue"),  # said of this picture
        ("attribute_colour", "A red ball lies here", "A round ball", "pink"),  # may be said of what is red
        ("object_thing", "A man sits on a couch", "A man sits there", "sofa"),
        ("object_being", "A dog runs .", "An animal and a horse run .", "horse"),
        ("object_being", "A man runs .", "A boy runs .", "boy"),
        ("action", "A man is running on the beach .", "A man is jogging", "jogging"),
        ("count", "Two dogs run .", "Three dogs are there", "Three"),
        ("relation", "A man stands in front of a car .", "A man next to a car", "beside"),
    ],
)
def test_what_is_said_of_the_picture_or_may_mean_the_same_never_comes_in(kind, text, other, never):
    assert not any(never in false for false in possible(text, kind, other))


def test_a_false_text_is_no_other_caption_and_comes_once():
    captions = ("A wet street .", "A dry street .", "Two dogs run .")
    rows = list(NegativesStage(KINDS, 9, balance=()).of(record(*captions)))
    texts = [(row.caption, row.text.lower()) for row in rows]
    assert len(texts) == len(set(texts)) > 0
    assert not {row.text for row in rows} & set(captions)


def corpus(count: int = 240) -> list[Record]:
    draw, made = random.Random(0), []
    colours = ["black"] * 6 + ["white"] * 3 + ["brown"]
    for n in range(count):
        colour, place = draw.choice(colours), draw.choice(["beach", "street", "field", "beach", "bridge"])
        number, deed = draw.choice(["A", "Two", "Two", "Three"]), draw.choice(["run", "walk", "stand", "sleep"])
        one = number == "A"
        noun, verb = ("dog", f"{deed}s") if one else ("dogs", deed)
        ball = draw.choice(["ball", "stick", "frisbee"])
        texts = [
            f"{number} {colour} {noun} {verb} on a {place} .",
            f"{number} {noun} with a {draw.choice(['red', 'blue', 'green'])} {ball} near a {draw.choice(['large', 'small'])} house .",
            f"A man in a {draw.choice(['red', 'red', 'blue'])} {draw.choice(['shirt', 'coat'])} sits {draw.choice(['in front of', 'behind'])} a car .",
        ]
        made.append(record(*texts, key=f"key{n:04d}"))
    return made


@pytest.fixture(scope="module")
def fitted() -> NegativesStage:
    stage = NegativesStage(KINDS, seed=3)
    stage.fit_records(corpus())
    return stage


def test_edits_rebuild_the_false_text(fitted):
    for its in corpus(60):
        texts = {caption.id: caption.text for caption in its.captions}
        for row in fitted.of(its):
            out, last, true = "", 0, texts[row.caption]
            for start, end, old, new in row.edits:
                assert true[start:end] == old
                out, last = out + true[last:start] + new, end
            assert out + true[last:] == row.text


def test_rows_are_the_same_in_any_order_and_in_parts(fitted):
    records = corpus(40)
    whole = fitted.rows(records, [None] * 40)
    backwards = fitted.rows(records[::-1], [None] * 40)[::-1]
    parts = [rows for one in records for rows in pickle.loads(pickle.dumps(fitted)).rows([one], [None])]
    assert whole == backwards == parts
    turned = [Record(r.key, r.image, r.size, captions=r.captions[::-1]) for r in records]
    assert [set(rows) for rows in fitted.rows(turned, [None] * 40)] == [set(rows) for rows in whole]
    other = NegativesStage(KINDS, seed=4, collection=fitted.collection).rows(records, [None] * 40)
    assert other != whole


def test_kinds_do_not_depend_on_which_others_are_made(fitted):
    alone = NegativesStage(("attribute_colour",), seed=3, collection=fitted.collection)
    for its in corpus(40):
        assert list(alone.of(its)) == [row for row in fitted.of(its) if row.kind == "attribute_colour"]


def blind(stage: NegativesStage, records: list[Record]) -> dict[str, tuple[float, float, int]]:
    pairs: dict[str, list[tuple[str, str, str]]] = {}
    for its in records:
        texts = {caption.id: caption.text for caption in its.captions}
        for row in stage.of(its):
            pairs.setdefault(row.kind, []).append((texts[row.caption], row.text, its.key))
    found = {}
    for kind, rows in pairs.items():
        true, false, keys = zip(*rows, strict=True)
        shorter, unigram = shorter_wins(true, false).mean(), unigram_wins(true, false, [(key,) for key in keys]).mean()
        found[kind] = (float(shorter), float(unigram), len(rows))
    return found


def test_words_and_lengths_tell_nothing_of_a_balanced_draw_and_much_of_an_even_one(fitted):
    even = NegativesStage(KINDS, seed=3, balance=())
    even.fit_records(corpus())
    plain, balanced = blind(even, corpus()), blind(fitted, corpus())
    assert plain["attribute_colour"][1] > 0.6
    assert plain["count"][0] > 0.55
    for kind, (shorter, unigram, count) in balanced.items():
        slack = 1.5 / count**0.5
        assert abs(shorter - 0.5) < 0.05 + slack, kind
        assert unigram < 0.55 + slack, kind
    assert sum(count for _, _, count in balanced.values()) > 200


def test_negation_stands_on_both_sides():
    records = corpus(60)
    stage = NegatedCaptionsStage()
    stage.plain.fit_records(records)
    kinds = Counter()
    for its, rows in zip(records, stage.rows(records, [None] * 60), strict=True):
        said = {row.caption: row for row in rows if isinstance(row, GeneratedCaption)}
        assert len(said) == len(rows)
        both = Record(
            its.key, "", (8, 8), captions=(*its.captions, *(Caption(r.caption, r.text, r.role, r.source) for r in said.values()))
        )
        for row in NegativesStage(("negation",)).of(both):
            true = said[row.caption].text
            assert " not " in true
            assert Counter(true.lower().replace(",", "").split()) == Counter(row.text.lower().replace(",", "").split())
            assert true != row.text
            kinds[row.kind] += 1
    assert set(kinds) == {kind for kind in ALL_KINDS if kind.startswith("negation_")}


@pytest.mark.parametrize(
    ("kind", "text", "true", "false"),
    [
        ("object", "A dog runs .", "A dog, not an elephant, runs .", "An elephant, not a dog, runs ."),
        ("attribute", "A man in a red coat", "A man in a red, not blue, coat", "A man in a blue, not red, coat"),
        ("action", "Two dogs run on the beach .", "Two dogs run, not walk, on the beach .", "Two dogs walk, not run, on the beach ."),
        ("relation", "A man in front of a box .", "A man in front of, not behind, a box .", "A man behind, not in front of, a box ."),
        ("count", "Two dogs run .", "Two, not three, dogs run .", "Three, not two, dogs run ."),
        ("count", "A man near a car .", "A man near a car, not two cars .", "A man near two cars, not a car ."),
        ("count", "A boy climbs .", "A boy, not two boys, climbs .", "Two boys, not a boy, climb ."),
        ("object", "A woman rows her boat .", "A woman, not a man, rows her boat .", "A man, not a woman, rows his boat ."),
        ("object", "People protest .", "People, not horses, protest .", "Horses, not people, protest ."),
        ("count", "A group of people are here .", "A group of people, not two people, are here .", "Two people, not a group of people, are here ."),
        ("count", "Two people are here .", "Two people, not a group of people, are here .", "A group of people, not two people, are here ."),
    ],
)  # fmt: skip
def test_both_sides_of_a_negation(kind, text, true, false):
    its, pairs = record(text), set()
    for seed in range(60):
        for row in NegatedCaptionsStage((f"negation_{kind}",), seed).rows([its], [None])[0]:
            both = Record("k", "", (8, 8), captions=(*its.captions, Caption(row.caption, row.text, row.role, row.source)))
            pairs |= {(row.text, wrong.text) for wrong in NegativesStage(("negation",)).of(both)}
    assert (true, false) in pairs


def test_negation_reads_well():
    its = record("A dog runs on the beach .")
    stage = NegatedCaptionsStage(("negation_object", "negation_action"))
    texts = {row.text for seed in range(30) for row in NegatedCaptionsStage(stage.kinds, seed).rows([its], [None])[0]}
    assert any(re.fullmatch(r"A dog, not an? \w+, runs on the beach \.", text) for text in texts)
    assert "A dog runs, not walks, on the beach ." in texts
    assert any(re.fullmatch(r"A dog runs on the beach, not the \w+ \.", text) for text in texts)


def test_unknown_kinds_are_refused_by_name():
    with pytest.raises(UserError, match="no kind 'colour'"):
        NegativesStage(("colour",))
    assert NegativesStage(("attribute",)).kinds == tuple(kind for kind in KINDS if kind.startswith("attribute_"))


def test_questions_in_memory_spread_over_images_and_keep_to_the_budget():
    records = corpus(40)
    negatives, positives = made_from_captions(records, per_kind=12, split="val")
    counts = Counter(row.kind for rows in negatives.values() for row in rows)
    assert max(counts.values()) == 12
    assert len({row.key for rows in negatives.values() for row in rows if row.kind == "attribute_colour"}) == 12
    assert made_from_captions(records, per_kind=12, split="val") == (negatives, positives)
    assert all(item.split == "val" and item.negative not in item.captions for item in positives)
