"""Two scenes that differ in one fact, the captions that tell them apart, hard negatives and hard positives.

An edit changes a claim and a scene together: of (scene, claim) it makes (scene', claim') such that each claim is true of exactly its own
scene. Edits are symmetric (the edited pair is as likely as the original), so text alone cannot tell which caption is which picture's.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from wholegrain.data.scenes.captions import (
    HELD_OUT_WORDINGS,
    SceneCaption,
    Wordings,
    draw_mention,
    singles,
)
from wholegrain.data.scenes.world import (
    COLOURS,
    FILLS,
    INVERSE,
    PLACES,
    SIZES,
    SPARSE,
    Claim,
    Density,
    Mention,
    Scene,
    Thing,
    World,
    draw_scene,
    fits_together,
    holds,
    pick,
    related_pairs,
    relation,
)

TWIN_KINDS = (
    "replace_object", "replace_colour", "replace_fill", "replace_size", "relation", "swap_attribute", "swap_object", "swap_fill",
)  # fmt: skip
TRANSFER_KINDS = ("swap_fill",)  # never trained on: it measures transfer
NEGATIVE_KINDS = (
    "replace_object", "replace_colour", "replace_fill", "replace_size", "relation", "place", "swap_attribute", "swap_object",
)  # fmt: skip
ATTRIBUTES = {"colour": tuple(COLOURS), "fill": FILLS, "size": tuple(SIZES)}


# --- edits of a claim: hard negatives ------------------------------------------------------------------------------------------------


def edit_claim(kind: str, claim: Claim, world: World, rng: np.random.Generator) -> Claim | None:
    """The claim with one fact of ``kind`` changed, or ``None`` if it says nothing of that kind. Truth is not checked here."""
    mentions = claim.mentions
    if kind == "replace_object" and mentions:
        named = {m.noun for m in mentions}
        return _change(claim, int(rng.integers(len(mentions))), noun=pick(rng, [n for n in world.nouns if n not in named]))
    if kind in ("replace_colour", "replace_fill", "replace_size"):
        return _replace_attribute(kind.removeprefix("replace_"), claim, rng)
    if kind == "relation" and claim.relation:
        return replace(claim, relation=INVERSE[claim.relation])
    if kind == "place" and mentions and mentions[0].place:
        return _change(claim, 0, place=PLACES[PLACES.index(mentions[0].place) ^ 1])
    if kind == "swap_object" and claim.relation:
        return replace(claim, mentions=(mentions[1], mentions[0]))
    if kind == "swap_attribute":
        return _swap(claim, "colour")
    if kind == "swap_fill":
        return _swap(claim, "fill")
    if kind == "add" and len(mentions) == 2 and not claim.relation:
        named = {m.noun for m in mentions}
        return replace(claim, mentions=(*mentions, Mention(pick(rng, [n for n in world.nouns if n not in named]))))
    return None


def _replace_attribute(name: str, claim: Claim, rng: np.random.Generator) -> Claim | None:
    named = [i for i, m in enumerate(claim.mentions) if getattr(m, name)]
    if not named:
        return None
    i = pick(rng, named)
    return _change(claim, i, **{name: pick(rng, [v for v in ATTRIBUTES[name] if v != getattr(claim.mentions[i], name)])})


def _swap(claim: Claim, name: str) -> Claim | None:
    if len(claim.mentions) < 2:
        return None
    first, second = (getattr(m, name) for m in claim.mentions[:2])
    if not first or not second or first == second:
        return None
    return _change(_change(claim, 0, **{name: second}), 1, **{name: first})


def _change(claim: Claim, which: int, **facts) -> Claim:
    mentions = list(claim.mentions)
    mentions[which] = replace(mentions[which], **facts)
    return replace(claim, mentions=tuple(mentions))


def negatives(caption: SceneCaption, scene: Scene, world: World, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    """(kind, text) of one hard negative for each kind that the caption allows; each is false of the scene."""
    for kind in NEGATIVE_KINDS:
        claim = edit_claim(kind, caption.claim, world, rng)
        if claim is not None and not holds(claim, scene):
            yield kind, caption.reword(claim).text


def edits_between(old: str, new: str) -> tuple[tuple[int, int, str, str], ...]:
    """Word-level edits (start, end, old, new) in code points of ``old``.

    Example:
        >>> edits_between("a red cup", "a blue cup")
        ((2, 5, 'red', 'blue'),)
    """
    words = [(m.start(), m.end()) for m in re.finditer(r"\S+", old)]
    others = [(m.start(), m.end()) for m in re.finditer(r"\S+", new)]
    matcher = difflib.SequenceMatcher(None, [old[a:b] for a, b in words], [new[a:b] for a, b in others], autojunk=False)
    edits = []
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag == "equal":
            continue
        start = words[i1][0] if i1 < len(words) else len(old)
        end = words[i2 - 1][1] if i2 > i1 else start
        edits.append((start, end, old[start:end], new[others[j1][0] : others[j2 - 1][1]] if j2 > j1 else ""))
    return tuple(edits)


# --- edits of a scene and a claim together: twins ------------------------------------------------------------------------------------


def draw_twins(
    kind: str,
    world: World,
    rng: np.random.Generator,
    *,
    unseen: bool,
    wordings: Wordings = HELD_OUT_WORDINGS,
    density: Density = SPARSE,
) -> tuple[tuple[Scene, SceneCaption], tuple[Scene, SceneCaption]]:
    """Two scenes and their captions, in random order; each caption is true of its own scene and false of the other."""
    while True:
        scene = draw_scene(world, rng, replace(density, plural=0.0), unseen=unseen)
        made = _TWIN_MAKERS[kind](scene, world, rng)
        if made is None:
            continue
        claim, other_scene, other_claim = made
        truths = (holds(claim, scene), holds(other_claim, other_scene), holds(claim, other_scene), holds(other_claim, scene))
        if truths != (True, True, False, False) or not _same_novelty(scene, other_scene, world):
            continue
        caption = SceneCaption(claim, "overview", pick(rng, wordings[claim.relation is not None]), int(rng.integers(2)))
        pair = ((scene, caption), (other_scene, caption.reword(other_claim)))
        return pair if rng.random() < 0.5 else (pair[1], pair[0])


def _same_novelty(a: Scene, b: Scene, world: World) -> bool:
    """Neither scene may be told by its combinations: both hold as many held-out ones."""
    unseen = [len({(t.noun, t.colour) for t in s.things if world.is_held_out(t.noun, t.colour)}) for s in (a, b)]
    return unseen[0] == unseen[1]


Made = tuple[Claim, Scene, Claim] | None


def _pair(scene: Scene, rng: np.random.Generator) -> tuple[Thing, Thing]:
    single = singles(scene)
    i, j = rng.permutation(len(single))[:2]
    return single[i], single[j]


def _put(scene: Scene, changes: dict[Thing, Thing]) -> Scene:
    return replace(scene, things=tuple(changes.get(t, t) for t in scene.things))


def _replace_object(scene: Scene, world: World, rng: np.random.Generator) -> Made:
    a, b = _pair(scene, rng)
    present = {t.noun for t in scene.things}
    new = replace(a, noun=pick(rng, [n for n in world.nouns if n not in present]))
    mention, other = draw_mention(scene, a, rng), draw_mention(scene, b, rng)
    return _in_order(rng, mention, other, replace(mention, noun=new.noun), _put(scene, {a: new}))


def _replace_attribute_twin(name: str) -> Callable[[Scene, World, np.random.Generator], Made]:
    def make(scene: Scene, world: World, rng: np.random.Generator) -> Made:
        a, b = _pair(scene, rng)
        value = pick(rng, [v for v in ATTRIBUTES[name] if v != getattr(a, name)])
        changed = _put(scene, {a: replace(a, **{name: value})})
        if not fits_together(changed.things):
            return None
        mention = replace(draw_mention(scene, a, rng), **{name: getattr(a, name)})
        return _in_order(rng, mention, draw_mention(scene, b, rng), replace(mention, **{name: value}), changed)

    return make


def _in_order(rng: np.random.Generator, mention: Mention, other: Mention, changed: Mention, scene: Scene) -> Made:
    if rng.random() < 0.5:
        return Claim((mention, other)), scene, Claim((changed, other))
    return Claim((other, mention)), scene, Claim((other, changed))


def _exchange(scene: Scene, rng: np.random.Generator) -> tuple[Claim, Scene] | None:
    """A claim with a relation, and the scene in which the two objects have changed places."""
    pairs = related_pairs(scene)
    if not pairs:
        return None
    a, b = pick(rng, pairs)
    changed = _put(scene, {a: replace(a, x=b.x, y=b.y), b: replace(b, x=a.x, y=a.y)})
    if not fits_together(changed.things):
        return None
    return Claim((draw_mention(scene, a, rng), draw_mention(scene, b, rng)), relation=relation(a, b)), changed


def _relation(scene: Scene, world: World, rng: np.random.Generator) -> Made:
    made = _exchange(scene, rng)
    if made is None:
        return None
    claim, changed = made
    return claim, changed, replace(claim, relation=INVERSE[str(claim.relation)])


def _swap_object(scene: Scene, world: World, rng: np.random.Generator) -> Made:
    made = _exchange(scene, rng)
    if made is None:
        return None
    claim, changed = made
    return claim, changed, replace(claim, mentions=(claim.mentions[1], claim.mentions[0]))


def _swap_twin(name: str) -> Callable[[Scene, World, np.random.Generator], Made]:
    def make(scene: Scene, world: World, rng: np.random.Generator) -> Made:
        a, b = _pair(scene, rng)
        first, second = getattr(a, name), getattr(b, name)
        if first == second:
            return None
        changed = _put(scene, {a: replace(a, **{name: second}), b: replace(b, **{name: first})})
        mentions = tuple(replace(draw_mention(scene, t, rng), **{name: getattr(t, name)}) for t in (a, b))
        claim = Claim(mentions)
        other = _swap(claim, name)
        return None if other is None else (claim, changed, other)

    return make


_TWIN_MAKERS: dict[str, Callable[[Scene, World, np.random.Generator], Made]] = {
    "replace_object": _replace_object,
    "replace_colour": _replace_attribute_twin("colour"),
    "replace_fill": _replace_attribute_twin("fill"),
    "replace_size": _replace_attribute_twin("size"),
    "relation": _relation,
    "swap_attribute": _swap_twin("colour"),
    "swap_object": _swap_object,
    "swap_fill": _swap_twin("fill"),
}


def draw_hard_positive(
    world: World, rng: np.random.Generator, *, unseen: bool, wordings: Wordings = HELD_OUT_WORDINGS
) -> tuple[Scene, SceneCaption, SceneCaption, SceneCaption]:
    """A scene, two true wordings ("A left of B", "B right of A") and a false one ("A right of B")."""
    while True:
        scene = draw_scene(world, rng, unseen=unseen)
        pairs = related_pairs(scene)
        if not pairs:
            continue
        a, b = pick(rng, pairs)
        where = relation(a, b)
        assert where is not None
        claim = Claim((draw_mention(scene, a, rng), draw_mention(scene, b, rng)), relation=where)
        caption = SceneCaption(claim, "overview", pick(rng, wordings[1]), int(rng.integers(2)))
        same = caption.reword(Claim((claim.mentions[1], claim.mentions[0]), relation=INVERSE[where]))
        false = caption.reword(replace(claim, relation=INVERSE[where]))
        if not holds(false.claim, scene):
            return scene, caption, same, false
