"""What each word of a caption is: coarse part of speech, lemma, and noun phrases.

A :class:`Tagger` is all that the rules see of grammar. :class:`BuiltinTagger` needs no download: closed word lists, a dictionary of forms
(lemminflect), the typed word lists, and the neighbours of a word. :mod:`~wholegrain.text.words.tagging_spacy` asks a spaCy pipeline instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from wholegrain.text.words.lexicon import lexicon, word_set
from wholegrain.text.words.morphology import known_forms, singular, verb_of
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


DETERMINERS = word_set("tagging_determiners")
POSSESSIVES = frozenset(["his", "her", "its", "their", "my", "your", "our"])
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBER_OF = {word: n for n, word in enumerate(NUMBERS, 1)} | {str(n): n for n in range(1, 100)}
PRONOUNS = word_set("tagging_pronouns")
AUXILIARIES = word_set("tagging_auxiliaries")
CONJUNCTIONS = word_set("tagging_conjunctions")
PREPOSITIONS = word_set("tagging_prepositions")
ADVERBS = word_set("tagging_adverbs")
_NOUN_FIRST = word_set("tagging_noun_first")
_ADJ_FIRST = word_set("tagging_adj_first")
_ALONE = frozenset({"that", "all", "both"})  # determiners that also stand without a noun: "both wear hats"
_SUBJECTS = frozenset({"he", "she", "it", "who", "which", "that"})
_PLURAL_SUBJECTS = frozenset({"they", "who", "that", "to", "people"})


@lru_cache(maxsize=1 << 16)
def _possible(word: str) -> tuple[str, ...]:
    """The parts of speech that a word can be, whatever stands around it."""
    for name, words in _CLOSED:
        if word in words:
            return (name,)
    if word[0].isdigit():
        return ("NUM",)
    if not word[0].isalpha():
        return ("PUNCT",)
    if word.endswith(("'s", "’s")):
        return ("POSS",)
    found = [pos for pos in known_forms(word) if pos in ("NOUN", "VERB", "ADJ", "ADV")]
    words = lexicon()
    if word in words.modifiers and word not in _NOUN_FIRST:
        found = ["ADJ", *(pos for pos in found if pos != "ADJ")]
    if singular(word) in words.nouns and "NOUN" not in found:
        found.append("NOUN")
    if found:
        return tuple(found)
    if word.endswith("ing"):
        return ("VERB",)
    return ("ADV",) if word.endswith("ly") else ("ADJ",) if word.endswith("ed") or "-" in word else ("NOUN",)


_CLOSED = (
    ("NUM", frozenset(NUMBERS)), ("DET", DETERMINERS), ("POSS", POSSESSIVES), ("AUX", AUXILIARIES), ("PRON", PRONOUNS),
    ("CONJ", CONJUNCTIONS), ("ADP", PREPOSITIONS), ("ADV", ADVERBS), ("PART", frozenset({"n't"})),
)  # fmt: skip
_BEFORE_NOUN = frozenset({"DET", "NUM", "POSS", "ADJ"})


@dataclass(frozen=True)
class BuiltinTagger:
    """Grammar of everyday captions by word lists and neighbours; no model, the same on every machine."""

    identity: str = "builtin 2"

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
    possible = [_possible(token.low) for token in found]
    tags: list[str] = []
    verbs = False
    for n in range(len(found)):
        tag = possible[n][0] if len(possible[n]) == 1 and possible[n][0] != "VERB" else _choose(n, found, possible, tags, verbs)
        verbs = verbs or tag in ("VERB", "AUX")
        tags.append(tag)
    words = tuple(word_of(token, tag) for token, tag in zip(found, tags, strict=True))
    return Tagged(text, words, noun_phrases(words))


def _choose(n: int, found: Sequence[Token], possible: Sequence[tuple[str, ...]], tags: Sequence[str], verbs: bool) -> str:
    word, can = found[n].low, possible[n]
    before = tags[n - 1] if n else ""
    after = possible[n + 1] if n + 1 < len(found) else ("PUNCT",)
    noun_follows = any(pos in ("NOUN", "ADJ") for pos in after) and not (after[0] == "VERB" and "ADJ" not in after)
    if word in _ADJ_FIRST or ("ADJ" in can and "VERB" not in can):
        colours = n + 2 < len(found) and found[n + 1].low in ("and", ",") and found[n + 2].low in _ADJ_FIRST
        if noun_follows or colours or "NOUN" not in can or before == "AUX":
            return "ADJ"
        return "NOUN"
    if "VERB" not in can:
        return can[0]
    if "NOUN" not in can:
        low, form = (found[n - 1].low if n else ""), verb_of(word)[1]
        participle = len(can) > 1 or form == "past" or (form == "ing" and before != "NUM")  # "two wearing hats"
        return "ADJ" if participle and before in _BEFORE_NOUN and low not in _ALONE and noun_follows else "VERB"
    return _noun_or_verb(n, found, tags, word, before, after, noun_follows, verbs)


def _noun_or_verb(
    n: int,
    found: Sequence[Token],
    tags: Sequence[str],
    word: str,
    before: str,
    after: tuple[str, ...],
    noun_follows: bool,
    verbs: bool,
) -> str:
    low = found[n - 1].low if n else ""
    if before == "PUNCT" and low == "-":
        return "NOUN"
    if word in _NOUN_FIRST:
        return "NOUN"
    form = verb_of(word)[1]
    if form == "ing":
        if before in _BEFORE_NOUN:
            return "ADJ" if noun_follows else "NOUN"
        return "VERB"
    if form == "past":
        return "ADJ" if before in _BEFORE_NOUN and noun_follows else "VERB" if before in ("NOUN", "AUX", "PRON", "ADV") else "ADJ"
    if before in ("DET", "POSS", "ADJ", "NUM") and low not in _ALONE:
        return "NOUN"
    if form == "third":
        group = n > 2 and found[n - 2].low == "of" and before == "NOUN"  # "a group of people stands"
        if low in _SUBJECTS or (before == "NOUN" and singular(low) == low) or before == "ADV" or group:
            return "VERB"
        return "VERB" if before in ("CONJ", "PUNCT") and verbs and after[0] in ("DET", "ADP", "POSS", "PUNCT", "NUM") else "NOUN"
    if low in _PLURAL_SUBJECTS or (before == "NOUN" and singular(low) != low) or low in ("can", "will"):
        return "VERB"
    if before == "NOUN" and not verbs and "and" in (token.low for token in found[:n]) and after[0] in ("ADP", "PUNCT", "DET"):
        return "VERB"  # "a man and a dog run"
    return "VERB" if before == "CONJ" and verbs and after[0] in ("DET", "ADP", "POSS", "PUNCT") and low == "and" else "NOUN"


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
    """Runs of determiners, numbers, adjectives (also joined by "and") and nouns that end at a noun."""
    found, n = [], 0
    while n < len(words):
        start = n
        head = -1
        while n < len(words):
            pos = words[n].pos
            if pos == "NOUN":
                head = n
            elif pos in ("DET", "POSS", "NUM"):
                if head >= 0 or (n > start and words[n - 1].pos == "ADJ"):
                    break
            elif pos == "ADJ":
                if head >= 0:
                    break
            elif not (
                words[n].low in ("and", ",", "-")
                and n > start
                and n + 1 < len(words)
                and words[n - 1].pos == "ADJ"
                and words[n + 1].pos == "ADJ"
            ):
                break
            n += 1
        if head >= 0:
            found.append(NounPhrase(start, head))
            n = head + 1
        else:
            n = max(n, start + 1)
    return tuple(found)
