"""Another deed in the same form: ``a boy sits on a wall`` -> ``a boy jumps on a wall``."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial

from wholegrain.text.words.lexicon import Frame, word_set
from wholegrain.text.words.morphology import FORMS, verb_forms
from wholegrain.text.words.source import Source
from wholegrain.text.words.tagging import Word
from wholegrain.text.words.text import Change

_ENDS = frozenset({".", ",", "while", "as", "!", ";"})
_MOUNTS = word_set("actions_mounts")
_PERCHED = frozenset({"sit", "stand"})
_OF_HANDS = frozenset({"throw", "toss", "kick", "hit", "wave", "read", "paint"})
_NOT_BEFORE = word_set("actions_not_before")


def actions(source: Source, draw: random.Random) -> Iterator[tuple[str, list[Change]]]:
    """Verbs exchanged within their frames."""
    for n, word in enumerate(source.words):
        if word.pos != "VERB" or word.form not in FORMS:
            continue
        if (n and source.low[n - 1] in _NOT_BEFORE) or _beside(source, n) or (word.lemma in source.lexicon.move and _mounted(source)):
            continue
        near, found = source.lexicon.near_verb(word.lemma), {}
        for frame in _frames(source, word):
            if _follows(source, n, frame):
                found.update(dict.fromkeys(frame.new))
        place = FORMS.index(word.form)
        out = _OF_HANDS if "mouth" in source.low else _PERCHED if _PERCHED & {word.lemma, *found} and _birds(source) else frozenset()
        found = {verb: None for verb in found if verb not in out and not (out is _PERCHED and word.lemma in out)}
        free = [
            verb for verb in found
            if verb not in near and verb != word.lemma and word.lemma not in source.lexicon.near_verb(verb)
            and source.known(verb_forms(verb)[place]) and _free(source, verb)
        ]  # fmt: skip
        for verb in source.some(free, draw, partial(_form, place=place)):
            yield "action", [source.change(n, n, verb_forms(verb)[place])]


def _frames(source: Source, word: Word) -> tuple[Frame, ...]:
    found = source.lexicon.frames_of.get(word.lemma)
    if found is None and word.form == "ing" and word.lemma not in source.lexicon.states:
        found = source.lexicon.frames_of["*"]
    return found or ()


def _mounted(source: Source) -> bool:
    """Whether somebody is on wheels, a board or an animal, and so cannot go in every way."""
    return any(
        source.head_noun(phrase).lemma in _MOUNTS and source.governor(phrase.start) in ("on", "with", "off", "off of", "in")
        for phrase in source.tagged.phrases
    )


def _birds(source: Source) -> bool:
    """Of a bird one says that it sits where another says that it stands."""
    groups = (group for word in source.words for group in source.lexicon.groups_of.get(word.lemma, ()))
    return any(group.name in ("birds", "small_animals") for group in groups)


def _beside(source: Source, n: int) -> bool:
    """Whether the deed goes on beside another one of the same body ("sits on a bed laughing"), which not every deed can."""
    if source.words[n].form != "ing" or source.words[n - 1].pos == "AUX":
        return False
    for word in reversed(source.words[:n]):
        if word.pos in ("CONJ", "PUNCT", "PRON"):
            return False
        if word.pos == "VERB":
            return word.lemma in source.lexicon.rest or word.lemma in source.lexicon.move
    return False


def _form(verb: str, place: int) -> str:
    return verb_forms(verb)[place]


def _free(source: Source, verb: str) -> bool:
    spoken_words = source.picture.words
    return source.free_verb(verb) and not any(
        form in spoken_words for near in source.lexicon.near_verb(verb) for form in verb_forms(near)
    )


def _follows(source: Source, n: int, frame: Frame) -> bool:
    rest = source.low[n + 1 : n + 5]
    if not rest or rest[0] in _ENDS:
        return "." in frame.next
    for phrase in frame.next:
        length = phrase.count(" ") + 1
        if phrase in (".", "noun") or " ".join(rest[:length]) != phrase:
            continue
        if "*" in frame.nouns:
            return True
        return _noun_fits(source, n + 1 + length, frame)
    return "noun" in frame.next and _noun_fits(source, n + 1, frame)


def _noun_fits(source: Source, start: int, frame: Frame) -> bool:
    phrase = source.phrase_at.get(start)
    if phrase is None:
        return False
    head = source.head_noun(phrase)
    before = source.words[phrase.head - 1] if phrase.head > phrase.start else None
    if before is not None and before.pos == "VERB":
        return False
    after = source.words[phrase.head + 1] if phrase.head + 1 < len(source.words) else None
    if after is not None and (after.pos in ("NOUN", "POSS") or after.low in ("'s", "-", "up", "down")):
        return False
    listed = source.words[phrase.head + 2].pos if phrase.head + 2 < len(source.words) else ""
    if after is not None and after.low == "," and listed in ("DET", "ADJ", "NOUN", "NUM") and "and" in source.low[phrase.head :]:
        return False  # a list, of which the rest may not go with every verb
    return head.lemma in frame.nouns or head.low in frame.nouns
