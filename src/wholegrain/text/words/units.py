"""The part of a caption that a false version of it changes, as a text of its own: an entity, or two and what is between them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

from wholegrain.text.words.tagging import BuiltinTagger, Tagged

Edit = tuple[int, int, str, str]
"""Start and end in code points of the caption, what stands there, and what stands there in the false text."""


def unit_and_foil(caption: str, edits: Sequence[Edit]) -> tuple[str, str] | None:
    """The shortest stretch of the caption, with whole noun phrases at both ends, that holds all edits; and the same with the edits made.

    A changed word within a noun phrase gives that phrase, a changed relation the phrases around it. ``None`` without edits, or where they do
    not fit the caption. A last full stop is no part of either.

    Example:
        >>> unit_and_foil("There is a red cup left of a blue plate.", [(11, 14, "red", "green")])
        ('a red cup', 'a green cup')
        >>> unit_and_foil("There is a red cup left of a blue plate.", [(19, 26, "left of", "right of")])
        ('a red cup left of a blue plate', 'a red cup right of a blue plate')
    """
    ordered = sorted(edits)
    if not ordered or any(caption[start:end] != old for start, end, old, _ in ordered):
        return None
    if any(this[1] > following[0] for this, following in pairwise(ordered)):
        return None
    first, last = ordered[0][0], ordered[-1][1]
    spans = _spans(caption)
    start = max((s for s, _ in spans if s <= first), default=first)
    end = min((e for s, e in spans if e >= last and (e > first or s >= last)), default=last)
    end = max(end, last)
    foil, place = "", start
    for at, until, _, new in ordered:
        foil, place = foil + caption[place:at] + new, until
    unit, foil = (text.strip().rstrip(".,;:!?").rstrip() for text in (caption[start:end], foil + caption[place:end]))
    return (unit, foil) if unit and foil and unit != foil else None


@lru_cache(maxsize=2**14)
def _spans(caption: str) -> tuple[tuple[int, int], ...]:
    """Start and end of every noun phrase, in code points, from left to right."""
    tagged: Tagged = BuiltinTagger().tag([caption])[0]
    return tuple((tagged.words[phrase.start].start, tagged.words[phrase.head].end) for phrase in tagged.phrases)
