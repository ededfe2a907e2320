"""Typed word lists as data: what can stand in a word's place and makes a caption false, and what may mean the same.

The files beside this one are made to be read and added to: ``nouns.toml`` (things), ``attributes.toml`` (scales of adjectives),
``relations.toml`` (prepositions), ``verbs.toml`` (actions in frames).
"""

from __future__ import annotations

import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TypeVar

Thing = TypeVar("Thing")
Near = Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Group:
    """Things of one kind.

    Attributes:
        name: of the group.
        kind: ``object_KIND`` is what its false texts are called.
        words: singular forms, or forms that have no singular ("jeans").
        after: prepositions and base forms of verbs behind which they may be exchanged; ``*`` is everywhere.
        modifiers: kinds of adjectives that may stand before them.
    """

    name: str
    kind: str
    words: tuple[str, ...]
    after: frozenset[str]
    modifiers: frozenset[str]


@dataclass(frozen=True)
class Scale:
    """Adjectives that exclude each other, in cells of such that do not.

    Attributes:
        name, kind: ``attribute_KIND`` is what its false texts are called.
        cells: sets of words, the usual one first.
        nouns: what it is said of; ``*`` is anything.
        never: what it is not said of.
    """

    name: str
    kind: str
    cells: tuple[tuple[str, ...], ...]
    nouns: frozenset[str]
    never: frozenset[str]


@dataclass(frozen=True)
class Relation:
    """Prepositions that exclude each other.

    Attributes:
        one, other: either side.
        nouns: what may stand behind; ``*`` is anything, empty is nothing: the end of the clause.
        verbs: ``move``, ``rest`` or empty: what must stand before.
        back: whether ``other`` gives way to ``one``, too.
        never: nouns that may not stand behind.
    """

    one: tuple[str, ...]
    other: tuple[str, ...]
    nouns: frozenset[str]
    verbs: str
    back: bool = True
    never: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Frame:
    """Actions that exclude each other where something of a kind follows.

    Attributes:
        verbs: base forms that may be exchanged.
        new: base forms that may come in.
        next: prepositions, ``.`` (the clause ends) or ``noun``.
        nouns: the nouns that may follow; ``*`` is any.
    """

    verbs: tuple[str, ...]
    new: tuple[str, ...]
    next: frozenset[str]
    nouns: frozenset[str]


@dataclass(frozen=True)
class Lexicon:
    """All word lists.

    Attributes:
        groups, scales, relations, frames: the lists.
        compounds: nouns of several words -> their kind, and those that may stand in their place.
        noun_near, verb_near, relation_near: word -> words that may be said of the same thing, itself included.
        people: ``male``, ``female``, ``open``, ``gendered`` -> words.
        modifiers: adjective -> its kinds.
        states: verbs that say no deed, which the frame of any verb (``*``) leaves alone.
        move, rest: verbs of movement and of rest.
        synonyms: pairs that mean the same.
        one_kind: adjectives of one sex, breed or make.
        colour_near: a colour and what it may be taken for, in one text each.
        converses: prepositions of which one says from the other end what the other one says.
    """

    groups: tuple[Group, ...]
    scales: tuple[Scale, ...]
    relations: tuple[Relation, ...]
    frames: tuple[Frame, ...]
    compounds: Mapping[str, tuple[str, tuple[str, ...]]]
    noun_near: Near
    verb_near: Near
    relation_near: Near
    people: Mapping[str, frozenset[str]]
    modifiers: Mapping[str, frozenset[str]]
    move: frozenset[str]
    rest: frozenset[str]
    synonyms: tuple[tuple[str, str], ...]
    converses: tuple[tuple[str, str], ...]
    one_kind: frozenset[str]
    colour_near: tuple[str, ...]
    groups_of: Mapping[str, tuple[Group, ...]]
    scales_of: Mapping[str, tuple[Scale, ...]]
    frames_of: Mapping[str, tuple[Frame, ...]]
    states: frozenset[str]

    @property
    def nouns(self) -> frozenset[str]:
        """Every thing that some group names."""
        return frozenset(self.groups_of)

    def near_noun(self, word: str) -> frozenset[str]:
        """The noun and all that may be said of the same thing.

        Example:
            >>> sorted(lexicon().near_noun("sofa"))[:2]
            ['armchair', 'bench']
        """
        return self.noun_near.get(word, frozenset((word,)))

    def near_verb(self, word: str) -> frozenset[str]:
        """The verb and all that may be said of the same deed."""
        return self.verb_near.get(word, frozenset((word,)))


def _split(words: str | Sequence[str]) -> tuple[str, ...]:
    return tuple(words.split()) if isinstance(words, str) else tuple(words)


def _near(sets: Iterable[str]) -> dict[str, frozenset[str]]:
    found: defaultdict[str, set[str]] = defaultdict(set)
    for entry in sets:
        first, star, rest = entry.partition(":")
        words = [word.replace("_", " ") for word in (rest if star else entry).split()]
        if star:  # the first word is near all others, and they are not near each other
            for word in words:
                found[first].update((first, word))
                found[word].update((first, word))
            continue
        for word in words:
            found[word].update(words)
    return {word: frozenset(others) for word, others in found.items()}


def _with_each(words: Mapping[str, str]) -> list[str]:
    """A pair for every posture and activity: one may be said of whoever does the other."""
    return [f"{posture} {deed}" for posture in words["posture"].split() for deed in words["activity"].split()]


def _index(things: Iterable[Thing], words_of: Callable[[Thing], Iterable[str]]) -> dict[str, tuple[Thing, ...]]:
    found: defaultdict[str, list[Thing]] = defaultdict(list)
    for thing in things:
        for word in words_of(thing):
            found[word].append(thing)
    return {word: tuple(dict.fromkeys(entries)) for word, entries in found.items()}


def _with_groups(names: str | Sequence[str], groups: Mapping[str, Group]) -> frozenset[str]:
    words: list[str] = []
    for name in _split(names):
        words += groups[name].words if name in groups else (name,)
    return frozenset(words)


@cache
def _word_sets() -> dict[str, frozenset[str]]:
    read = tomllib.loads((files(__name__) / "words.toml").read_text(encoding="utf-8"))
    return {name: frozenset(words.split()) for name, words in read.items()}


def word_set(name: str) -> frozenset[str]:
    """A set of ``words.toml`` by its name.

    Example:
        >>> "the" in word_set("tagging_determiners")
        True
    """
    return _word_sets()[name]


@cache
def lexicon() -> Lexicon:
    """The word lists of this version, read once."""
    folder = files(__name__)
    nouns, attributes, relations, verbs = (
        tomllib.loads((folder / f"{name}.toml").read_text(encoding="utf-8"))
        for name in ("nouns", "attributes", "relations", "verbs")
    )
    groups = {
        name: Group(name, entry["kind"], _split(entry["words"]), frozenset(entry["after"]), frozenset(entry["modifiers"]))
        for name, entry in nouns["groups"].items()
    }
    scales = tuple(_scale(**entry) for entry in attributes["scales"])
    frames = tuple(_frame(groups, **entry) for entry in verbs["frames"])
    return Lexicon(
        groups=tuple(groups.values()),
        scales=scales,
        relations=tuple(_relation(groups, **entry) for entry in relations["pairs"]),
        frames=frames,
        compounds=_compounds(nouns["compounds"]),
        noun_near=_near(nouns["words"]["near"]),
        verb_near=_near([*verbs["words"]["near"], verbs["words"]["activity"], *_with_each(verbs["words"])]),
        relation_near=_near(relations["near"]["sets"]),
        people={name: frozenset(words.split()) for name, words in nouns["people"].items()},
        modifiers=_modifiers(attributes["modifiers"], scales),
        move=frozenset(verbs["words"]["move"].split()),
        rest=frozenset(verbs["words"]["rest"].split()),
        synonyms=_pairs(nouns["words"]["synonyms"]),
        converses=_pairs(relations["near"]["converses"]),
        one_kind=frozenset(nouns["modifiers"]["never"].split()),
        colour_near=tuple(attributes["near"]["colours"]),
        groups_of=_index(groups.values(), lambda group: group.words),
        scales_of=_index(scales, lambda scale: [word for cell in scale.cells for word in cell]),
        frames_of=_index(frames, lambda frame: frame.verbs),
        states=frozenset(verbs["words"]["states"].split()),
    )


def _scale(name: str, kind: str, cells: Sequence[str], nouns: Sequence[str], never: str) -> Scale:
    return Scale(name, kind, tuple(_split(cell) for cell in cells), frozenset(nouns), frozenset(never.split()))


def _relation(
    groups: Mapping[str, Group], one: Sequence[str], other: Sequence[str], nouns: str, verbs: str = "", back: bool = True, never: str = ""
) -> Relation:
    return Relation(tuple(one), tuple(other), _with_groups(nouns, groups), verbs, back, frozenset(never.split()))


def _frame(groups: Mapping[str, Group], verbs: str, next: Sequence[str], nouns: str, new: str | None = None) -> Frame:
    return Frame(_split(verbs), _split(verbs if new is None else new), frozenset(next), _with_groups(nouns, groups))


def _modifiers(kinds: Mapping[str, str], scales: Iterable[Scale]) -> dict[str, frozenset[str]]:
    """Adjective -> its kinds, the names of its scales among them."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for kind, words in kinds.items():
        for word in words.split():
            found[word].add(kind)
    for scale in scales:
        for cell in scale.cells:
            for word in cell:
                found[word].update((scale.kind, scale.name))
    return {word: frozenset(kinds) for word, kinds in found.items()}


def _compounds(entries: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, tuple[str, ...]]]:
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for kind, sets in entries.items():
        for words in sets:
            joined = tuple(word.replace("_", " ") for word in words.split())
            found.update({word: (kind, tuple(other for other in joined if other.split()[-1] != word.split()[-1])) for word in joined})
    return found


def _pairs(entries: Sequence[str]) -> tuple[tuple[str, str], ...]:
    return tuple((a.replace("_", " "), b.replace("_", " ")) for a, b in (entry.split() for entry in entries))
