"""Negation without a give-away: ``a dog, not a cat, runs`` beside ``a cat, not a dog, runs``.

A false text with "not" in it, beside captions that never say "not", is known by that word alone: models of text alone reach 100%. So the
true side says it, too. :class:`~wholegrain.enrich.negatives.negated_captions.NegatedCaptionsStage` writes true captions of role ``negated``, each
with a thing, attribute, action, relation or number that is not there, and the negatives of kind ``negation_…`` belong to those captions and
exchange what is there and what is not: same words, same length.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from wholegrain.data.record import Caption
from wholegrain.text.words.text import Change

NEGATED = "negated"
"""The role of captions that say what is not there."""
NEGATIONS = ("negation_object", "negation_attribute", "negation_relation", "negation_action", "negation_count")
_NOT = re.compile(r", not (?P<missing>[^,.!?]+?)(?=\s*,|\s*[.!?]?\s*$)")
_ORIGIN = re.compile(r"(negation_[a-z]+) of (\S+?) \((\d+)/(\d+) words((?:, \S+>\S+)*)\);")


def origin(caption: Caption) -> tuple[str, str]:
    """Kind of a negated caption, and the id of the caption that it was made of; empty for other captions."""
    match = _ORIGIN.search(caption.source) if caption.role == NEGATED else None
    return (match.group(1), match.group(2)) if match else ("", "")


def origin_of(kind: str, caption: str, there: int, missing: int, follow: Sequence[tuple[str, str]] = ()) -> str:
    """What the source of a negated caption says of it: how many words can be exchanged, and what must follow them.

    Example:
        >>> origin_of("negation_count", "c1", 2, 2, [("runs", "run")])
        'negation_count of c1 (2/2 words, runs>run)'
    """
    return f"{kind} of {caption} ({there}/{missing} words{''.join(f', {old}>{new}' for old, new in follow)})"


def negation_edits(caption: Caption) -> Iterator[tuple[str, list[Change]]]:
    """What is there and what is not, exchanged."""
    found, match = _ORIGIN.search(caption.source), _NOT.search(caption.text)
    if found is None or match is None:
        return
    first = _start(caption.text[: match.start()], int(found.group(3)))
    end = match.end("missing")
    start = _start(caption.text[:end], int(found.group(4)))
    old = caption.text[first : match.start()]
    changes = [(first, match.start(), caption.text[start:end]), (start, end, old if first else old[:1].lower() + old[1:])]
    place = end
    for pair in found.group(5).split(", ")[1:]:
        was, _, will = pair.partition(">")
        follower = re.compile(rf"\b{re.escape(was)}\b").search(caption.text, place)
        if follower is None:
            return
        changes.append((*follower.span(), will))
        place = follower.end()
    yield found.group(1), changes


def _start(text: str, words: int) -> int:
    """Where the last words of a text begin."""
    place = len(text)
    for _ in range(words):
        place = max(text.rfind(" ", 0, place), -1) if place > 0 else -1
    return place + 1
