"""Words of one caption that change places: who does it to whom, and whose attribute it is."""

from __future__ import annotations

import random
from collections.abc import Iterator

from wholegrain.enrich.negatives.edits.objects import countable, fits
from wholegrain.text.words.lexicon import word_set
from wholegrain.text.words.morphology import plural
from wholegrain.text.words.source import Source
from wholegrain.text.words.tagging import NounPhrase
from wholegrain.text.words.text import Change

_BEINGS = frozenset({"animals", "birds", "men_and_women", "children", "any_age"})
_MORE_BEINGS = frozenset(["baby", "child", "kid", "person", "puppy", "toddler", "player", "adult"])
_SYMMETRIC = word_set("swaps_symmetric")
"""What stands between two beings who may change places without changing what is true, or of whom different things are said."""
_ASYMMETRIC = frozenset({"behind", "in front of", "above", "below", "on top of", "under", "underneath"})


def swapped_objects(source: Source, draw: random.Random) -> Iterator[tuple[str, list[Change]]]:
    """Two beings, of whom one does something to the other, or is somewhere seen from the other, change places."""
    beings = [phrase for phrase in source.tagged.phrases if _being(source, phrase)]
    if len(beings) == 2:
        one, other = beings
        if _exchangeable(source, one, other) and (_acts(source, one, other) or _apart(source, one, other)):
            yield "swap_object", source.swap((one.start, one.head), (other.start, other.head))
    for one in source.tagged.phrases:
        for other in source.tagged.phrases:
            if other.start > one.head and _same_place(source, one, other):
                yield "swap_object", _exchanged(source, one, other)
            if other.start > one.head and _placed(source, one, other) and not (one in beings and other in beings):
                yield "swap_object", source.swap((one.start, one.head), (other.start, other.head))


def _being(source: Source, phrase: NounPhrase) -> bool:
    lemma = source.head_noun(phrase).lemma
    return lemma in _MORE_BEINGS or any(group.name in _BEINGS for group in source.lexicon.groups_of.get(lemma, ()))


def _exchangeable(source: Source, one: NounPhrase, other: NounPhrase) -> bool:
    a, b = source.head_noun(one), source.head_noun(other)
    if a.form != b.form or a.lemma in source.lexicon.near_noun(b.lemma) or source.is_compound(other) or source.is_compound(one):
        return False
    if not _alike(source, one, other):
        return False
    if any(source.words[phrase.start].pos == "POSS" for phrase in (one, other)) or set(source.low) & {
        "his",
        "her",
        "its",
        "he",
        "she",
        "him",
        "it",
        "their",
    }:
        return False
    # what the other captions tell apart in the other order would stay true
    return not any(_order(words, b.low, a.low) for words in source.picture.others)


def _alike(source: Source, one: NounPhrase, other: NounPhrase) -> bool:
    """Whether both begin with an article or number, or none does, and nothing of them stands further left."""
    first, second = source.words[one.start], source.words[other.start]
    if (first.pos in ("DET", "NUM")) != (second.pos in ("DET", "NUM")):
        return False
    before = source.words[other.start - 1]
    return before.pos not in ("DET", "ADJ", "NUM") and before.form != "past" and not before.low.endswith("ly")


def _order(words: tuple[str, ...], first: str, second: str) -> bool:
    return first in words and second in words and words.index(first) < words.index(second)


def _acts(source: Source, one: NounPhrase, other: NounPhrase) -> bool:
    between = source.words[one.head + 1 : other.start]
    if any(word.low in _SYMMETRIC or word.lemma in _SYMMETRIC for word in between):
        return False
    verbs = [word for word in between if word.pos == "VERB" and word.form != "past"]
    return bool(verbs) and not any(word.pos in ("CONJ", "NOUN") for word in between)


def _apart(source: Source, one: NounPhrase, other: NounPhrase) -> bool:
    """``one does this while another does that``."""
    between = source.low[one.head + 1 : other.start]
    if not {"while", "as", "whilst"} & {*between[-1:]}:
        return False
    first = [word.lemma for word in source.words[one.head + 1 : other.start] if word.pos == "VERB"]
    second = [word.lemma for word in source.words[other.head + 1 :] if word.pos == "VERB"]
    return bool(first) and bool(second) and not set(first) & set(second)


_EVEN = frozenset({"and", "or", "with", "next to", "beside", "near", "by", ""})


def _same_place(source: Source, one: NounPhrase, other: NounPhrase) -> bool:
    """Whether the nouns alone may change places: each fits where the other is, and they are described or placed differently."""
    a, b = source.head_noun(one), source.head_noun(other)
    if (
        a.lemma == b.lemma
        or source.is_compound(one)
        or source.is_compound(other)
        or source.lemma_counts[a.lemma] + source.lemma_counts[b.lemma] > 2
    ):
        return False
    if a.lemma in source.lexicon.near_noun(b.lemma) or b.lemma in source.lexicon.near_noun(a.lemma):
        return False
    kinds = [{group.kind for group in source.lexicon.groups_of.get(word.lemma, ())} for word in (a, b)]
    if not kinds[0] & kinds[1] or not (_takes(source, one, b.lemma) and _takes(source, other, a.lemma)):
        return False
    described = [tuple(w.low for w in source.words[p.start : p.head] if w.pos in ("ADJ", "NUM")) for p in (one, other)]
    placed = source.governor(one.start) != source.governor(other.start) and source.governor(other.start) not in _EVEN
    if not (placed or described[0] != described[1]) or ("being" in kinds[0] and not all(described)):
        return False
    return not any(_said(source, word, noun.low) for words, noun in ((described[0], b), (described[1], a)) for word in words)


def _takes(source: Source, phrase: NounPhrase, lemma: str) -> bool:
    """Whether the phrase has room for another noun: in its number, behind its preposition and its adjectives."""
    head, before = source.head_noun(phrase), source.governor(phrase.start)
    if (head.form == "many" and plural(lemma) == lemma) or not countable(source, phrase, lemma):
        return False
    return any(fits(source, phrase, group, before) for group in source.lexicon.groups_of.get(lemma, ()))


def _exchanged(source: Source, one: NounPhrase, other: NounPhrase) -> list[Change]:
    a, b = source.head_noun(one), source.head_noun(other)
    return [
        source.change(phrase.head, phrase.head, plural(new.lemma) if old.form == "many" else new.lemma)
        for phrase, old, new in ((one, a, b), (other, b, a))
    ]


def _placed(source: Source, one: NounPhrase, other: NounPhrase) -> bool:
    """``one RELATION other`` of things alone, and nothing else."""
    if (
        one.start
        or not _alike(source, one, other)
        or source.governor(other.start) not in _ASYMMETRIC
        or source.is_compound(one)
        or source.is_compound(other)
    ):
        return False
    between = source.words[one.head + 1 : other.start]
    rest = source.words[other.head + 1 :]
    verbs = [word for word in between if word.pos == "VERB" and word.lemma not in ("stand", "sit", "lie")]
    length = source.governor(other.start).count(" ") + 1
    middle = between[: len(between) - length]
    if verbs or any(word.pos not in ("VERB", "AUX") for word in middle) or any(word.pos != "PUNCT" for word in rest):
        return False
    return (
        source.head_noun(one).form == source.head_noun(other).form
        and source.head_noun(one).lemma != source.head_noun(other).lemma
    )


def swapped_attributes(source: Source, draw: random.Random) -> Iterator[tuple[str, list[Change]]]:
    """Two adjectives of one scale, said of two things, change places."""
    places = [(n, phrase) for phrase in source.tagged.phrases for n in _lone(source, phrase)]
    for k, (a, one) in enumerate(places):
        for b, other in places[k + 1 :]:
            if one != other and _may_swap(source, a, one, b, other):
                yield "swap_attribute", [source.change(a, a, source.low[b]), source.change(b, b, source.low[a])]


def _lone(source: Source, phrase: NounPhrase) -> list[int]:
    """Adjectives directly before their noun, not joined with a second one of their scale."""
    found = []
    for n in range(phrase.start, phrase.head):
        if (
            source.low[n] not in source.lexicon.scales_of
            or source.words[n].pos != "ADJ"
            or source.low[n + 1] in ("and", ",", "-")
        ):
            continue
        if n and source.low[n - 1] in ("and", ",", "-", "dark", "light", "bright", "hot", "neon", "very", "or"):
            continue
        nouns = [word for word in source.words[n + 1 : phrase.head] if word.pos == "NOUN"]
        if not nouns:
            found.append(n)
    return found


def _may_swap(source: Source, a: int, one: NounPhrase, b: int, other: NounPhrase) -> bool:
    first, second = source.low[a], source.low[b]
    heads = source.head_noun(one), source.head_noun(other)
    if heads[0].lemma == heads[1].lemma or heads[0].lemma in source.lexicon.near_noun(heads[1].lemma):
        return False
    for scale in source.lexicon.scales_of[first]:
        cells = [cell for cell in scale.cells if first in cell or second in cell]
        if len(cells) != 2 or not any(second in cell for cell in cells):
            continue
        fits = all("*" in scale.nouns or word.lemma in scale.nouns or word.low in scale.nouns for word in heads)
        animals = scale.name == "colour" and any(
            group.name in ("animals", "birds", "small_animals") and colour not in ("black", "white", "brown", "grey", "gray")
            for word, colour in zip(heads, (second, first), strict=True) for group in source.lexicon.groups_of.get(word.lemma, ())
        )  # fmt: skip
        if fits and not animals and not any(word.lemma in scale.never or word.low in scale.never for word in heads):
            return not _said(source, second, heads[0].low) and not _said(source, first, heads[1].low)
    return False


def _said(source: Source, adjective: str, noun: str) -> bool:
    """Whether another caption says the adjective shortly before the noun."""
    for words in source.picture.others:
        for n, word in enumerate(words):
            if word == noun and adjective in words[max(0, n - 3) : n]:
                return True
    return False
