"""A caption as the rules see it: its grammar, and what is said of its picture."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b

from wholegrain.text.words.lexicon import Lexicon, lexicon
from wholegrain.text.words.morphology import plural
from wholegrain.text.words.tagging import NounPhrase, Tagged, Word
from wholegrain.text.words.text import Change, phrase_places

LONGEST = 2_000
"""Characters of a caption that texts are made from."""
MOST_CAPTIONS = 64
"""Captions of one record that are looked at; each is compared with all others."""
MOST = 6
"""Words that are tried in one place."""
_LONG_PREPOSITIONS = (
    "to the left of", "to the right of", "on the left of", "on the right of", "on top of", "in front of", "in back of", "next to", "out of",
    "away from", "off of", "outside of", "left of", "right of", "close to",
)  # fmt: skip


@dataclass(frozen=True)
class PictureWords:
    """What the captions of one picture say, this caption among them.

    Attributes:
        words: lower-case words and their lemmas, of all captions.
        texts: the captions, in lower case.
        others: the words of each of the other captions, in order.
        subjects: the nouns with which the other captions begin.
    """

    words: frozenset[str]
    texts: frozenset[str]
    others: tuple[tuple[str, ...], ...]
    subjects: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Source:
    """One caption and its picture's other ones.

    Attributes:
        tagged: the caption.
        picture: what the captions of its picture say.
        vocabulary: how often the collection uses each word; new texts are made of these words alone. ``None`` allows all.
    """

    tagged: Tagged
    picture: PictureWords
    vocabulary: Mapping[str, int] | None = None
    words: tuple[Word, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", self.tagged.words)

    @cached_property
    def low(self) -> list[str]:
        """The caption's words in lower case."""
        return [word.low for word in self.words]

    @cached_property
    def lemma_counts(self) -> Counter[str]:
        """How often each lemma is said in the caption."""
        return Counter(word.lemma for word in self.words)

    @cached_property
    def phrase_at(self) -> dict[int, NounPhrase]:
        """First word -> noun phrase."""
        return {phrase.start: phrase for phrase in self.tagged.phrases}

    @property
    def lexicon(self) -> Lexicon:
        """The word lists."""
        return lexicon()

    def known(self, word: str) -> bool:
        """Whether the collection uses the word, so that it does not mark false texts."""
        return self.vocabulary is None or all(part in self.vocabulary for part in word.split())

    def some(self, words: Iterable[str], draw: random.Random, form: Callable[[str], str] = str) -> list[str]:
        """A few of the words: those that the collection uses often come more often, so that what is common can come in as it goes out."""
        found = list(words)
        if len(found) <= MOST:
            return found
        if self.vocabulary is None:
            return draw.sample(found, MOST)
        counts = self.vocabulary
        order = {word: draw.random() ** (1 / (1 + counts.get(form(word).split()[0], 0))) for word in found}
        return sorted(found, key=lambda word: -order[word])[:MOST]

    def free_noun(self, word: str) -> bool:
        """Nobody says the thing of this picture, nor one that may be the same."""
        words = self.picture.words
        return not any(near in words or plural(near) in words for near in self.lexicon.near_noun(word))

    def free_verb(self, lemma: str) -> bool:
        """Nobody says the deed of this picture, nor one that may be the same."""
        return not any(near in self.picture.words for near in self.lexicon.near_verb(lemma))

    def free_phrase(self, phrase: str) -> bool:
        """The words do not stand side by side in any of the captions."""
        return not phrase_places(self.low, phrase) and not any(phrase_places(words, phrase) for words in self.picture.others)

    def governor(self, start: int) -> str:
        """The preposition (all its words) or the verb (its lemma) in front of a place; empty at the beginning of a clause."""
        if start == 0:
            return ""
        before = self.words[start - 1]
        if before.low == "and":  # "in a coat and a hat": the second thing is where the first one is
            first = next((phrase for phrase in self.tagged.phrases if phrase.head == start - 2), None)
            return self.governor(first.start) if first is not None else "and"
        if before.pos in ("ADP", "ADV", "ADJ", "NOUN", "PART"):
            for phrase in _LONG_PREPOSITIONS:
                length = phrase.count(" ") + 1
                if length <= start and " ".join(self.low[start - length : start]) == phrase:
                    return phrase
        return before.lemma if before.pos == "VERB" else before.low if before.pos in ("ADP", "CONJ", "AUX") else ""

    def head_noun(self, phrase: NounPhrase) -> Word:
        """The phrase's noun."""
        return self.words[phrase.head]

    def is_name(self, n: int) -> bool:
        """Whether a word has a capital that no beginning explains ("Red Bull")."""
        return n > 0 and self.words[n].text[:1].isupper() and self.words[n - 1].low not in (".", '"', "“")

    def is_compound(self, phrase: NounPhrase) -> bool:
        """Whether nouns stand before the head ("tennis ball"), or something after it that belongs to it."""
        before = self.words[phrase.head - 1] if phrase.head > phrase.start else None
        if before is not None and (before.pos in ("NOUN", "VERB", "PUNCT") or before.low.endswith(("'s", "ing", "hot"))):
            return True
        if phrase.start and self.words[phrase.start - 1].low in ("-", "hot"):
            return True
        if phrase.start and self.words[phrase.start - 1].pos == "VERB" and phrase.start > 1:
            # "a fishing rod": the word before is no verb of its own
            word, first = self.words[phrase.start - 1], self.words[phrase.start - 2]
            bare = self.words[phrase.start].pos == "NOUN"
            if bare and word.form in ("ing", "past") and first.pos in ("DET", "POSS", "ADJ", "NUM", "NOUN"):
                return first.pos != "NOUN" or word.form == "past"
        if phrase.head + 1 < len(self.words):
            after = self.words[phrase.head + 1]
            return after.pos in ("NOUN", "ADJ", "NUM") or after.low in ("-", "'s", "’s", "'") or after.form == "past"
        return False

    def low_text(self, places: Sequence[int]) -> str:
        """Some words in lower case, with spaces between them."""
        return " ".join(self.low[n] for n in places)

    def previous_verb(self, place: int) -> Word | None:
        """The nearest verb to the left of a place."""
        return next((word for word in reversed(self.words[:place]) if word.pos == "VERB"), None)

    def change(self, first: int, last: int, new: str) -> Change:
        """The words ``first`` to ``last`` exchanged for ``new``."""
        return self.words[first].start, self.words[last].end, new

    def swap(self, one: tuple[int, int], other: tuple[int, int]) -> list[Change]:
        """Two stretches of words (first and last) that change places; capitals stay where they were."""
        texts = [self.tagged.text[self.words[a].start : self.words[b].end] for a, b in (one, other)]
        first = texts[0] if one[0] or texts[0].startswith("I ") else texts[0][:1].lower() + texts[0][1:]
        return [self.change(*one, texts[1]), self.change(*other, first)]


def picture_words(tagged: Sequence[Tagged]) -> list[PictureWords]:
    """What is said of a picture, as each of its captions sees it."""
    words: set[str] = set()
    for caption in tagged:
        for word in caption.words:
            words.add(word.low)
            words.add(word.lemma)
    every, texts = frozenset(words), frozenset(caption.text.lower() for caption in tagged)
    lows = [tuple(word.low for word in caption.words) for caption in tagged]
    first = [frozenset(caption.words[phrase.head].low for phrase in caption.phrases[:1]) for caption in tagged]
    return [
        PictureWords(
            every,
            texts,
            tuple(low for m, low in enumerate(lows) if m != n),
            frozenset().union(*(nouns for m, nouns in enumerate(first) if m != n)),
        )
        for n in range(len(tagged))
    ]


def stream(*names: object) -> random.Random:
    """Random numbers that are a function of the names alone: the same whatever was drawn before, in any process."""
    return random.Random(int.from_bytes(blake2b("\x1f".join(map(str, names)).encode(), digest_size=8).digest()))
