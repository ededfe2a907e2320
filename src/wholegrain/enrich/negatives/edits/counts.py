"""Another number, with nouns and verbs that agree: ``a dog runs`` -> ``two dogs run``, ``two dogs run`` -> ``three dogs run``.

Numbers are read as exact: of a picture of three dogs, "two dogs" is false, and so is "one dog"; "a dog" is true of both and is never put in.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from wholegrain.text.words.lexicon import word_set
from wholegrain.text.words.morphology import counted, plural, verb_forms
from wholegrain.text.words.source import Source
from wholegrain.text.words.tagging import NUMBER_OF, NUMBERS, NounPhrase, Word
from wholegrain.text.words.text import Change

_TO_MANY = {"is": "are", "was": "were", "has": "have", "does": "do"}
_TO_ONE = {many: one for one, many in _TO_MANY.items()}
_FIXED = word_set("counts_fixed")
"""Words that speak of a number, or of whom a number was said; where they stand, the number of the subject is left alone."""
_OF_TWO = frozenset({"both", "another", "couple", "pair", "twins", "one", "each"})
_PLACED = frozenset({"in", "on", "at", "into", "onto", "inside", "from", "of", "along", "across", "down", "up"})
"""Behind these one thing is where somebody is: nobody sits on two chairs."""
_CROWDS = word_set("counts_crowds")
_NEVER = word_set("counts_never")


def counts(source: Source, draw: random.Random) -> Iterator[tuple[str, list[Change]]]:
    """Numbers exchanged, articles made numbers, groups counted."""
    for phrase in source.tagged.phrases:
        first, head = source.words[phrase.start], source.head_noun(phrase)
        if phrase.head == phrase.start or _possessed(source, phrase):
            continue
        if first.low in NUMBER_OF:
            yield from _numbers(source, phrase, NUMBER_OF[first.low])
        elif first.low in ("a", "an") and head.form == "one" and counted(head.lemma) and plural(head.lemma) != head.lemma:
            yield from _several(source, phrase)
    yield from _group(source)


def _possessed(source: Source, phrase: NounPhrase) -> bool:
    return source.head_noun(phrase).low.endswith("'s") or (
        phrase.head + 1 < len(source.words) and source.words[phrase.head + 1].low in ("'s", "’s", "of", "-", "'")
    )


def _free(source: Source, number: int) -> bool:
    return not source.picture.words & {NUMBERS[number - 1], str(number)} and source.known(NUMBERS[number - 1])


def _numbers(source: Source, phrase: NounPhrase, old: int) -> Iterator[tuple[str, list[Change]]]:
    head = source.head_noun(phrase)
    digits = source.low[phrase.start].isdigit()
    if head.form != "many" or old < 2 or old > 8 or digits:
        return
    specific = set(source.low) & {"both", "another", "couple", "pair", "twins", "others"} or (
        "other" in source.low and "each" not in source.low
    )
    if sum(word.pos == "NUM" for word in source.words) > 1:
        return
    near = {old - 2, old - 1, old + 1, old + 2} if old > 3 else {2, 3, 4, 5} - {old}
    if not specific and "one" not in source.low:
        for new in sorted(number for number in near if 2 <= number <= 7):
            if _free(source, new):
                yield "count", [source.change(phrase.start, phrase.start, NUMBERS[new - 1])]
    if old == 2 and not specific and _free(source, 1) and not set(source.low) & _FIXED:
        verb = _agreement(source, phrase, to_many=False)
        if verb is not None and source.known(head.lemma):
            yield (
                "count",
                [source.change(phrase.start, phrase.start, "one"), source.change(phrase.head, phrase.head, head.lemma), *verb],
            )
    if old == 2 and head.low in _CROWDS and not specific and not source.picture.words & {"group", "couple", "pair"}:
        yield "count", [source.change(phrase.start, phrase.start, "a group of")]


def _several(source: Source, phrase: NounPhrase) -> Iterator[tuple[str, list[Change]]]:
    head = source.head_noun(phrase)
    many = plural(head.lemma)
    if source.governor(phrase.start) in _PLACED or source.is_compound(phrase) or head.lemma in _NEVER or many in source.picture.words or not source.known(many):
        return
    if source.governor(phrase.start) in ("in", "wear") and any(
        g.kind == "clothing" for g in source.lexicon.groups_of.get(head.lemma, ())
    ):
        return
    sexes = source.lexicon.people["male"] | source.lexicon.people["female"]
    if head.lemma in sexes and "people" in source.picture.words:
        return
    spoken = _FIXED if phrase.start == 0 else _OF_TWO
    if set(source.low) & spoken:
        return
    verb = _agreement(source, phrase, to_many=True)
    if verb is None:
        return
    for number in (2, 3):
        if _free(source, number):
            yield (
                "count",
                [
                    source.change(phrase.start, phrase.start, NUMBERS[number - 1]),
                    source.change(phrase.head, phrase.head, many),
                    *verb,
                ],
            )


def _agreement(source: Source, phrase: NounPhrase, *, to_many: bool, alone: bool = True) -> list[Change] | None:
    """The change of the verb that the phrase is the subject of; ``None`` where that is not clear."""
    after = source.words[phrase.head + 1] if phrase.head + 1 < len(source.words) else None
    if phrase.start:
        before = source.words[phrase.start - 1]
        if before.pos not in ("ADP", "VERB") or before.low in ("of", "as", "like"):
            return None
        loose = after is not None and (
            after.pos in ("AUX", "PRON", "CONJ") or after.low == "that" or (after.pos == "VERB" and after.form != "ing")
        )
        return None if loose else []
    if after is None or after.low in ("and", "or", ","):
        return None
    if to_many and alone and _shared(source, phrase):
        return None
    for n in range(phrase.head + 1, len(source.words)):
        word = source.words[n]
        if word.pos in ("CONJ", "PRON") or word.low == ",":
            return None
        new = _agreed(word, to_many)
        if new is not None:
            rest = source.words[n + 1 :]
            again = any(_agreed(w, to_many) is not None and w.pos == "VERB" for w in rest)
            return None if again else [source.change(n, n, new)] if new else []
    return []


def _shared(source: Source, phrase: NounPhrase) -> bool:
    """Whether one thing would be shared that each has for himself: "two men in a hat"."""
    return any(
        other.start > phrase.head
        and source.low[other.start] in ("a", "an")
        and source.governor(other.start)
        in (
            "in",
            "with",
            "wear",
            "hold",
            "carry",
            "ride",
            "on",
            "play",
            "have",
            "has",
            "do",
            "make",
            "take",
            "perform",
            "like",
            "throw",
            "catch",
            "eat",
            "drink",
            "through",
        )
        for other in source.tagged.phrases
    )


def _agreed(word: Word, to_many: bool) -> str | None:
    """The verb in the other number; empty if it has the same form, ``None`` if the word is no finite verb."""
    if word.pos == "AUX":
        table = _TO_MANY if to_many else _TO_ONE
        return table.get(word.low)
    if word.pos != "VERB":
        return None
    base, third, _ = verb_forms(word.lemma)
    if to_many:
        return base if word.low == third else None
    return third if word.low == base else None


def _group(source: Source) -> Iterator[tuple[str, list[Change]]]:
    """``a group of people`` -> ``two people``."""
    found = source.phrase_at.get(3)
    if source.low[:3] != ["a", "group", "of"] or found is None or found.head + 1 >= len(source.words):
        return
    head = source.head_noun(found)
    if (head.form != "many" and head.low not in _CROWDS) or source.words[found.start].pos in ("DET", "NUM", "POSS"):
        return
    if set(source.low) & _FIXED or source.picture.words & {"couple", "pair", "both"}:
        return
    phrase = NounPhrase(0, found.head)
    if source.words[found.head + 1].low in ("and", "or", ","):
        return
    verb = _agreement(source, phrase, to_many=True, alone=False)
    if verb is None:
        return
    for number in (2, 3):
        if _free(source, number):
            yield "count", [source.change(0, 2, NUMBERS[number - 1]), *verb]
