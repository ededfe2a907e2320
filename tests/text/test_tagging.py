"""The built-in tagger where neighbours decide: participles before nouns, and verbs that look like them."""

import pytest

from wholegrain.text.words.phrases import NounPhrases


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("a ruled white background", ["a ruled white background"]),
        ("two shaded trees beside a painted wall", ["two shaded trees", "a painted wall"]),
        ("his framed poster and a barking dog", ["his framed poster", "a barking dog"]),
        ("a dog chased a cat", ["a dog", "a cat"]),
        ("a man that chased dogs", ["a man", "dogs"]),
        ("two wearing hats", ["hats"]),
        ("both carried bags", ["bags"]),
    ],
)
def test_a_participle_belongs_to_the_noun_that_it_describes(text, phrases):
    assert NounPhrases()([text]) == [tuple(phrases)]
