"""What a caption says of a scene, word by word: things with their number and attributes, relations, the background.

Scenes (:mod:`wholegrain.data.scenes`) are described with few words: 60 nouns and their plurals, colours, fills, sizes, grounds, textures, styles and
phrases of relation. Each word of a caption is looked up; no grammar is guessed, but for words that no list has: one that the built-in tagger
(:mod:`wholegrain.text.words`) takes for the head of a noun phrase is a thing, too, of a kind that no scene has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from wholegrain.data.scenes.captions import NUMBERS, PLACE_WORDS, RELATION_WORDS, plural, vocabulary
from wholegrain.data.scenes.world import COLOURS, FILLS, GROUNDS, SIZES, STYLES, TEXTURES, World
from wholegrain.text.words.phrases import PICTURES, PLACES
from wholegrain.text.words.tagging import BuiltinTagger
from wholegrain.text.words.text import Token, tokens

Span = tuple[int, int]
"""Start and end in code points of the caption."""
_ATTRIBUTES = {"colour": frozenset(COLOURS), "fill": frozenset(FILLS), "size": frozenset(SIZES)}
_BACKGROUND = {"texture": frozenset(TEXTURES), "ground": frozenset(GROUNDS), "style": frozenset(STYLES)}
_COUNT = {word: count for count, word in NUMBERS.items() if count > 1}
_RELATIONS = {tuple(words.split()): name for name, pair in RELATION_WORDS.items() for words in pair}
_PLACED = frozenset(tuple(words.split()) for pair in PLACE_WORDS.values() for words in pair)


@dataclass(frozen=True)
class Said:
    """A word or phrase of a caption and what it claims."""

    value: str
    span: Span


@dataclass(frozen=True)
class SaidThing:
    """A thing that a caption names.

    Attributes:
        noun: in the singular.
        count: the number that is said; 1 where it is "a" or nothing.
        attributes: kind (``colour``, ``fill``, ``size``) and word.
    """

    noun: Said
    count: int = 1
    count_span: Span | None = None
    attributes: tuple[tuple[str, Said], ...] = ()


@dataclass(frozen=True)
class SaidRelation:
    """``left``, ``right``, ``above`` or ``below``: where the thing named before the words is, seen from the one named behind them."""

    relation: Said
    first: SaidThing
    second: SaidThing


@dataclass(frozen=True)
class Claims:
    """All that a caption says of a scene."""

    things: tuple[SaidThing, ...]
    relations: tuple[SaidRelation, ...]
    background: tuple[tuple[str, Said], ...]


@dataclass(frozen=True)
class ClaimReader:
    """Reads captions of one world's scenes.

    Attributes:
        world: whose nouns are known.

    Example:
        >>> claims = ClaimReader(World())("two small red cups left of a zebra on a plain mint background")
        >>> [(thing.noun.value, thing.count, [word.value for _, word in thing.attributes]) for thing in claims.things]
        [('cup', 2, ['small', 'red']), ('zebra', 1, [])]
        >>> [said.relation.value for said in claims.relations], [(kind, said.value) for kind, said in claims.background]
        (['left'], [('texture', 'plain'), ('ground', 'mint')])
    """

    world: World = field(default_factory=World)

    @cached_property
    def nouns(self) -> Mapping[tuple[str, ...], str]:
        """The words of a noun or its plural -> the noun."""
        both = [(form, noun) for noun in self.world.nouns for form in (plural(noun), noun)]
        return {tuple(form.split()): noun for form, noun in both}

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(word for text in vocabulary(self.world) for word in text.lower().split()) | PICTURES | PLACES

    def __call__(self, text: str) -> Claims:
        """The claims of a caption, from left to right."""
        words = tokens(text)
        unknown = self._unknown_heads(text)
        reading = _Reading()
        n = 0
        while n < len(words):
            n += self._take(words, n, unknown, reading)
        return Claims(tuple(reading.things), tuple(reading.relations), tuple(reading.background))

    def _take(self, words: Sequence[Token], n: int, unknown: frozenset[int], reading: _Reading) -> int:
        """Reads what begins at a word; gives how many words it was."""
        low = [word.low for word in words[n : n + 4]]
        for length in range(4, 0, -1):
            phrase, span = tuple(low[:length]), (words[n].start, words[min(n + length, len(words)) - 1].end)
            if len(phrase) < length:
                continue
            if phrase in _RELATIONS:
                reading.relate(Said(_RELATIONS[phrase], span))
                return length
            if phrase in _PLACED:
                return length
            if phrase in self.nouns:
                reading.name(Said(self.nouns[phrase], span))
                return length
        word = Said(words[n].low, (words[n].start, words[n].end))
        if words[n].start in unknown:
            reading.name(word)
        else:
            reading.describe(word)
        return 1

    def _unknown_heads(self, text: str) -> frozenset[int]:
        """Where words stand that name things which no world has; most captions have none, and no tagger is asked."""
        if all(word.low in self._known or not word.low[0].isalpha() for word in tokens(text)):
            return frozenset()
        tagged = BuiltinTagger().tag([text])[0]
        heads = (tagged.words[phrase.head] for phrase in tagged.phrases)
        return frozenset(word.start for word in heads if word.low not in self._known and word.lemma not in self._known and word.low[0].isalpha())


class _Reading:
    """What was read so far, and what waits for its noun."""

    def __init__(self) -> None:
        self.things: list[SaidThing] = []
        self.relations: list[SaidRelation] = []
        self.background: list[tuple[str, Said]] = []
        self._attributes: list[tuple[str, Said]] = []
        self._count: Said | None = None
        self._waiting: tuple[Said, SaidThing] | None = None

    def describe(self, word: Said) -> None:
        """A word that is no noun and no phrase."""
        if word.value in _COUNT:
            self._count = word
        for kind, known in _BACKGROUND.items():
            if word.value in known:
                self.background.append((kind, word))
        for kind, known in _ATTRIBUTES.items():
            if word.value in known:
                self._attributes.append((kind, word))
        if word.value == "background":  # "on a red background" speaks of a ground, though no scene has that one
            self.background += [("ground", said) for kind, said in self._attributes if kind == "colour"]
        if word.value in ("and", ",", ".", "with", "background"):  # what waited was said of nothing
            self._attributes, self._count = [], None

    def name(self, noun: Said) -> None:
        """A noun: what waited is said of it."""
        thing = SaidThing(noun, attributes=tuple(self._attributes))
        if self._count is not None:
            thing = replace(thing, count=_COUNT[self._count.value], count_span=self._count.span)
        self._attributes, self._count = [], None
        self.things.append(thing)
        if self._waiting is not None:
            self.relations.append(SaidRelation(self._waiting[0], self._waiting[1], thing))
            self._waiting = None

    def relate(self, relation: Said) -> None:
        """A phrase of relation: between the thing before it and the next one."""
        self._waiting = (relation, self.things[-1]) if self.things else None
        self._attributes, self._count = [], None
