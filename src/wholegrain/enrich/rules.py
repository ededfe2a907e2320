"""False texts from true captions, by rules on their words: no model, no network, the same on every machine.

Each rule changes one fact that can be looked up in the picture: a colour, a number, a property, a direction, an action, a thing, or who
does it to whom. Three precautions:

* *false for this picture*: a word never comes in that another caption of the same picture uses, nor one that may mean the same
  (:data:`~wholegrain.enrich.words.NEAR`). A picture with a single caption is protected less.
* *no give-away*: new words are drawn as often as the captions themselves use them, so that rare words do not mark false texts, and a
  false text has as many words as the true one wherever grammar allows. What text alone still gives away is measured, not assumed.
* *left alone rather than guessed*: compounds ("dog park"), nouns in front of unknown words, and beings joined by "and" or "with" are
  passed over.

These are word rules: a share of what they make is awkward, and a small one is true. Read some before relying on a difference of a point.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from wholegrain.enrich.text import Edited, Token, edited, is_content, noun_phrase, phrase_places, tokens
from wholegrain.enrich.words import (
    ANIMATE,
    ARTICLES,
    COLOUR_SET,
    COLOURS,
    DIGITS,
    DIRECTIONS,
    FORM_OF,
    GROUP_OF,
    INSTEAD,
    LINKS,
    NUMBER_SET,
    NUMBERS,
    OBJECTS,
    OPPOSITES,
    SYMMETRIC,
    VERBS,
    near,
    plural,
    singular,
)

SOURCE = "word rules 1"
KINDS = (
    "replace_colour", "replace_number", "replace_property", "replace_direction", "replace_action", "replace_object", "swap_attribute",
    "swap_object",
)  # fmt: skip
_MOVES = frozenset(
    [
        "going",
        "go",
        "goes",
        "coming",
        "walk",
        "walks",
        "walking",
        "run",
        "runs",
        "running",
        "climb",
        "climbs",
        "climbing",
        "ride",
        "rides",
        "riding",
        "slides",
        "sliding",
        "slide",
        "skiing",
        "skis",
        "jumps",
        "jumping",
        "jump",
        "skating",
        "rolling",
        "moving",
        "riding",
        "driving",
        "drives",
        "flying",
        "flies",
    ]
)
_QUALIFIERS = COLOUR_SET | NUMBER_SET | frozenset(OPPOSITES) | frozenset({"dark", "light", "blond", "blonde", "another", "other"})
_FOLLOWS = (
    LINKS | frozenset(FORM_OF) | frozenset({"'s", "plays", "holds", "wears", "looks", "does", "has", "play", "look", "hold"})
)


@dataclass(frozen=True)
class Rules:
    """Rules with the frequencies of one collection of captions.

    Attributes:
        counts: how often each lower-case word comes in the captions; only things and colours that occur there are put in.

    Example:
        >>> rules = Rules.of(["a red ball", "a blue ball"])
        >>> [made.text for made in rules.negatives("a red ball", [])]
        ['a blue ball']
    """

    counts: Counter[str]

    @classmethod
    def of(cls, captions: Iterable[str]) -> Rules:
        """Counts the words of the captions."""
        counts: Counter[str] = Counter()
        for caption in captions:
            counts.update(token.low for token in tokens(caption))
        return cls(counts)

    def negatives(
        self, text: str, others: Sequence[str], seed: int | Sequence[int] = 0, kinds: Iterable[str] = KINDS
    ) -> list[Edited]:
        """At most one false text of each of the ``kinds``.

        Args:
            text: a true caption.
            others: the picture's other captions; what they say is not made a falsehood.
            seed: draws places and words.
        """
        rng = np.random.default_rng(seed)
        caption = _Caption(
            text, tokens(text), frozenset(t.low for other in (text, *others) for t in tokens(other)), tuple(others)
        )
        made = []
        for kind in kinds:
            found = list(_RULES[kind](self, caption, rng))
            if found:
                changes = found[int(rng.integers(len(found)))]
                made.append(edited(kind, text, changes))
        return [m for m in made if m.text.lower() != text.lower()]

    def draw(self, words: Sequence[str], rng: np.random.Generator, unseen: bool = False) -> str | None:
        """One of the words, as often as the captions use it; ``unseen`` allows words that they never use if they use none."""
        weight = np.array([float(self.counts[word]) for word in words])
        if not weight.sum():
            return words[int(rng.integers(len(words)))] if unseen and words else None
        return words[int(rng.choice(len(words), p=weight / weight.sum()))]


@dataclass(frozen=True)
class _Caption:
    text: str
    tokens: tuple[Token, ...]
    said: frozenset[str]
    others: tuple[str, ...]

    @cached_property
    def low(self) -> list[str]:
        return [token.low for token in self.tokens]

    def free(self, word: str) -> bool:
        """Nobody says the word of this picture, nor one that may mean the same."""
        return not any(w in self.said or plural(w) in self.said for w in near(word))

    def change(self, place: int, new: str) -> tuple[int, int, str]:
        token = self.tokens[place]
        return token.start, token.end, new

    def said_together(self, first: str, second: str) -> bool:
        return any(re.search(rf"\b{re.escape(first)}\b.{{0,12}}\b{re.escape(second)}\b", other.lower()) for other in self.others)


Change = list[tuple[int, int, str]]
Rule = Callable[[Rules, _Caption, np.random.Generator], Iterator[Change]]


def _one(
    rules: Rules, caption: _Caption, rng: np.random.Generator, place: int, words: Iterable[str], unseen: bool = False
) -> Iterator[Change]:
    old = caption.low[place]
    words = [word for word in words if word not in near(old) and caption.free(word)]
    new = rules.draw(words, rng, unseen) if words else None
    if new is not None:
        yield [caption.change(place, new)]


def _colour(rules: Rules, caption: _Caption, rng: np.random.Generator) -> Iterator[Change]:
    low = caption.low
    for n, word in enumerate(low):
        pair = any(0 <= m < len(low) and low[m] in ("and", "or", "-", ",") for m in (n - 1, n + 1))
        if word in COLOUR_SET and is_content(low, n + 1) and not pair:
            yield from _one(rules, caption, rng, n, COLOURS)


def _number(rules: Rules, caption: _Caption, rng: np.random.Generator) -> Iterator[Change]:
    for n, word in enumerate(caption.low):
        if word in NUMBER_SET and is_content(caption.low, n + 1):
            # far from each other are easier to tell apart, so neighbours are what is asked
            close = [w for w in NUMBERS if abs(NUMBERS.index(w) - NUMBERS.index(word)) <= 2 and DIGITS[w] not in caption.said]
            yield from _one(rules, caption, rng, n, close, unseen=True)


def _property(rules: Rules, caption: _Caption, rng: np.random.Generator) -> Iterator[Change]:
    for n, word in enumerate(caption.low):
        if word in OPPOSITES and is_content(caption.low, n + 1):
            yield from _one(rules, caption, rng, n, OPPOSITES[word], unseen=True)


def _direction(rules: Rules, caption: _Caption, rng: np.random.Generator) -> Iterator[Change]:
    low, taken = caption.low, set()
    for one, other in DIRECTIONS:
        for old, new in ((one, other), (other, one)):
            for start, end in phrase_places(low, old):
                if taken & set(range(start, end)) or not _is_direction(low, start, end, old):
                    continue
                taken |= set(range(start, end))
                if not any(phrase_places([t.low for t in tokens(text)], new) for text in caption.others):
                    yield [(caption.tokens[start].start, caption.tokens[end - 1].end, new)]


def _is_direction(low: Sequence[str], start: int, end: int, phrase: str) -> bool:
    followed = end < len(low) and (
        low[end] in ARTICLES or low[end] in ("his", "her", "their", "its", "another") or is_content(low, end)
    )
    before = low[start - 1] if start else ""
    if phrase in ("up", "down"):
        return before in _MOVES and end < len(low) and low[end] in ARTICLES
    if phrase in ("over", "off", "under", "inside", "outside", "above", "below", "behind"):
        return (
            followed
            and before not in ("all", "and", "from", "take", "takes", "taking", "show", "showing")
            and low[end] in ARTICLES
        )
    return followed or phrase in ("on the left", "on the right")


def _action(rules: Rules, caption: _Caption, rng: np.random.Generator) -> Iterator[Change]:
    low = caption.low
    for n, word in enumerate(low):
        base, form = FORM_OF.get(word, ("", 0))
        before = low[n - 1] if n else ""
        noun = (
            before in ARTICLES
            or before in COLOUR_SET
            or before in OPPOSITES
            or before in ("to", "his", "her", "their", "and", "on", "in", "of")
        )
        if base not in INSTEAD or noun or (is_content(low, n + 1) and singular(low[n + 1]) not in GROUP_OF):
            continue
        new = [VERBS[other][form] for other in INSTEAD[base] if not any(f in caption.said for f in VERBS[other])]
        yield from _one(rules, caption, rng, n, new, unseen=True)


def _object(rules: Rules, caption: _Caption, rng: np.random.Generator) -> Iterator[Change]:
    low = caption.low
    for n, word in enumerate(low):
        one = singular(word)
        group = GROUP_OF.get(one)
        compound = n > 0 and (singular(low[n - 1]) in GROUP_OF or low[n - 1] in ("hot", "hula", "fire", "remote", "'s", "-"))
        following = n + 1 < len(low) and low[n + 1][0].isalpha() and low[n + 1] not in _FOLLOWS and not low[n + 1].endswith("ing")
        if group is None or compound or following:
            continue
        shape = (lambda w: w) if one == word else plural
        yield from _one(rules, caption, rng, n, [shape(w) for w in OBJECTS[group] if w not in near(one) and caption.free(w)])


def _swap_attribute(rules: Rules, caption: _Caption, rng: np.random.Generator) -> Iterator[Change]:
    low = caption.low
    for words in (COLOUR_SET, frozenset(OPPOSITES)):
        places = [n for n, word in enumerate(low) if word in words and is_content(low, n + 1) and low[n + 1] not in words]
        places = [n for n in places if low[n - 1] not in ("and", "or", ",", "-") or low[n - 2] not in words]
        for a in places:
            for b in places:
                first, second = (low[a], low[a + 1]), (low[b], low[b + 1])
                same_scale = words is COLOUR_SET or second[0] in OPPOSITES[first[0]]
                if b <= a or first[0] in near(second[0]) or not same_scale or singular(first[1]) in near(singular(second[1])):
                    continue
                if not caption.said_together(second[0], first[1]) and not caption.said_together(first[0], second[1]):
                    yield [caption.change(a, second[0]), caption.change(b, first[0])]


def _swap_object(rules: Rules, caption: _Caption, rng: np.random.Generator) -> Iterator[Change]:
    low = caption.low
    places = [n for n, word in enumerate(low) if singular(word) in ANIMATE and low[n - 1 : n] != ["'s"]]
    if len(places) != 2:
        return
    a, b = places
    starts = [noun_phrase(low, n, _QUALIFIERS) for n in places]
    between = low[a + 1 : starts[1]]
    number = [
        word != singular(word) or low[s] in NUMBER_SET for word, s in ((low[n], s) for n, s in zip(places, starts, strict=True))
    ]
    ends = [b + 1 < len(low) and is_content(low, b + 1) and not low[b + 1].endswith("ing")]
    doing = any(
        word in FORM_OF or word.endswith("ing") or (word.endswith("s") and is_content(between, m))
        for m, word in enumerate(between)
    )
    whole = all(s == 0 or low[s] in ARTICLES or not is_content(low, s - 1) or low[s - 1].endswith("ing") for s in starts)
    if (
        not whole
        or low[a] == low[b]
        or number[0] != number[1]
        or not doing
        or any(ends)
        or any(word in SYMMETRIC for word in between)
    ):
        return
    spans = [(caption.tokens[s].start, caption.tokens[n].end) for s, n in zip(starts, places, strict=True)]
    one, other = (caption.text[x:y] for x, y in spans)
    yield [(*spans[0], other), (*spans[1], one[0].lower() + one[1:])]


_RULES: dict[str, Rule] = dict(
    zip(KINDS, (_colour, _number, _property, _direction, _action, _object, _swap_attribute, _swap_object), strict=True)
)
