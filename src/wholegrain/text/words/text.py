"""Tokens of a caption with their places, and edits of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from wholegrain.text.words.morphology import article

_TOKEN = re.compile(r"(?<=\s)['’]s\b|[^\W\d_]+(?:['’-][^\W\d_]+)*|\d+|[^\w\s]")
_ARTICLE = re.compile(r"\b(an?)(\s+)$", re.IGNORECASE)
Edit = tuple[int, int, str, str]
"""Start and end in code points of the caption, what stood there, what stands there now."""
Change = tuple[int, int, str]
"""Start, end and what is to stand there."""


@dataclass(frozen=True, slots=True)
class Token:
    """A word or mark: as written, in lower case, and from where to where."""

    text: str
    low: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Edited:
    """A caption changed in stated places; ``kind`` says how."""

    kind: str
    text: str
    edits: tuple[Edit, ...]


@lru_cache(maxsize=1 << 12)
def tokens(text: str) -> tuple[Token, ...]:
    """Words, numbers and marks; a possessive ``'s`` belongs to its word, or is one where a space parts them ("a dog 's tail").

    Example:
        >>> [t.low for t in tokens("A dog's 2 t-shirts.")]
        ['a', "dog's", '2', 't-shirts', '.']
    """
    return tuple(Token(m.group(), m.group().lower(), m.start(), m.end()) for m in _TOKEN.finditer(text))


def edited(kind: str, text: str, changes: Sequence[Change]) -> Edited:
    """The text with every ``(start, end, new)`` put in; new words take the capitals of a sentence's beginning, articles follow their words."""
    found: list[Edit] = []
    for start, end, new in sorted(changes):
        if text[start : start + 1].isupper() and _begins(text, start) and not (len(new) > 1 and new.isupper()):
            new = new[:1].upper() + new[1:]
        found.append(_with_article(text, start, end, new) if start < end else (start, end, text[start:end], new))
    return Edited(kind, apply(text, found), tuple(found))


def _begins(text: str, place: int) -> bool:
    """Whether a sentence begins there."""
    before = text[:place].rstrip(" \"'“”")
    return not before or before[-1] in ".!?"


def apply(text: str, edits: Sequence[Edit]) -> str:
    """The text with the edits made.

    Example:
        >>> apply("a red cup", [(2, 5, "red", "blue")])
        'a blue cup'
    """
    out, last = [], 0
    for start, end, _, new in edits:
        out += [text[last:start], new]
        last = end
    return "".join(out) + text[last:]


def _with_article(text: str, start: int, end: int, new: str) -> Edit:
    """``a`` becomes ``an`` in front of a vowel, and the other way round."""
    before = _ARTICLE.search(text, 0, start)
    if before is not None and new[:1].isalpha():
        old = before.group(1)
        right = article(new.split()[0])
        if right != old.lower():
            right = right.capitalize() if old[0].isupper() else right
            start, new = before.start(1), right + before.group(2) + new
    return start, end, text[start:end], new


def phrase_places(low: Sequence[str], phrase: str) -> list[tuple[int, int]]:
    """First and behind-last token of every place where the words of ``phrase`` stand."""
    words = phrase.split()
    if words[0] not in low:
        return []
    return [(n, n + len(words)) for n in range(len(low) - len(words) + 1) if list(low[n : n + len(words)]) == words]
