"""Two scenes that differ in one fact, drawn as a visitor sets them, and whether a model tells them apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from wholegrain.data.scenes.captions import RELATION_WORDS, SceneCaption, noun_phrase
from wholegrain.data.scenes.draw import draw
from wholegrain.data.scenes.twins import edit_claim
from wholegrain.data.scenes.world import (
    COLOURS,
    FILLS,
    GROUNDS,
    SIZES,
    STYLES,
    TEXTURES,
    Claim,
    Mention,
    Scene,
    Thing,
    World,
    fits_together,
    holds,
    pick,
    relation,
)
from wholegrain.errors import UserError
from wholegrain.progress import Show, nowhere
from wholegrain.report.examples import Scores
from wholegrain.workflows.embedder import Embedder

TWINS = ("swap colours", "swap relation", "swap patterns")
"""What may be the one difference of the two pictures."""
MOST_DRAWS = 99
"""The last of the ways in which the same facts are drawn."""
_DIFFERENCES = {"swap colours": ("swap_attribute", ("colour",)), "swap relation": ("relation", ("x", "y")), "swap patterns": ("swap_fill", ("fill",))}
"""The kind of twin that each is in drawn scenes, and what the two things exchange."""
TRIES = 40
"""Pairs at random that are looked at for one that breaks a model."""
_PLACES = 200  # at places that keep a relation; nearly all do


@dataclass(frozen=True)
class Setting:
    """What a visitor sets: picture A, and in what its twin B differs.

    Attributes:
        noun, colour, fill: of the first thing; ``second_…`` of the second.
        relation: of the first to the second.
        size: of both.
        twin: one of :data:`TWINS`.
        drawing: 0 to :data:`MOST_DRAWS`: another place, tilt and ground for the same facts.
    """

    noun: str = "cup"
    colour: str = "red"
    relation: str = "left"
    second_noun: str = "sun"
    second_colour: str = "blue"
    fill: str = "solid"
    second_fill: str = "solid"
    size: str = "large"
    twin: str = "swap colours"
    drawing: int = 1


@dataclass(frozen=True)
class TwinPair:
    """Two scenes with a caption each, which is true of its own scene and false of the other."""

    scenes: tuple[Scene, Scene]
    captions: tuple[SceneCaption, SceneCaption]

    @property
    def texts(self) -> tuple[str, str]:
        """The captions in words."""
        return self.captions[0].text, self.captions[1].text

    def pixels(self, size: int) -> list[np.ndarray]:
        """Both pictures, uint8 ``[size, size, 3]``."""
        return [draw(scene, size) for scene in self.scenes]


def make_pair(setting: Setting) -> TwinPair:
    """The scenes and captions of a setting; the same for the same setting.

    Raises:
        UserError: the two pictures would be the same, or a value is none that can be drawn.
    """
    _check(setting)
    first, second = _things(setting)
    rng = np.random.default_rng([setting.drawing, 1])
    scene = Scene((first, second), pick(rng, tuple(GROUNDS)), pick(rng, TEXTURES), pick(rng, STYLES), seed=setting.drawing)
    kind, exchanged = _DIFFERENCES[setting.twin]
    related = kind == "relation"
    claim = Claim(tuple(_mention(thing, fill=kind == "swap_fill") for thing in scene.things), relation=setting.relation if related else None)
    other = edit_claim(kind, claim, World(), rng)
    assert other is not None, "a setting that is checked names what is exchanged"
    facts = [{name: getattr(thing, name) for name in exchanged} for thing in (second, first)]
    twin = replace(scene, things=tuple(replace(thing, **fact) for thing, fact in zip(scene.things, facts, strict=True)))
    assert [holds(c, s) for c in (claim, other) for s in (scene, twin)] == [True, False, False, True]
    caption = SceneCaption(claim, "overview", "{a} {r} {b}" if related else "{a} and {b}")
    return TwinPair((scene, twin), (caption, caption.reword(other)))


def _check(setting: Setting) -> None:
    for value, known in (
        (setting.noun, World().nouns), (setting.second_noun, World().nouns), (setting.colour, COLOURS), (setting.second_colour, COLOURS),
        (setting.fill, FILLS), (setting.second_fill, FILLS), (setting.relation, RELATION_WORDS), (setting.size, SIZES), (setting.twin, TWINS),
    ):  # fmt: skip
        if value not in known:
            raise UserError(f"Nothing can be drawn of {str(value)[:40]!r}; choose one of the list.")
    if not 0 <= setting.drawing <= MOST_DRAWS:
        raise UserError(f"The drawing is {setting.drawing}; it must be 0 to {MOST_DRAWS}.")
    if setting.noun == setting.second_noun:
        raise UserError(f"Both things are {noun_phrase(Mention(setting.noun))}; choose two different ones.")
    if setting.twin == "swap colours" and setting.colour == setting.second_colour:
        raise UserError(f"Both things are {setting.colour}, and would still be with their colours swapped; choose two colours.")
    if setting.twin == "swap patterns" and setting.fill == setting.second_fill:
        raise UserError(f"Both things are {setting.fill}, and would still be with their patterns swapped; choose two patterns.")


def _mention(thing: Thing, *, fill: bool) -> Mention:
    """A thing by its colour; by its pattern, too, where that is asked for or is no plain one."""
    return Mention(thing.noun, thing.colour, thing.fill if fill or thing.fill != "solid" else None)


def _things(setting: Setting) -> tuple[Thing, Thing]:
    """The two things at places where their relation is clear."""
    rng = np.random.default_rng([setting.drawing, 0])
    half = SIZES[setting.size] / 2
    for _ in range(_PLACES):
        near, far = half + 0.02 + 0.04 * rng.random(), 1 - half - 0.02 - 0.04 * rng.random()
        across = rng.uniform(half + 0.02, 1 - half - 0.02) + np.array([0.0, 0.12 * (rng.random() - 0.5)])
        along = (near, far) if setting.relation in ("left", "above") else (far, near)
        (x1, x2), (y1, y2) = (along, across) if setting.relation in ("left", "right") else (across, along)
        tilts = 4.0 * rng.integers(-3, 4, 2)
        first = Thing(setting.noun, setting.colour, setting.fill, setting.size, float(x1), float(y1), float(tilts[0]))
        second = Thing(setting.second_noun, setting.second_colour, setting.second_fill, setting.size, float(x2), float(y2), float(tilts[1]))
        if fits_together((first, second)) and relation(first, second) == setting.relation:
            return first, second
    raise UserError("These things do not fit into one picture; choose small ones.")


def score_pair(models: Sequence[Embedder], pair: TwinPair, size: int) -> list[Scores]:
    """The 2x2 scores of a pair by each model."""
    return [_scores(model, pair.pixels(size), pair.texts) for model in models]


def _scores(model: Embedder, pictures: list[np.ndarray], texts: tuple[str, str]) -> Scores:
    (a, b), (c, d) = model.similarity(pictures, texts, progress=nowhere).tolist()
    return Scores(model.name, ((a, b), (c, d)))


def verdict(scores: Scores) -> str:
    """What a model does with a pair, in words."""
    (a, b), (c, d) = scores.values
    if scores.group:
        return f"{scores.name} tells them apart"
    if a == b and c == d:
        return f"{scores.name} fails: it scores both captions alike"
    pictures = [name for name, own, other in (("A", a, b), ("B", d, c)) if own <= other]
    if len(pictures) == 2:
        return f"{scores.name} fails: it takes each picture for the other"
    if pictures:
        right = "B" if pictures == ["A"] else "A"
        return f"{scores.name} fails: it gives picture {pictures[0]} the caption of picture {right}"
    captions = [name for name, own, other in (("A", a, c), ("B", d, b)) if own <= other]
    return f"{scores.name} fails: it finds the wrong picture for the caption of picture {' and '.join(captions)}"


def random_setting(rng: np.random.Generator, twin: str) -> Setting:
    """Two things, colours and patterns at random, different where the twin asks for it."""
    nouns, colours, fills = (rng.permutation(names)[:2].tolist() for names in (World().nouns, tuple(COLOURS), FILLS))
    first, second = fills if twin == "swap patterns" else ("solid", "solid")
    where, drawing = pick(rng, tuple(RELATION_WORDS)), int(rng.integers(MOST_DRAWS + 1))
    return Setting(nouns[0], colours[0], where, nouns[1], colours[1], first, second, "large", twin, drawing)


def breaking_setting(
    models: Sequence[Embedder], twin: str, size: int, rng: np.random.Generator, *, tries: int = TRIES, show: Show = nowhere
) -> Setting | None:
    """A setting at random at which the first model fails and, if there is one, another succeeds; else one at which the first fails.

    Returns:
        ``None`` where the first model told all of them apart.
    """
    failed: Setting | None = None
    for done in range(tries):
        show("looking for a pair", done, tries)
        setting = random_setting(rng, twin)
        first, *others = score_pair(models, make_pair(setting), size)
        if not first.group:
            failed = failed or setting
            if not others or any(scores.group for scores in others):
                return setting
    return failed


def told_apart(models: Sequence[Embedder], setting: Setting, size: int, *, draws: int = 20, show: Show = nowhere) -> list[int]:
    """Of so many drawings of the same facts, how many each model tells apart."""
    counts = [0] * len(models)
    for drawing in range(draws):
        show("drawing again", drawing, draws)
        pair = make_pair(replace(setting, drawing=drawing))
        for m, scores in enumerate(score_pair(models, pair, size)):
            counts[m] += scores.group
    return counts
