"""Another thing of its kind: ``a dog on the grass`` -> ``a dog on the sand``."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache

from wholegrain.text.words.lexicon import Group, lexicon, word_set
from wholegrain.text.words.morphology import counted, plural
from wholegrain.text.words.source import Source
from wholegrain.text.words.tagging import NounPhrase
from wholegrain.text.words.text import Change

_ABOUT_PEOPLE = word_set("objects_about_people")
_SEXED = frozenset(["he", "she", "him", "his", "her", "himself", "herself"])
_HE = {"his": "her", "he": "she", "him": "her", "himself": "herself"}
_SHE = {"she": "he", "herself": "himself"}


def objects(source: Source, draw: random.Random) -> Iterator[tuple[str, list[Change]]]:
    """Nouns exchanged within their groups, in the same number."""
    for phrase in source.tagged.phrases:
        head = source.head_noun(phrase)
        yield from _of_game(source, phrase, draw)
        yield from _of_sport(source, phrase, draw)
        yield from _compounds(source, phrase, draw)
        if phrase.head + 1 < len(source.words) and source.low[phrase.head + 1] == "of":
            continue
        if source.is_compound(phrase) or sum(word.lemma == head.lemma for word in source.words) > 1:
            continue
        found = replacements(source, phrase)
        for new in source.some(found, draw, plural if head.form == "many" else str):
            pronouns = _pronouns(source, head.lemma, new)
            if pronouns is not None:
                many = plural(new) if head.form == "many" else new
                yield f"object_{found[new]}", [source.change(phrase.head, phrase.head, many), *pronouns]


def replacements(source: Source, phrase: NounPhrase) -> dict[str, str]:
    """The singular nouns that may stand in the place of a phrase's noun and make the caption false, each with its kind."""
    head, words = source.head_noun(phrase), source.lexicon
    before = source.governor(phrase.start)
    found: dict[str, str] = {}
    for group in words.groups_of.get(head.lemma, ()):
        if fits(source, phrase, group, before):
            for word in group.words:
                found.setdefault(word, group.kind)
    if _plain_scene(source, phrase):
        for word in _ANYBODY:
            found.setdefault(word, "being")
    swims = source.previous_verb(phrase.start)
    if swims is not None and swims.lemma in _WET and "place" in found.values():
        found = {word: kind for word, kind in found.items() if word in _waters()}
    if head.lemma in _BEINGS and phrase.head + 1 < len(source.words) and source.words[phrase.head + 1].pos in ("VERB", "PRON"):
        found = {word: kind for word, kind in found.items() if kind == "being"}  # "a dog wearing a collar" is nothing else
    near = words.near_noun(head.lemma)
    return {
        word: kind for word, kind in found.items()
        if word not in near and head.lemma not in words.near_noun(word) and source.known(word) and _number(word, head.form)
        and source.known(plural(word) if head.form == "many" else word)
        and source.free_noun(word) and _person(source, head.lemma, word) and countable(source, phrase, word)
    }  # fmt: skip


def strangers(source: Source, draw: random.Random) -> Iterator[list[Change]]:
    """Animals in the place of the people with whom a caption begins, whatever they do."""
    phrase = next(iter(source.tagged.phrases), None)
    if phrase is None or source.governor(phrase.start) not in ("", "of") or source.is_compound(phrase):
        return
    head, people = source.head_noun(phrase), source.lexicon.people
    if source.low[phrase.head + 1 : phrase.head + 2] in (["and"], ["of"]):
        return
    if head.lemma not in people["male"] | people["female"] | people["open"] and head.low not in people["open"]:
        return
    many = head.form == "many" or head.low == "people"
    for new in source.some([word for word in _ANIMALS if source.known(word) and source.free_noun(word)], draw):
        yield [source.change(phrase.head, phrase.head, plural(new) if many else new)]


_ANIMALS = ("dog", "cat", "horse", "cow", "monkey", "elephant", "bird", "bear")
_WET = frozenset({"swim", "float", "wade", "splash", "dive", "surf", "paddle", "kayak", "canoe", "row", "sail", "wakeboard"})


@cache
def _waters() -> frozenset[str]:
    return frozenset(next(group for group in lexicon().groups if group.name == "waters").words)


_ANYBODY = ("dog", "cat", "horse", "cow", "sheep", "bird", "duck", "man", "woman", "boy", "girl", "child")
_BEINGS = frozenset({*_ANYBODY, "person", "kid", "baby", "toddler", "adult", "puppy"})
_PLAIN_VERBS = word_set("objects_plain_verbs")
_PLAIN_GROUPS = word_set("objects_plain_groups")
_PLAIN_THINGS = word_set("objects_plain_things")
_PLAIN_MODIFIERS = frozenset({"other", "size", "wetness"})


def _plain_scene(source: Source, phrase: NounPhrase) -> bool:
    """Whether any being could do what the caption says: nothing in it is done, worn or had by people or animals alone."""
    if source.head_noun(phrase).lemma not in _BEINGS or source.governor(phrase.start) not in ("", "of", "and"):
        return False
    for word in source.words:
        if (word.pos == "VERB" and word.lemma not in _PLAIN_VERBS) or word.pos in ("POSS", "PRON"):
            return False
    for other in source.tagged.phrases:
        lemma = source.head_noun(other).lemma
        if (
            other != phrase
            and not any(group.name in _PLAIN_GROUPS for group in source.lexicon.groups_of.get(lemma, ()))
            and lemma not in _PLAIN_THINGS
        ):
            return False
    kinds = source.lexicon.modifiers
    return all(
        word.pos in ("DET", "NUM") or kinds.get(word.low, frozenset()) & _PLAIN_MODIFIERS
        for word in source.words[phrase.start : phrase.head]
    )


def _of_sport(source: Source, phrase: NounPhrase, draw: random.Random) -> Iterator[tuple[str, list[Change]]]:
    """``a dirt bike rider`` -> ``a skier``."""
    head, first = source.head_noun(phrase), phrase.head
    athletes = next(group for group in source.lexicon.groups if group.name == "athletes").words
    while first > phrase.start and source.words[first - 1].pos == "NOUN":
        first -= 1
    if head.lemma not in {*athletes, *_SPORTSMEN} or (first == phrase.head and head.lemma not in _SPORTSMEN):
        return
    old = [word.lemma for word in source.words[first : phrase.head + 1]]
    near = frozenset().union(*(source.lexicon.near_noun(word) for word in old))
    new = [word for word in athletes if word not in near and source.known(word) and source.free_noun(word)]
    ends = phrase.head + 1 == len(source.words) or source.words[phrase.head + 1].pos not in ("NOUN", "POSS")
    for word in source.some(new, draw) if ends else ():
        yield "object_being", [source.change(first, phrase.head, plural(word) if head.form == "many" else word)]


_SPORTSMEN = frozenset(
    {
        "rider",
        "racer",
        "player",
        "pitcher",
        "wakeboarder",
        "windsurfer",
        "snowmobiler",
        "athlete",
        "equestrian",
        "diver",
        "jogger",
    }
)
_PLAYED = word_set("objects_played")


def _of_game(source: Source, phrase: NounPhrase, draw: random.Random) -> Iterator[tuple[str, list[Change]]]:
    """``a soccer player`` -> ``a hockey player``."""
    place = phrase.head - 1
    games = next(group for group in source.lexicon.groups if group.name == "games").words
    if place < phrase.start or source.low[place] not in games[:8] or source.low[phrase.head] not in _PLAYED:
        return
    old = source.low[place]
    near = source.lexicon.near_noun(old)
    new = [
        word
        for word in games[:8]
        if word not in near and old not in source.lexicon.near_noun(word) and source.known(word) and source.free_noun(word)
    ]
    for word in source.some(new, draw):
        yield "object_thing", [source.change(place, place, word)]


def _compounds(source: Source, phrase: NounPhrase, draw: random.Random) -> Iterator[tuple[str, list[Change]]]:
    """``a race car`` -> ``a fire truck``."""
    head = source.head_noun(phrase)
    if phrase.head + 1 < len(source.words) and source.words[phrase.head + 1].pos in ("NOUN", "POSS"):
        return
    for length in (3, 2):
        first = phrase.head - length + 1
        name = " ".join([*source.low[max(first, phrase.start) : phrase.head], head.lemma])
        if first < phrase.start or name not in source.lexicon.compounds:
            continue
        kind, others = source.lexicon.compounds[name]
        for new in source.some([other for other in others if _unlike(source, head.lemma, other)], draw):
            *before, last = new.split()
            many = plural(last) if head.form == "many" else last
            yield f"object_{kind}", [source.change(first, phrase.head, " ".join([*before, many]))]
        return


def _unlike(source: Source, old: str, compound: str) -> bool:
    last = compound.split()[-1]
    return source.known(compound) and old not in source.lexicon.near_noun(last) and source.free_noun(last)


def _number(word: str, form: str) -> bool:
    return form == "one" or plural(word) != word


def fits(source: Source, phrase: NounPhrase, group: Group, before: str) -> bool:
    """Whether the words of a group may stand behind ``before`` and the phrase's adjectives."""
    if "*" not in group.after and before not in group.after:
        return False
    kinds = source.lexicon.modifiers
    for word in source.words[phrase.start : phrase.head]:
        if word.pos in ("DET", "POSS", "NUM", "CONJ", "PUNCT"):
            continue
        every = "*" in group.modifiers and word.pos == "ADJ" and word.low not in source.lexicon.one_kind
        if not (every or kinds.get(word.low, frozenset()) & group.modifiers):
            return False
    return True


def countable(source: Source, phrase: NounPhrase, new: str) -> bool:
    """``a field`` has no place for ``snow``, nor has ``through snow`` for ``field``."""
    first = source.words[phrase.start]
    if first.low in ("a", "an", "another", "one") or first.pos == "NUM":
        return counted(new)
    bare = first.pos not in ("DET", "POSS")
    return not (bare and not counted(source.head_noun(phrase).lemma) and counted(new))


def _person(source: Source, old: str, new: str) -> bool:
    """People are exchanged only where one person, or several of one sex, is spoken of in all captions."""
    people = source.lexicon.people
    male, female = new in people["male"], new in people["female"]
    if old in people["male"] | people["female"] and set(source.low) & people["gendered"]:
        return False
    if not (male or female):
        return True
    spoken_words = source.picture.words
    if source.picture.subjects & _ABOUT_PEOPLE or "couple" in source.low:
        return False
    return not spoken_words & (people["male"] if male else people["female"])


def _pronouns(source: Source, old: str, new: str) -> list[Change] | None:
    """Pronouns that must follow from he to she and back; ``None`` where it is open of whom they speak."""
    people = source.lexicon.people
    sexes = people["male"] | people["female"]
    if old not in sexes and new not in sexes:
        return []
    if old not in sexes or new not in sexes:  # from she to it
        return None if set(source.low) & _SEXED else []
    to_her, changes = new in people["female"], []
    if to_her == (old in people["female"]):
        return []
    spoken = {word.lemma for word in source.words if word.pos == "NOUN" and word.lemma in people["open"]}
    for n, word in enumerate(source.words):
        if word.low in ("her",) and not to_her:
            owns = n + 1 < len(source.words) and source.words[n + 1].pos in ("NOUN", "ADJ", "NUM")
            new_word = "his" if owns else "him"
        elif word.low in _HE and to_her:
            new_word = _HE[word.low]
        elif word.low in _SHE and not to_her:
            new_word = _SHE[word.low]
        else:
            continue
        if spoken:
            return None
        changes.append(source.change(n, n, new_word))
    return changes
