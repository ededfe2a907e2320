"""Another place or way: ``in front of a car`` -> ``behind a car``, ``down a hill`` -> ``up a hill``."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache

from wholegrain.text.words.lexicon import Relation, lexicon, word_set
from wholegrain.text.words.source import Source
from wholegrain.text.words.text import Change, phrase_places

_PHRASAL = word_set("relations_phrasal")
"""Directly in front of a preposition these make one meaning with it ("looks over", "dressed in")."""


def relations(source: Source, draw: random.Random) -> Iterator[tuple[str, list[Change]]]:
    """Prepositions exchanged within their pairs, where the noun behind them and the verb before them allow both."""
    found: dict[tuple[int, int], dict[str, None]] = {}
    taken: set[int] = set()
    for old, pairs in _by_length(source):
        for start, end in phrase_places(source.low, old):
            if taken & set(range(start, end)):
                continue
            taken |= set(range(start, end))
            for relation in pairs:
                if _allowed(source, relation, start, end):
                    new = relation.other if old in relation.one else relation.one
                    found.setdefault((start, end), {}).update(dict.fromkeys(new))
    for (start, end), words in found.items():
        old = " ".join(source.low[start:end])
        near = source.lexicon.relation_near.get(old, frozenset())
        free = [word for word in words if word not in near and word != old and source.known(word) and _free(source, word)]
        for new in source.some(free, draw):
            yield "relation", [source.change(start, end - 1, new)]


@cache
def _relations_of(first: str) -> dict[str, tuple[Relation, ...]]:
    """The prepositions that begin with a word, each with its pairs."""
    found: dict[str, tuple[Relation, ...]] = {}
    for relation in lexicon().relations:
        for phrase in (*relation.one, *(relation.other if relation.back else ())):
            if phrase.split()[0] == first:
                found[phrase] = (*found.get(phrase, ()), relation)
    return found


def _by_length(source: Source) -> list[tuple[str, tuple[Relation, ...]]]:
    found = {phrase: pairs for word in dict.fromkeys(source.low) for phrase, pairs in _relations_of(word).items()}
    return sorted(found.items(), key=lambda entry: -len(entry[0].split()))


def _free(source: Source, phrase: str) -> bool:
    return all(source.free_phrase(word) for word in (*source.lexicon.relation_near.get(phrase, ()), phrase))


def _allowed(source: Source, relation: Relation, start: int, end: int) -> bool:
    before = source.words[start - 1] if start else None
    if (
        before is None
        or before.pos in ("ADP", "CONJ", "PUNCT", "PART", "PRON")
        or (relation.nouns and source.words[end - 1].pos == "NOUN")
    ):
        return False
    if before.pos == "VERB" and before.lemma in _PHRASAL:
        return False
    if end < len(source.words) and source.words[end].low == "and":
        return False
    if not relation.nouns:
        return end == len(source.words) or source.words[end].pos == "PUNCT"
    phrase = source.phrase_at.get(end)
    if phrase is not None and source.head_noun(phrase).lemma in relation.never:
        return False
    if phrase is None or (
        "*" not in relation.nouns
        and source.head_noun(phrase).lemma not in relation.nouns
        and source.head_noun(phrase).low not in relation.nouns
    ):
        return False
    if (
        phrase.head + 1 < len(source.words)
        and source.words[phrase.head + 1].pos in ("NOUN", "VERB")
        and source.words[phrase.head + 1].form == "past"
    ):
        return False
    if phrase.head > end and source.words[phrase.head - 1].pos in ("NOUN", "VERB") and "*" not in relation.nouns:
        return False
    verb = source.previous_verb(start)
    if relation.verbs == "move":
        return verb is not None and verb.lemma in source.lexicon.move and start - source.words.index(verb) <= 4
    if relation.verbs == "rest":
        return (before.pos == "NOUN" and (verb is None or verb.lemma in source.lexicon.rest)) or (
            before.pos == "VERB" and before.lemma in source.lexicon.rest
        )
    return True
