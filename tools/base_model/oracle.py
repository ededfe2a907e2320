"""A reader that knows every word and no order: what a perfect bag of words can and cannot do in this world.

The world must be rich enough that a random batch can be told apart by its bag of words, as on the web; only then does plain CLIP show
the weakness that is published of it. The oracle scores a caption by the share of its words that are facts of the picture.
"""

from __future__ import annotations

import re

import numpy as np

from wholegrain.data.scenes.captions import overview, plural
from wholegrain.data.scenes.twins import draw_twins
from wholegrain.data.scenes.world import COLOURS, FILLS, SIZES, Scene, World, draw_scene, holds


def content_words(text: str, world: World) -> frozenset[str]:
    """The words of a caption that name an object (one of several by its singular) or an attribute."""
    known = {word: word for word in (*COLOURS, *FILLS, *SIZES)} | {form: n for n in world.nouns for form in (plural(n), n)}
    return frozenset(known[word] for word in re.findall(r"[\w-]+", text) if word in known)


def facts(scene: Scene) -> frozenset[str]:
    """All words that are true of some object of the scene."""
    return frozenset(word for t in scene.things for word in (t.noun, t.colour, t.fill, t.size))


def bag_score(text: str, scene: Scene, world: World) -> float:
    """The share of the caption's content words that are facts of the scene, in 0..1."""
    words = content_words(text, world)
    return len(words & facts(scene)) / max(1, len(words))


def bag_retrieval(world: World, batch: int = 128, batches: int = 16, split: str = "val") -> float:
    """Share of captions for which the oracle finds, in a random batch, a picture that the caption is true of; ties are broken by lot."""
    found = []
    for start in range(0, batch * batches, batch):
        streams = [world.rng(split, index) for index in range(start, start + batch)]
        scenes = [draw_scene(world, rng) for rng in streams]
        bags = [facts(scene) for scene in scenes]
        for scene, rng in zip(scenes, streams, strict=True):
            caption = overview(scene, rng)
            words = content_words(caption.text, world)
            hits = np.array([len(words & bag) for bag in bags])
            found.append(np.mean([holds(caption.claim, scenes[i]) for i in np.flatnonzero(hits == hits.max())]))
    return float(np.mean(found))


def bag_twins(kind: str, world: World, count: int = 200) -> float:
    """Share of twin comparisons (each picture chooses its caption) that the oracle wins, a tie counting one half."""
    wins = []
    for index in range(count):
        (a, said_a), (b, said_b) = draw_twins(kind, world, world.rng("oracle", index), unseen=False)
        for scene, own, other in ((a, said_a, said_b), (b, said_b, said_a)):
            gap = bag_score(own.text, scene, world) - bag_score(other.text, scene, world)
            wins.append(0.5 if gap == 0 else float(gap > 0))
    return float(np.mean(wins))
