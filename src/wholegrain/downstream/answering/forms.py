"""The forms of questions that a scene can be asked, and their true answers.

A *form* gives candidates: the words of a question, its answer, and the form's wordings. The same question (:attr:`Candidate.asked`) is put to many
pictures, whose answers differ; :mod:`~wholegrain.downstream.answering.balance` takes as many of each answer. So the forms name things by what many
pictures have (a colour, a size, "the other thing"), and by a noun where that leaves enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from wholegrain.data.scenes.captions import plural
from wholegrain.data.scenes.world import COLOURS, FILLS, SIZES, pick
from wholegrain.downstream.answering.scene_facts import FoundThing, SceneFacts, clear_relation

KINDS = ("exists", "colour", "relation", "count", "compare")
ABSENT = 3
"""How many nouns that are not there a picture is asked for."""

YES_NO = {True: "yes", False: "no"}


@dataclass(frozen=True)
class Candidate:
    """A question that may be put to a picture.

    Attributes:
        kind: one of :data:`KINDS`.
        form: within the kind.
        words: what is put into a wording, in order.
        answer: the true one.
        least: how many different answers the question must have among all pictures.
    """

    kind: str
    form: str
    words: tuple[str, ...]
    answer: str
    least: int = 2

    @property
    def asked(self) -> tuple[str, str, tuple[str, ...]]:
        """What is asked, whatever the wording."""
        return self.kind, self.form, self.words


WORDINGS: dict[tuple[str, str], tuple[str, ...]] = {
    ("exists", "noun"): ("is there {0} ?", "does the picture show {0} ?", "can you see {0} ?"),
    ("exists", "colour"): ("is there {0} thing ?", "is anything {1} ?", "can you see {0} thing ?"),
    ("exists", "both"): ("is there {0} ?", "does the picture show {0} ?", "can you see {0} ?"),
    ("colour", "of"): ("what colour is the {0} ?", "which colour has the {0} ?", "the {0} is of which colour ?"),
    ("relation", "of"): ("where is the {0} as seen from the {1} ?", "the {0} is on which side of the {1} ?"),
    ("count", "all"): ("how many things are there ?", "how many things does the picture show ?", "what is the number of things ?"),
    ("count", "of"): ("how many {0} are there ?", "how many {0} does the picture show ?", "what is the number of {0} ?"),
    ("compare", "larger"): ("which is larger , the {0} or the {1} ?", "which is the larger one , the {0} or the {1} ?"),
    ("compare", "more"): ("are there more {0} than {1} ?", "does the picture show more {0} than {1} ?"),
    ("compare", "same"): ("do the two things have the same {0} ?", "is the {0} of both things the same ?"),
}
"""(kind, form) -> wordings."""


def an(words: str) -> str:
    """With its indefinite article."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def candidates(facts: SceneFacts, nouns: Sequence[str], random: np.random.Generator) -> Iterator[Candidate]:
    """All that a picture may be asked; ``random`` chooses what it is asked for that is not there.

    Args:
        nouns: of the world, in a fixed order.
    """
    yield from _exists(facts, nouns, random)
    yield from _colour(facts)
    yield from _relation(facts)
    yield from _count(facts, nouns, random)
    yield from _compare(facts, random)


def _exists(facts: SceneFacts, nouns: Sequence[str], random: np.random.Generator) -> Iterator[Candidate]:
    here = {thing.noun for thing in facts.things}
    for noun in here_first(facts, nouns, random):
        yield Candidate("exists", "noun", (an(noun),), YES_NO[noun in here])
    colours = {thing.colour for thing in facts.things}
    missing = [colour for colour in COLOURS if colour not in colours]
    for colour in (*sorted(colours), *(pick(random, missing) for _ in colours)):
        yield Candidate("exists", "colour", (an(colour), colour), YES_NO[colour in colours])
    for thing in facts.things:  # asked in another colour, the noun is there all the same
        others = [colour for colour in COLOURS if not facts.with_(noun=thing.noun, colour=colour)]
        for colour, true in ((thing.colour, True), *((other, False) for other in others)):
            yield Candidate("exists", "both", (an(f"{colour} {thing.noun}"),), YES_NO[true])


def here_first(facts: SceneFacts, nouns: Sequence[str], random: np.random.Generator) -> list[str]:
    """The nouns that are there, and some that are not."""
    here = list(dict.fromkeys(thing.noun for thing in facts.things))
    missing = [noun for noun in nouns if noun not in here]
    return here + [missing[i] for i in random.permutation(len(missing))[:ABSENT].tolist()]


def _names(facts: SceneFacts, thing: FoundThing) -> Iterator[tuple[str, str]]:
    """What a thing may be called, if nothing else is called so: (attribute, name)."""
    if facts.count(noun=thing.noun) == 1:
        yield "noun", thing.noun
    for attribute in ("colour", "fill", "size"):
        value = getattr(thing, attribute)
        if facts.count(**{attribute: value}) == 1:
            yield attribute, f"{value} thing"


def _colour(facts: SceneFacts) -> Iterator[Candidate]:
    for thing in facts.things:
        for attribute, name in _names(facts, thing):
            if attribute != "colour":
                yield Candidate("colour", "of", (name,), thing.colour, least=4)


def _relation(facts: SceneFacts) -> Iterator[Candidate]:
    two = facts.total == 2
    for a, b in permutations(facts.things, 2):
        side = clear_relation(a, b)
        if side is None:
            continue
        others = dict(_names(facts, b))
        for attribute, name in _names(facts, a):
            if attribute != "noun" and attribute in others:
                yield Candidate("relation", "of", (name, others[attribute]), side, least=4)
            if two:
                yield Candidate("relation", "of", (name, "other thing"), side, least=4)


def _count(facts: SceneFacts, nouns: Sequence[str], random: np.random.Generator) -> Iterator[Candidate]:
    yield Candidate("count", "all", (), str(facts.total), least=3)
    for noun in here_first(facts, nouns, random):
        yield Candidate("count", "of", (plural(noun),), str(facts.count(noun=noun)), least=3)
    for attribute, values in (("colour", COLOURS), ("fill", FILLS), ("size", SIZES)):
        for value in values:
            yield Candidate("count", "of", (f"{value} things",), str(facts.count(**{attribute: value})), least=3)


def _compare(facts: SceneFacts, random: np.random.Generator) -> Iterator[Candidate]:
    names = [(thing, dict(_names(facts, thing))) for thing in facts.things]
    for (a, a_names), (b, b_names) in permutations(names, 2):
        for attribute in ("colour", "fill"):
            if a.size != b.size and attribute in a_names and attribute in b_names:
                larger = a if a.size == "large" else b
                yield Candidate("compare", "larger", (a_names[attribute], b_names[attribute]), getattr(larger, attribute))
    for attribute, values in (("colour", list(COLOURS)), ("fill", list(FILLS)), ("size", list(SIZES))):
        here = sorted({getattr(thing, attribute) for thing in facts.things})
        for a in here:
            b = pick(random, [value for value in values if value != a])
            more = facts.count(**{attribute: a}) - facts.count(**{attribute: b})
            for one, other, much in ((a, b, more), (b, a, -more)):
                yield Candidate("compare", "more", (f"{one} things", f"{other} things"), YES_NO[much > 0])
    if facts.total == 2:
        first, second = (facts.things * 2)[:2]
        for attribute in ("colour", "fill", "size"):
            alike = getattr(first, attribute) == getattr(second, attribute)
            yield Candidate("compare", "same", ({"fill": "pattern"}.get(attribute, attribute),), YES_NO[alike])
