"""Tokens of a caption with their places, and edits of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from wholegrain.enrich.words import ARTICLES, GROUP_OF, LINKS, singular

_TOKEN = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|\d+|[^\w\s]")
Edit = tuple[int, int, str, str]
"""Start and end in code points of the caption, what stood there, what stands there now."""


@dataclass(frozen=True)
class Token:
    """A word or mark: as written, in lower case, and from where to where."""

    text: str
    low: str
    start: int
    end: int

    @property
    def is_word(self) -> bool:
        """Letters, no mark and no digits."""
        return self.text[0].isalpha()


@dataclass(frozen=True)
class Edited:
    """A caption changed in stated places; ``kind`` says how."""

    kind: str
    text: str
    edits: tuple[Edit, ...]


@lru_cache(maxsize=1 << 12)
def tokens(text: str) -> tuple[Token, ...]:
    """Words, numbers and marks.

    Example:
        >>> [t.low for t in tokens("A dog's 2 t-shirts.")]
        ['a', "dog's", '2', 't-shirts', '.']
    """
    return tuple(Token(m.group(), m.group().lower(), m.start(), m.end()) for m in _TOKEN.finditer(text))


def edited(kind: str, text: str, changes: Sequence[tuple[int, int, str]]) -> Edited:
    """The text with every ``(start, end, new)`` put in; new words take the case of the old ones, articles follow their words."""
    found: list[Edit] = []
    for start, end, new in sorted(changes):
        if text[start : start + 1].isupper() and not (len(new) > 1 and new.isupper()):
            new = new[:1].upper() + new[1:]
        found.append(_with_article(text, start, end, new))
    out, last = [], 0
    for start, end, _, new in found:
        out += [text[last:start], new]
        last = end
    return Edited(kind, "".join(out) + text[last:], tuple(found))


def _with_article(text: str, start: int, end: int, new: str) -> Edit:
    """``a`` becomes ``an`` in front of a vowel, and the other way round."""
    before = re.search(r"\b(an?)\s+$", text[:start], re.IGNORECASE)
    if before is not None and new[:1].isalpha():
        article = before.group(1)
        right = (
            ("an" if new[0].lower() in "aeiou" else "a")
            if new.lower() not in ("uniform", "university", "hour")
            else article.lower()
        )
        if right != article.lower():
            right = right.capitalize() if article[0].isupper() else right
            start, new = before.start(1), right + text[before.end(1) : start] + new
    return start, end, text[start:end], new


def phrase_places(low: Sequence[str], phrase: str) -> list[tuple[int, int]]:
    """First and behind-last token of every place where the words of ``phrase`` stand."""
    words = phrase.split()
    if words[0] not in low:
        return []
    return [(n, n + len(words)) for n in range(len(low) - len(words) + 1) if list(low[n : n + len(words)]) == words]


def is_content(low: Sequence[str], place: int) -> bool:
    """Whether a word that is no link word stands there."""
    return 0 <= place < len(low) and low[place][0].isalpha() and low[place] not in LINKS


def noun_phrase(low: Sequence[str], place: int, qualifiers: frozenset[str]) -> int:
    """Where the phrase of the noun at ``place`` begins: its known qualifiers and its article."""
    start = place
    while start > 0 and low[start - 1] in qualifiers:
        start -= 1
    return start - (start > 0 and low[start - 1] in ARTICLES)


def known_noun(word: str) -> bool:
    """Whether the word, in any number, is a thing of the word list."""
    return singular(word) in GROUP_OF
