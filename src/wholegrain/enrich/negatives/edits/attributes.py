"""Another colour, size, age, material, state or texture: ``a wet street`` -> ``a dry street``."""

from __future__ import annotations

import random
from collections.abc import Iterator

from wholegrain.text.words.lexicon import Scale, lexicon, word_set
from wholegrain.text.words.source import Source
from wholegrain.text.words.text import Change

_COLOUR_NEAR = {words.split()[0]: tuple(words.split()[1:]) for words in lexicon().colour_near}
_OF_ANIMALS = frozenset({"black", "white", "brown", "grey", "gray"})
_MIXED = word_set("attributes_mixed")


def attributes(source: Source, draw: random.Random) -> Iterator[tuple[str, list[Change]]]:
    """Adjectives exchanged within their scales, where a scale may be said of the noun."""
    for phrase in source.tagged.phrases:
        head = source.head_noun(phrase)
        if (
            phrase.start == phrase.head
            and head.low in _COLOURS
            and source.governor(phrase.start) in ("in", "wear")
            and _ends(source, phrase.head)
        ):
            yield from _worn(source, phrase.head, draw)
        for n in range(phrase.start, phrase.head):
            word = source.words[n]
            if source.is_name(n) or source.is_name(phrase.head):
                continue
            if word.pos != "ADJ" and not (word.pos in ("NOUN", "VERB") and word.low in source.lexicon.scales_of):
                continue
            for scale in source.lexicon.scales_of.get(word.low, ()):
                if _said_of(source, scale, head.lemma, head.low) and _alone(source, n, phrase.head, scale):
                    for new in source.some(_others(source, scale, word.low, head.lemma), draw):
                        yield f"attribute_{scale.kind}", [source.change(n, n, new)]


_COLOURS = frozenset(_COLOUR_NEAR)


def _worn(source: Source, n: int, draw: random.Random) -> Iterator[tuple[str, list[Change]]]:
    """``a girl in red`` -> ``a girl in blue``."""
    scale = next(scale for scale in source.lexicon.scales if scale.name == "colour")
    for new in source.some(_others(source, scale, source.low[n]), draw):
        yield "attribute_colour", [source.change(n, n, new)]


def _ends(source: Source, n: int) -> bool:
    return n + 1 == len(source.words) or source.words[n + 1].pos in ("PUNCT", "VERB", "AUX", "ADP")


def _said_of(source: Source, scale: Scale, lemma: str, low: str) -> bool:
    if lemma in scale.never or low in scale.never:
        return False
    return "*" in scale.nouns or lemma in scale.nouns or low in scale.nouns


def _alone(source: Source, place: int, head: int, scale: Scale) -> bool:
    """No second word of the same scale beside it, but for two colours ("black and white"), and at most one noun up to the phrase's noun."""
    before, after = source.low[place - 1] if place else "", source.low[place + 1]
    if scale.kind == "size" and {"smaller", "larger", "bigger", "taller", "longer", "shorter"} & set(source.low):
        return False
    if before.endswith("ly") or before in (
        "dark",
        "light",
        "bright",
        "hot",
        "neon",
        "very",
        "-",
        "or",
        "too",
        "more",
        "most",
        "pale",
        "so",
        ",",
    ):
        return False
    pair = scale.name == "colour" and (
        (after == "and" and place + 2 < head and source.low[place + 2] in _COLOURS)
        or (before == "and" and place > 1 and source.low[place - 2] in _COLOURS)
    )
    if not pair:
        near = source.low[max(0, place - 2) : place] + source.low[place + 1 : place + 3]
        if before == "and" or after in ("and", "or", ",", "-") or any(word in cell for cell in scale.cells for word in near):
            return False
    if head + 1 < len(source.words) and source.words[head + 1].pos in ("NOUN",):
        return False
    return sum(word.pos == "NOUN" for word in source.words[place + 1 : head]) <= 1


def _others(source: Source, scale: Scale, old: str, noun: str = "") -> list[str]:
    spoken_words, found = source.picture.words, []
    if scale.name == "colour" and set(source.low) & _MIXED:
        return []
    for cell in scale.cells:
        if old in cell or any(word in spoken_words for word in cell):
            continue
        words = [word for word in cell if source.known(word)]
        if scale.name == "colour":
            words = [w for w in words if not spoken_words.intersection(_COLOUR_NEAR.get(w, ())) and w not in _COLOUR_NEAR.get(old, ())]
        found += words
    if scale.name == "colour" and any(
        group.name in ("animals", "birds", "small_animals") for group in source.lexicon.groups_of.get(noun, ())
    ):
        found = [word for word in found if word in _OF_ANIMALS]
    return found
