"""Negation without a give-away: ``a dog, not a cat, runs`` beside ``a cat, not a dog, runs``.

A false text with "not" in it, beside captions that never say "not", is known by that word alone: models of text alone reach 100%. So the
true side says it, too. :class:`~wholegrain.enrich.negated_captions.NegatedCaptionsStage` writes true captions of role ``negated``, each
with a thing, attribute, action, relation or number that is not there, and the negatives of kind ``negation_…`` belong to those captions and
exchange what is there and what is not: same words, same length.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from wholegrain.data.record import Caption
from wholegrain.enrich.source import Source
from wholegrain.enrich.text import Change

NEGATED = "negated"
"""The role of captions that say what is not there."""
NEGATIONS = ("negation_object", "negation_attribute", "negation_relation", "negation_action", "negation_count")
_NOT = re.compile(r", not (?P<missing>[^,.!?]+?)(?=,|\s*[.!?]?\s*$)")
_KIND = re.compile(r"(negation_[a-z]+) of (\S+?);")


def origin(caption: Caption) -> tuple[str, str]:
    """Kind of a negated caption, and the id of the caption that it was made of; empty for other captions."""
    match = _KIND.search(caption.source) if caption.role == NEGATED else None
    return (match.group(1), match.group(2)) if match else ("", "")


def negation_edits(caption: Caption, source: Source) -> Iterator[tuple[str, list[Change]]]:
    """What is there and what is not, exchanged."""
    kind, match = origin(caption)[0], _NOT.search(caption.text)
    if not kind or match is None:
        return
    start, end = match.span("missing")
    there = caption.text[: match.start()]
    words = len(match.group("missing").split()) if kind != "negation_object" else 1
    if kind == "negation_relation":
        phrases = {p for relation in source.lexicon.relations for p in (*relation.one, *relation.other)}
        fitting = [p for p in phrases if there.lower().endswith(p)]
        words = len(max(fitting, key=len).split()) if fitting else 1
    if kind == "negation_object":
        start = end - len(match.group("missing").split()[-1])
    first = _start(there, words)
    old = there[first:]
    yield kind, [(first, match.start(), caption.text[start:end]), (start, end, old if first else old[:1].lower() + old[1:])]


def _start(text: str, words: int) -> int:
    """Where the last words of a text begin."""
    place = len(text)
    for _ in range(words):
        place = max(text.rfind(" ", 0, place), -1) if place > 0 else -1
    return place + 1
