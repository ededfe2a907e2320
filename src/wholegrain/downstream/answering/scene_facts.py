"""What a record of a scene says is in its picture: the things with their attributes, and where those that are alone of their noun are.

All is read from the record, as any reader of the data could: the caption of role ``detail`` names every thing with size, fill and colour, and the
number of things that are alike; the regions say where things are.
"""

from __future__ import annotations

from dataclasses import dataclass

from wholegrain.data.record import Record
from wholegrain.data.scenes.captions import NUMBERS, plural
from wholegrain.data.scenes.world import COLOURS, FILLS, SIZES, World

CLEAR = 1.6
"""How many times farther apart along one axis than along the other two boxes' centres are for a relation to be clear; captions use 1.5 with the
things' own centres, from which a box's centre may differ by some pixels."""


@dataclass(frozen=True)
class FoundThing:
    """One kind of thing in a picture.

    Attributes:
        noun, colour, fill, size: what it is.
        count: how many that are alike in all of it.
        centre: x and y of its box in pixels, y downward; ``None`` for things that are not alone of their noun.
    """

    noun: str
    colour: str
    fill: str
    size: str
    count: int = 1
    centre: tuple[float, float] | None = None


@dataclass(frozen=True)
class SceneFacts:
    """A picture's things. ``key``: of the record."""

    key: str
    things: tuple[FoundThing, ...]

    @property
    def total(self) -> int:
        """How many things there are."""
        return sum(thing.count for thing in self.things)

    def with_(self, **stated: str) -> list[FoundThing]:
        """The kinds that fit all stated attributes, such as ``colour="red"``."""
        return [thing for thing in self.things if all(getattr(thing, name) == value for name, value in stated.items())]

    def count(self, **stated: str) -> int:
        """How many things fit all stated attributes."""
        return sum(thing.count for thing in self.with_(**stated))


def scene_facts(record: Record, nouns: frozenset[str]) -> SceneFacts | None:
    """The facts of a record of ``wholegrain scenes``; ``None`` of one that has no such caption (pictures of twins, photos).

    Args:
        nouns: of its world (:attr:`~wholegrain.data.scenes.world.World.nouns`).

    Example:
        >>> from wholegrain.data.record import Caption
        >>> detail = "a large solid red cup and two small striped blue cats on a plain mint background"
        >>> facts = scene_facts(Record("k", "k.png", (64, 64), captions=(Caption("i", detail, "detail"),)), frozenset({"cup", "cat"}))
        >>> facts.total, facts.things[1].noun, facts.count(colour="blue")
        (3, 'cat', 2)
    """
    said = next((caption.text for caption in record.captions if caption.role == "detail"), None)
    if said is None or " on a " not in said:
        return None
    centres = {region.phrase: ((region.box[0] + region.box[2]) / 2, (region.box[1] + region.box[3]) / 2) for region in record.regions}
    singular = {plural(noun): noun for noun in nouns}
    things = [_thing(part.split(), nouns, singular, centres) for part in said.rsplit(" on a ", 1)[0].split(" and ")]
    return SceneFacts(record.key, tuple(thing for thing in things if thing is not None)) if all(things) else None


def _thing(
    words: list[str], nouns: frozenset[str], singular: dict[str, str], centres: dict[str, tuple[float, float]]
) -> FoundThing | None:
    """"two small striped blue cats" as a thing; ``None`` if it is not worded so."""
    count = {**{word: number for number, word in NUMBERS.items()}, "an": 1}.get(words[0])
    name = " ".join(words[4:])
    noun = name if count == 1 else singular.get(name)
    if len(words) < 5 or count is None or noun not in nouns:
        return None
    size, fill, colour = words[1:4]
    if size not in SIZES or fill not in FILLS or colour not in COLOURS:
        return None
    article = "an" if colour[0] in "aeiou" else "a"
    return FoundThing(noun, colour, fill, size, count, centres.get(f"{article} {colour} {noun}") if count == 1 else None)


def clear_relation(a: FoundThing, b: FoundThing) -> str | None:
    """Where ``a`` is as seen from ``b``: left, right, above or below; ``None`` on a diagonal, or where a place is not known."""
    if a.centre is None or b.centre is None:
        return None
    dx, dy = a.centre[0] - b.centre[0], a.centre[1] - b.centre[1]
    if abs(dx) > CLEAR * abs(dy):
        return "left" if dx < 0 else "right"
    if abs(dy) > CLEAR * abs(dx):
        return "above" if dy < 0 else "below"
    return None


def world_nouns(manifest: dict[str, object]) -> frozenset[str] | None:
    """The nouns of the world that a data set of scenes is of; ``None`` for other data."""
    world = manifest.get("world")
    if manifest.get("source") != "scenes" or not isinstance(world, dict) or world.get("glyphs") not in ("A", "B"):
        return None
    return frozenset(World(glyphs=str(world["glyphs"])).nouns)
