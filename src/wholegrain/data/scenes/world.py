"""What can be in a scene, what is true of it, and the random draw of its facts.

A scene is a list of things on a background. A :class:`Claim` is what a caption says; :func:`holds` decides whether it is true.
Captions, negatives and tests all go through these two, so that truth is computed, never assumed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import permutations
from typing import TypeVar

import numpy as np

from wholegrain.data.scenes.glyphs import GLYPHS

COLOURS = {
    "red": (214, 39, 40), "orange": (245, 130, 25), "yellow": (240, 205, 30), "green": (40, 150, 50), "teal": (30, 175, 175),
    "blue": (35, 90, 215), "purple": (135, 60, 190), "pink": (245, 110, 180), "brown": (125, 75, 35), "black": (25, 25, 30),
}  # fmt: skip
FILLS = ("solid", "striped", "dotted")
INKS = {"striped": 0.4, "dotted": 0.3}  # how much of its colour a stripe or a dot keeps; stripes are darker (of black and brown things: lighter), dots white
DARK = 90  # colours whose mean is below have lighter stripes
NAMED = {"colour": 0.7, "fill": 0.6, "size": 0.5}  # how often a mention says an attribute: one seldom named is not learned
SIZES = {"small": 0.30, "large": 0.42}  # share of the picture's side
PLACES = ("left", "right", "top", "bottom")
RELATIONS = ("left", "right", "above", "below")
INVERSE = {"left": "right", "right": "left", "above": "below", "below": "above"}
GROUNDS = {
    "white": (250, 250, 250),
    "grey": (205, 205, 205),
    "cream": (250, 236, 200),
    "mint": (205, 240, 215),
    "sky": (200, 225, 250),
}
TEXTURES = ("plain", "checked", "ruled", "shaded")
STYLES = ("clean", "grainy")


@dataclass(frozen=True)
class World:
    """The settings that a data set of scenes is a function of; its hash names the world in a model's file.

    Attributes:
        glyphs: "A" (development) or "B" (confirmation).
        size: side of the picture in pixels, 64, 96 or 128.
        seed: changes every scene.
        held_out: share of (noun, colour) combinations that appear in test scenes only.
    """

    glyphs: str = "A"
    size: int = 64
    seed: int = 0
    held_out: float = 0.1

    @property
    def nouns(self) -> tuple[str, ...]:
        """The 60 names of its objects."""
        return tuple(GLYPHS[self.glyphs])

    def is_held_out(self, noun: str, colour: str) -> bool:
        """True for the combinations that training never shows."""
        return _lot(f"{noun} {colour}") < self.held_out

    @property
    def hash(self) -> str:
        """12 hex digits over these settings and every table of this room."""
        tables = (asdict(self), GLYPHS, COLOURS, FILLS, INKS, DARK, NAMED, SPARSE, SIZES, GROUNDS, TEXTURES, STYLES, PLACES, RELATIONS)
        return hashlib.sha256(repr(tables).encode()).hexdigest()[:12]

    def rng(self, split: str, index: int) -> np.random.Generator:
        """The random stream of one scene: a function of (world, split, index) alone."""
        return np.random.default_rng([self.seed, int(2**32 * _lot(split)), index])


@lru_cache(maxsize=4096)
def _lot(name: str) -> float:
    """A fixed number in [0, 1) for a name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32


@dataclass(frozen=True)
class Thing:
    """One object: what it is and where (centre, in shares of the picture's side)."""

    noun: str
    colour: str
    fill: str
    size: str
    x: float
    y: float
    tilt: float = 0.0

    def places(self) -> tuple[str, ...]:
        """The absolute places that are true of it."""
        found = [
            side
            for side, there in zip(PLACES, (self.x < 0.38, self.x > 0.62, self.y < 0.38, self.y > 0.62), strict=True)
            if there
        ]
        return tuple(found)


@dataclass(frozen=True)
class Scene:
    """Things on a background. ``seed`` feeds only what no caption speaks of (noise, phases of patterns)."""

    things: tuple[Thing, ...]
    ground: str
    texture: str
    style: str
    seed: int = 0


def relation(a: Thing, b: Thing) -> str | None:
    """Where ``a`` is as seen from ``b``, or ``None`` on a diagonal, where no word is clearly true."""
    dx, dy = a.x - b.x, a.y - b.y
    if abs(dx) > 1.5 * abs(dy):
        return "left" if dx < 0 else "right"
    if abs(dy) > 1.5 * abs(dx):
        return "above" if dy < 0 else "below"
    return None


@dataclass(frozen=True)
class Mention:
    """What a caption says of one object, or of ``count`` objects of one kind; ``None`` is left unsaid."""

    noun: str
    colour: str | None = None
    fill: str | None = None
    size: str | None = None
    place: str | None = None
    count: int = 1

    def fits(self, thing: Thing) -> bool:
        stated = ((self.noun, thing.noun), (self.colour, thing.colour), (self.fill, thing.fill), (self.size, thing.size))
        return all(word is None or word == fact for word, fact in stated) and (self.place is None or self.place in thing.places())


@dataclass(frozen=True)
class Claim:
    """What a caption says of a scene: mentions of different objects, a relation of the first to the second, the background."""

    mentions: tuple[Mention, ...] = ()
    relation: str | None = None
    ground: str | None = None
    texture: str | None = None
    style: str | None = None


def holds(claim: Claim, scene: Scene) -> bool:
    """True if the scene contains what the claim says: different objects for different mentions, exact counts above one."""
    for stated, fact in ((claim.ground, scene.ground), (claim.texture, scene.texture), (claim.style, scene.style)):
        if stated is not None and stated != fact:
            return False
    if any(m.count > 1 and sum(m.fits(t) for t in scene.things) != m.count for m in claim.mentions):
        return False
    if not claim.mentions:
        return True
    candidates = [[t for t in scene.things if m.fits(t)] for m in claim.mentions]
    return any(claim.relation is None or relation(chosen[0], chosen[1]) == claim.relation for chosen in _assignments(candidates))


def _assignments(candidates: list[list[Thing]], taken: tuple[Thing, ...] = ()) -> Iterator[tuple[Thing, ...]]:
    if not candidates:
        yield taken
        return
    for thing in candidates[0]:
        if thing not in taken:
            yield from _assignments(candidates[1:], (*taken, thing))


T = TypeVar("T")


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of ``options``, uniformly."""
    return options[int(rng.integers(len(options)))]


# --- the random draw -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Density:
    """How many objects a scene has: ``kinds`` different ones; a share ``plural`` of scenes repeats its first one two or three times."""

    kinds: tuple[int, ...] = (2, 3)
    plural: float = 0.25


SPARSE = Density()
CROWDED = Density(kinds=(4, 5), plural=0.0)


def draw_scene(world: World, rng: np.random.Generator, density: Density = SPARSE, *, unseen: bool = False) -> Scene:
    """Facts at random: different nouns, near-uniform attributes, places without overlap.

    Args:
        unseen: True draws the first object from the held-out (noun, colour) combinations; otherwise none of them appears.
    """
    kinds = pick(rng, density.kinds)
    nouns = [world.nouns[i] for i in rng.permutation(len(world.nouns))[:kinds]]
    copies = int(rng.integers(2, 4)) if rng.random() < density.plural else 1
    crowd = kinds + copies - 1
    looks = [_draw_look(world, noun, rng, crowd, unseen and i == 0) for i, noun in enumerate(nouns)]
    if unseen and not world.is_held_out(looks[0].noun, looks[0].colour):
        return draw_scene(world, rng, density, unseen=True)
    looks = [looks[0]] * copies + looks[1:]
    things = _place(looks, rng)
    if things is None:
        return draw_scene(world, rng, density, unseen=unseen)
    return Scene(things, pick(rng, tuple(GROUNDS)), pick(rng, TEXTURES), pick(rng, STYLES), seed=int(rng.integers(2**31)))


def _draw_look(world: World, noun: str, rng: np.random.Generator, crowd: int, unseen: bool) -> Thing:
    colours = [c for c in COLOURS if world.is_held_out(noun, c) == unseen] or list(COLOURS)
    size = "small" if crowd > 3 else pick(rng, tuple(SIZES))
    return Thing(noun, pick(rng, colours), pick(rng, FILLS), size, 0.0, 0.0)


def _place(looks: list[Thing], rng: np.random.Generator) -> tuple[Thing, ...] | None:
    """Centres without overlap, such that a relation can be said of the first and the last; ``None`` if 64 tries find none."""
    sides = np.array([SIZES[look.size] for look in looks])
    low = sides / 2 + 0.01
    xy = low[:, None] + (1 - 2 * low)[:, None] * rng.random((64, len(looks), 2))
    reach = (sides[:, None] + sides[None, :]) / 2 + 0.02
    gap = np.abs(xy[:, :, None] - xy[:, None, :])
    apart = ((gap.max(-1) >= reach) | np.eye(len(looks), dtype=bool)).all((1, 2))
    ends = gap[:, 0, -1]
    good = np.flatnonzero(apart & (ends.max(1) > 1.5 * ends.min(1)))
    if len(good) == 0:
        return None
    tilts = 4 * rng.integers(-3, 4, len(looks))
    return tuple(
        replace(look, x=float(x), y=float(y), tilt=float(tilt))
        for look, (x, y), tilt in zip(looks, xy[good[0]], tilts, strict=True)
    )


def fits_together(things: Sequence[Thing]) -> bool:
    """True if no two objects overlap and all lie inside the picture."""
    inside = all(SIZES[t.size] / 2 <= v <= 1 - SIZES[t.size] / 2 for t in things for v in (t.x, t.y))
    reach = [((SIZES[a.size] + SIZES[b.size]) / 2, a, b) for i, a in enumerate(things) for b in things[:i]]
    return inside and all(max(abs(a.x - b.x), abs(a.y - b.y)) >= r for r, a, b in reach)


def related_pairs(scene: Scene) -> list[tuple[Thing, Thing]]:
    """Ordered pairs of different nouns, each single in the scene, between which a relation word is clearly true."""
    single = [t for t in scene.things if sum(o.noun == t.noun for o in scene.things) == 1]
    return [(a, b) for a, b in permutations(single, 2) if relation(a, b) is not None]
