"""The same fact in other words, where word rules can be sure of it: two things exchanged around "and", a relation read from its other end,
a number as a digit, a synonym, "runs" for "is running"."""

from __future__ import annotations

from collections.abc import Iterator

from wholegrain.text.words.lexicon import word_set
from wholegrain.text.words.morphology import FORMS, verb_forms
from wholegrain.text.words.source import Source, picture_words
from wholegrain.text.words.tagging import NUMBERS, BuiltinTagger, NounPhrase, Tagged
from wholegrain.text.words.text import Change, Edited, edited, phrase_places

KINDS = ("exchange_and", "exchange_colours", "converse", "number_form", "synonym", "verb_form")
_STATES = word_set("paraphrases_states")
_PHRASES = (
    ("beside", "next to"), ("large", "big"), ("grey", "gray"), ("leaps", "jumps"), ("leaping", "jumping"), ("lying", "laying"),
    ("towards", "toward"), ("whilst", "while"), ("underneath", "beneath"), ("in the air", "in midair"), ("atop", "on top of"),
)  # fmt: skip


def paraphrases(caption: str | Tagged) -> list[Edited]:
    """At most one true rewording of each kind.

    Example:
        >>> [made.text for made in paraphrases("A dog is to the left of a cat.")]
        ['A cat is to the right of a dog.']
    """
    tagged = BuiltinTagger().tag([caption])[0] if isinstance(caption, str) else caption
    source = Source(tagged, picture_words([tagged])[0])
    found = {
        "exchange_and": _exchange_and, "exchange_colours": _colours, "converse": _converse, "number_form": _number, "synonym": _synonym,
        "verb_form": _verb_form,
    }  # fmt: skip
    return [
        edited(kind, tagged.text, changes) for kind, make in found.items() if (changes := next(make(source), None)) is not None
    ]


def _full(source: Source, phrase: NounPhrase) -> bool:
    """Begins with an article or a number, and is no compound."""
    return source.words[phrase.start].pos in ("DET", "NUM") and not source.is_compound(phrase)


def _exchange_and(source: Source) -> Iterator[list[Change]]:
    """Two phrases at the beginning, and behind them a verb or nothing: so nothing else hangs on one of the two alone."""
    if len(source.tagged.phrases) < 2:
        return
    one, other = source.tagged.phrases[:2]
    joined = one.start == 0 and other.start == one.head + 2 and source.low[one.head + 1] == "and"
    rest = source.words[other.head + 1 :]
    shared = not rest or rest[0].pos in ("AUX", "PUNCT") or (rest[0].pos == "VERB" and rest[0].form in ("base", "ing"))
    differ = source.low[: one.head + 1] != source.low[other.start : other.head + 1]
    if joined and shared and differ and _full(source, one) and _full(source, other):
        yield source.swap((one.start, one.head), (other.start, other.head))


def _colours(source: Source) -> Iterator[list[Change]]:
    colours = {word for scale in source.lexicon.scales if scale.name == "colour" for cell in scale.cells for word in cell}
    for n in range(len(source.words) - 3):
        one, link, other = source.low[n : n + 3]
        joined = one in colours and link == "and" and other in colours - {one} and source.words[n + 3].pos in ("NOUN", "ADJ")
        if joined and (n == 0 or source.low[n - 1] not in ("and", ",")):
            yield source.swap((n, n), (n + 2, n + 2))


def _converse(source: Source) -> Iterator[list[Change]]:
    """Only of sentences that say nothing else: ``A [is] RELATION B``."""
    words = [word for word in source.words if word.pos != "PUNCT"]
    if len(source.tagged.phrases) != 2 or words != list(source.words[: len(words)]):
        return
    one, other = source.tagged.phrases
    for pair in source.lexicon.converses:
        for old, new in (pair, pair[::-1]):
            for start, end in phrase_places(source.low, old)[:1]:
                verb = source.low[one.head + 1 : start]
                whole = one.start == 0 and end == other.start and other.head == len(words) - 1 and verb in ([], ["is"], ["are"])
                known = bool(verb) or all(source.head_noun(p).lemma in source.lexicon.nouns for p in (one, other))
                even = not verb or source.head_noun(one).form == source.head_noun(other).form
                if whole and known and even and _full(source, one) and _full(source, other):
                    yield [*source.swap((0, one.head), (other.start, other.head)), source.change(start, end - 1, new)]


def _number(source: Source) -> Iterator[list[Change]]:
    for phrase in source.tagged.phrases:
        n = phrase.start + (source.words[phrase.start].pos == "DET")
        word = source.low[n]
        if n and word in NUMBERS[1:] and n < phrase.head and source.low[n - 1] not in ("and", "or"):
            yield [source.change(n, n, str(NUMBERS.index(word) + 1))]


def _synonym(source: Source) -> Iterator[list[Change]]:
    for pair in (*source.lexicon.synonyms, *_PHRASES):
        for old, new in (pair, pair[::-1]):
            for start, end in phrase_places(source.low, old)[:1]:
                phrase = next((p for p in source.tagged.phrases if p.head == start), None)
                thing = pair in source.lexicon.synonyms
                if (thing and (phrase is None or source.is_compound(phrase))) or (
                    new == "big" and source.words[start].pos != "ADJ"
                ):
                    continue
                yield [source.change(start, end - 1, new)]


def _verb_form(source: Source) -> Iterator[list[Change]]:
    """``is running`` -> ``runs``; ``runs`` -> ``is running``; the first verb of a caption that has one subject."""
    for n, word in enumerate(source.words):
        if word.pos in ("CONJ", "PRON") or word.low == ",":
            return
        if word.low in ("is", "are"):
            following = source.words[n + 1] if n + 1 < len(source.words) else None
            if following is None or following.pos != "VERB" or following.form != "ing" or following.lemma in _STATES:
                return
            base, third, _ = verb_forms(following.lemma)
            yield [source.change(n, n + 1, third if word.low == "is" else base)]
            return
        if word.pos == "VERB" and word.form in ("base", "third") and n:
            if word.lemma not in _STATES and source.words[n - 1].pos in ("NOUN", "ADV", "ADP"):
                going = verb_forms(word.lemma)[FORMS.index("ing")]
                yield [source.change(n, n, f"{'is' if word.form == 'third' else 'are'} {going}")]
            return
