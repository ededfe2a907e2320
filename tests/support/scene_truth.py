"""Scenes as facts of questions straight from their draw, without record or picture: what a reader of records is held against, quickly."""

from collections import Counter

from wholegrain.data.scenes.world import World, draw_scene
from wholegrain.downstream.answering.scene_facts import FoundThing, SceneFacts

WORLD = World()


def scene(index, split="train"):
    return draw_scene(WORLD, WORLD.rng(split, index))


def facts_of(drawn, key):
    many = Counter(thing.noun for thing in drawn.things)
    first = {thing.noun: thing for thing in reversed(drawn.things)}
    return SceneFacts(key, tuple(
        FoundThing(noun, thing.colour, thing.fill, thing.size, many[noun], (thing.x, thing.y) if many[noun] == 1 else None) for noun, thing in first.items()
    ))  # fmt: skip


def drawn_facts(count, split="train"):
    return [facts_of(scene(index, split), f"{split}-{index}") for index in range(count)]
