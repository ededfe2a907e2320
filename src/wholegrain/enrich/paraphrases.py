"""The same fact in other words, where word rules can be sure of it: two things exchanged around "and", a relation read from its other end,
a number as a digit, a synonym."""

from __future__ import annotations

from collections.abc import Sequence

from wholegrain.enrich.text import Edited, edited, is_content, known_noun, phrase_places, tokens
from wholegrain.enrich.words import ARTICLES, COLOUR_SET, CONVERSES, DIGITS, FORM_OF, LINKS, NUMBER_SET, SYNONYMS

KINDS = ("exchange_and", "exchange_colours", "converse", "number_form", "synonym")
_BEGINS = ARTICLES | NUMBER_SET | {"some", "several", "another"}


def paraphrases(text: str) -> list[Edited]:
    """At most one true rewording of each kind.

    Example:
        >>> [made.text for made in paraphrases("A dog is to the left of a cat.")]
        ['A cat is to the right of a dog.']
    """
    low = [token.low for token in tokens(text)]
    found = {
        "exchange_and": _exchange_and(text, low), "exchange_colours": _colours(text, low), "converse": _converse(text, low),
        "number_form": _number(text, low), "synonym": _synonym(text, low),
    }  # fmt: skip
    return [edited(kind, text, changes) for kind, changes in found.items() if changes]


Changes = list[tuple[int, int, str]]


def _exchange(text: str, first: tuple[int, int], second: tuple[int, int]) -> Changes:
    place = tokens(text)
    spans = [(place[a].start, place[b - 1].end) for a, b in (first, second)]
    one, other = (text[a:b] for a, b in spans)
    return [(*spans[0], other), (*spans[1], one if one.startswith("I ") else one[0].lower() + one[1:])]


def _phrase_end(low: Sequence[str], start: int, most: int = 4) -> int:
    """Behind the last word of "a red cup" that begins at ``start``; ``start`` itself where no such phrase stands."""
    if start >= len(low) or low[start] not in _BEGINS:
        return start
    end = start + 1
    while (
        end < len(low)
        and end - start <= most
        and is_content(low, end)
        and low[end] not in FORM_OF
        and not low[end].endswith("ing")
    ):
        end += 1
    return end if end > start + 1 else start


def _exchange_and(text: str, low: Sequence[str]) -> Changes:
    """Two phrases at the beginning, and behind them a verb or nothing: so nothing else hangs on one of the two alone."""
    middle = low.index("and") if "and" in low else 0
    if not middle or _phrase_end(low, 0) != middle:
        return []
    for end in range(middle + 3, min(len(low), middle + 5) + 1):
        rest = [word for word in low[end:] if word[0].isalpha()]
        hangs = rest and (rest[0] not in FORM_OF and rest[0] not in ("are", "play", "look"))
        if _phrase_end(low[:end], middle + 1) == end and not hangs and low[:middle] != low[middle + 1 : end]:
            return _exchange(text, (0, middle), (middle + 1, end))
    return []


def _colours(text: str, low: Sequence[str]) -> Changes:
    for n in range(len(low) - 3):
        if low[n] in COLOUR_SET and low[n + 1] == "and" and low[n + 2] in COLOUR_SET - {low[n]} and is_content(low, n + 3):
            return _exchange(text, (n, n + 1), (n + 2, n + 3))
    return []


def _converse(text: str, low: Sequence[str]) -> Changes:
    """Only of sentences that say nothing else: ``A [is] RELATION B``."""
    words, place = [word for word in low if word[0].isalpha()], tokens(text)
    for one, other in CONVERSES:
        for old, new in ((one, other), (other, one)):
            for start, end in phrase_places(words, old)[:1]:
                first = start - (start > 0 and words[start - 1] in ("is", "are"))
                whole = _phrase_end(words, 0) == first and _phrase_end(words, end) == len(words)
                plurals = start != first and (words[0] in NUMBER_SET) != (words[end] in NUMBER_SET)
                sure = start != first or (known_noun(words[first - 1]) and known_noun(words[-1]))
                if whole and sure and not plurals and list(low[: len(words)]) == words:
                    relation = (place[start].start, place[end - 1].end, new)
                    return [*_exchange(text, (0, first), (end, len(words))), relation]
    return []


def _number(text: str, low: Sequence[str]) -> Changes:
    for n, token in enumerate(tokens(text)):
        if n and low[n] in NUMBER_SET and is_content(low, n + 1) and low[n - 1] not in ("and", "or"):
            return [(token.start, token.end, DIGITS[low[n]])]
    return []


def _synonym(text: str, low: Sequence[str]) -> Changes:
    place = tokens(text)
    for one, other in SYNONYMS:
        for old, new in ((one, other), (other, one)):
            for start, end in phrase_places(low, old)[:1]:
                compound = old not in ("beside", "next to") and is_content(low, end) and low[end] not in LINKS and old in _THINGS
                if not compound:
                    return [(place[start].start, place[end - 1].end, new)]
    return []


_THINGS = frozenset(
    {"couch", "sofa", "bicycle", "bike", "street", "road", "kid", "child", "plane", "airplane", "car", "tv", "television"}
)
