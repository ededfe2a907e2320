"""What each word of a caption is: coarse part of speech, lemma, and noun phrases.

A :class:`Tagger` is all that the rules see of grammar. :class:`BuiltinTagger` needs no download: closed word lists, a dictionary of forms
(lemminflect), the typed word lists, and the neighbours of a word. :mod:`~wholegrain.text.words.tagging_spacy` asks a spaCy pipeline instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from wholegrain.text.words.morphology import singular, verb_of
from wholegrain.text.words.parts import COLOURS, DEGREES, NUMBERS, OWNERS, parts_of_speech
from wholegrain.text.words.text import Token, tokens


@dataclass(frozen=True, slots=True)
class Word:
    """A token with its grammar.

    Attributes:
        text, low, start, end: as in :class:`~wholegrain.text.words.text.Token`.
        pos: ``NOUN``, ``VERB``, ``ADJ``, ``ADV``, ``ADP``, ``DET``, ``NUM``, ``PRON``, ``POSS``, ``AUX``, ``CONJ``, ``PART``, ``PUNCT`` or ``X``.
        lemma: base form of a verb, singular of a noun, else the word.
        form: of verbs ``base``, ``third``, ``ing`` or ``past``; of nouns ``one`` or ``many``; else empty.
    """

    text: str
    low: str
    start: int
    end: int
    pos: str
    lemma: str
    form: str = ""


@dataclass(frozen=True, slots=True)
class NounPhrase:
    """A noun with what stands before it: words ``start`` to ``head``."""

    start: int
    head: int


@dataclass(frozen=True)
class Tagged:
    """A caption with its grammar.

    Attributes:
        text: the caption.
        words: its tokens.
        phrases: its noun phrases, from left to right.
    """

    text: str
    words: tuple[Word, ...]
    phrases: tuple[NounPhrase, ...]

    @property
    def low(self) -> list[str]:
        """The words in lower case."""
        return [word.low for word in self.words]


class Tagger(Protocol):
    """Tells the grammar of captions."""

    @property
    def identity(self) -> str:
        """Name and version, which are written into rows."""
        ...

    def tag(self, texts: Sequence[str]) -> list[Tagged]:
        """The grammar of each text."""
        ...


NUMBER_OF = {word: n for n, word in enumerate(NUMBERS, 1)} | {str(n): n for n in range(1, 100)}


@dataclass(frozen=True)
class BuiltinTagger:
    """Grammar of everyday captions by word lists and neighbours; no model, the same on every machine."""

    identity: str = "builtin 3"

    def tag(self, texts: Sequence[str]) -> list[Tagged]:
        """The grammar of each text.

        Example:
            >>> tagged = BuiltinTagger().tag(["A brown dog runs through the water."])[0]
            >>> [(word.low, word.pos) for word in tagged.words[1:4]], [tagged.words[p.head].low for p in tagged.phrases]
            ([('brown', 'ADJ'), ('dog', 'NOUN'), ('runs', 'VERB')], ['dog', 'water'])
        """
        return [_tagged(text) for text in texts]


@lru_cache(maxsize=1 << 13)
def _tagged(text: str) -> Tagged:
    found = tokens(text)
    tags = parts_of_speech([token.text for token in found])
    words = tuple(word_of(token, tag) for token, tag in zip(found, tags, strict=True))
    return Tagged(text, words, noun_phrases(words))


def word_of(token: Token, pos: str) -> Word:
    """A token with its part of speech, and the lemma and form that follow from it."""
    lemma, form = token.low, ""
    if pos == "VERB":
        lemma, form = verb_of(token.low)
        lemma = lemma or token.low
    elif pos == "NOUN":
        lemma = singular(token.low)
        form = "many" if lemma != token.low else "one"
    return Word(token.text, token.low, token.start, token.end, pos, lemma, form)


def noun_phrases(words: Sequence[Word]) -> tuple[NounPhrase, ...]:
    """Runs of determiners, numbers, adjectives (also listed: "red, white and blue"), owners ("a dog's") and nouns that end at a noun.

    An adverb belongs to the adjective behind it ("a very steep wall"), a participle to the noun before it ("a snow covered hill").
    """
    found, n = [], 0
    while n < len(words):
        head = _head(words, n)
        if head >= 0:
            found.append(NounPhrase(n, head))
        n = max(n, head) + 1
    return tuple(found)


def _head(words: Sequence[Word], start: int) -> int:
    """The noun at which the phrase ends that begins at a word; -1 if none does."""
    head, owned = -1, -1  # owned: the last "dog's" or "snow covered", behind which adjectives may stand again
    for n in range(start, len(words)):
        pos, before = words[n].pos, words[n - 1].pos if n > start else ""
        if pos == "NOUN":
            head = n
        elif pos == "POSS" and words[n].low.endswith(OWNERS):
            if words[n].low in OWNERS and before != "NOUN":
                break
            owned = n
        elif pos in ("DET", "POSS", "NUM"):
            if head > owned or before == "ADJ":
                break
        elif pos == "ADJ":
            if head > owned and not (head == n - 1 and _makes_compound(words, n)):
                break
            owned = n if head > owned else owned
        elif pos == "ADV":
            if head > owned or not _grades(words, n, start):
                break
        elif not (before and _joins_adjectives(words, n)):
            break
    return head


def _makes_compound(words: Sequence[Word], n: int) -> bool:
    """A participle between nouns: "snow covered hill", "tree lined street"."""
    noun, after = words[n - 1], words[n + 1].pos if n + 1 < len(words) else ""
    several = noun.form == "many" and noun.low.endswith("s")
    return words[n].low.endswith("ed") and not several and after in ("NOUN", "ADJ")


def _grades(words: Sequence[Word], n: int, start: int) -> bool:
    """An adverb before an adjective within a phrase, or one that can begin it ("brightly colored clothes")."""
    after = words[n + 1].pos if n + 1 < len(words) else ""
    return after == "ADJ" and (n > start or words[n].low in DEGREES or (n > 0 and words[n - 1].pos == "ADP"))


def _joins_adjectives(words: Sequence[Word], n: int) -> bool:
    """A mark or "and" between adjectives or colours: "short, fat", "red, white, and blue", "cold but sunny"."""
    if words[n].low not in ("and", "but", ",", "-"):
        return False
    before = n - 2 if words[n].low in ("and", "but") and words[n - 1].low == "," else n - 1
    after = n + 2 if words[n].low == "," and n + 2 < len(words) and words[n + 1].low in ("and", "but") else n + 1
    if words[before].pos != "ADJ" or after >= len(words):
        return False
    return words[after].pos == "ADJ" or (words[after].pos == "NOUN" and words[after].low in COLOURS)
