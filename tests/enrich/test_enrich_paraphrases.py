"""Rewordings that stay true, and what is left alone."""

from __future__ import annotations

import pytest

from wholegrain.data.record import Caption, Record, caption_id
from wholegrain.enrich.hard_positives import HardPositivesStage
from wholegrain.enrich.paraphrases import paraphrases


@pytest.mark.parametrize(
    ("kind", "text", "same"),
    [
        ("exchange_and", "A man and a brown dog run .", "A brown dog and a man run ."),
        ("exchange_colours", "a black and white dog", "a white and black dog"),
        ("converse", "A dog is above a cat.", "A cat is below a dog."),
        ("number_form", "The two cats", "The 2 cats"),
        ("synonym", "A man on a couch", "A man on a sofa"),
        ("synonym", "A large dog", "A big dog"),
        ("verb_form", "A dog is running on the beach .", "A dog runs on the beach ."),
        ("verb_form", "Two dogs run .", "Two dogs are running ."),
    ],
)
def test_rewordings(kind, text, same):
    assert [made.text for made in paraphrases(text) if made.kind == kind] == [same]


@pytest.mark.parametrize(
    "text", ["A man and a woman in red", "A man and a dog with a hat", "A man sits above a cat on a mat", "A man and his dog run"]
)
def test_nothing_is_exchanged_where_words_hang_on_one_of_two(text):
    assert not {made.kind for made in paraphrases(text)} & {"exchange_and", "converse"}


@pytest.mark.parametrize("text", ["A boy looks sad", "A man has a hat", "a dog running"])
def test_states_and_fragments_keep_their_verbs(text):
    assert not [made for made in paraphrases(text) if made.kind == "verb_form"]


def test_every_caption_gets_its_rewordings_each_with_a_false_text_of_its_own():
    texts = ("A black and white dog runs on the beach .", "Two cats are sleeping on a couch .", "Hello")
    its = Record("k", "", (8, 8), "val", None, tuple(Caption(caption_id(text), text) for text in texts))
    rows = HardPositivesStage(seed=1).rows([its], [None])[0]
    assert {row.captions[0] for row in rows} == set(texts[:2])
    assert all(row.split == "val" and row.negative not in row.captions and row.captions[1] not in texts for row in rows)
    assert rows == HardPositivesStage(seed=1).rows([its], [None])[0]
