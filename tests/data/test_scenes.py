"""Scenes: what captions say is checked by a reader of its own, which knows the words but none of the generator's claims."""

import re

import numpy as np
import pytest
from base_model.oracle import bag_retrieval, bag_twins
from hypothesis import given, settings
from hypothesis import strategies as st

from wholegrain.data.scenes.build import run_lengths
from wholegrain.data.scenes.captions import ROLES, plural, say
from wholegrain.data.scenes.draw import draw, masks
from wholegrain.data.scenes.glyphs import GLYPHS, mask
from wholegrain.data.scenes.twins import (
    NEGATIVE_KINDS,
    TRANSFER_KINDS,
    TWIN_KINDS,
    draw_hard_positive,
    draw_twins,
    edits_between,
    negatives,
)
from wholegrain.data.scenes.world import CROWDED, SPARSE, World, draw_scene

WORLD = World()
SIDES = {
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
WHERE = {"on the left": "left", "at the left side": "left", "on the right": "right", "at the right side": "right",
         "at the top": "top", "in the upper part": "top", "at the bottom": "bottom", "in the lower part": "bottom"}  # fmt: skip
LOOKS = {"small": "size", "large": "size", "solid": "fill", "striped": "fill", "dotted": "fill"}
COLOURS = ["red", "orange", "yellow", "green", "teal", "blue", "purple", "pink", "brown", "black"]


# --- an independent reader -----------------------------------------------------------------------------------------------------------


def read_things(text):
    """[(noun, {attribute: word}, count, place)] and the relation said between the first two."""
    names = {n: (n, 1) for n in WORLD.nouns} | {plural(n): (n, 2) for n in WORLD.nouns if plural(n) != n}
    found, said = [], {}
    count = 1
    for word in re.findall(r"[\w-]+", text):
        if word in ("a", "an", "the", "two", "three"):
            count, said = {"two": 2, "three": 3}.get(word, 1), {}
        elif word in LOOKS:
            said[LOOKS[word]] = word
        elif word in COLOURS:
            said["colour"] = word
        elif word in names:
            found.append((names[word][0], said, count))
            said, count = {}, 1
    place = next((side for words, side in WHERE.items() if text.endswith(words)), None)
    between = None
    if len(found) == 2 and place is None:
        between = next((side for side, words in SIDES.items() if any(f" {w} " in text for w in words)), None)
    return found, place, between


def seen_from(a, b):
    dx, dy = a.x - b.x, a.y - b.y
    if abs(dx) > abs(dy) * 1.5:
        return "left" if dx < 0 else "right"
    return ("above" if dy < 0 else "below") if abs(dy) > abs(dx) * 1.5 else None


def is_true(text, scene):
    for word, fact in re.findall(r"(plain|checked|ruled|shaded) (\w+) background", text):
        if (word, fact) != (scene.texture, scene.ground):
            return False
    for fact, word in re.findall(r"a (\w+) picture , (\w+)", text):
        return (fact, word) == (scene.style, scene.texture)
    found, place, between = read_things(text.split(" on a ")[0])
    fitting = [
        [t for t in scene.things if t.noun == noun and all(getattr(t, k) == v for k, v in said.items())]
        for noun, said, _ in found
    ]
    for candidates, (_, _, count) in zip(fitting, found, strict=True):
        if not candidates or (count > 1 and len(candidates) != count):
            return False
    if place:
        limits = {
            "left": lambda t: t.x < 0.38,
            "right": lambda t: t.x > 0.62,
            "top": lambda t: t.y < 0.38,
            "bottom": lambda t: t.y > 0.62,
        }
        return any(limits[place](t) for t in fitting[0])
    return between is None or any(seen_from(a, b) == between for a in fitting[0] for b in fitting[1])


# --- truth -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.booleans())
def test_no_caption_is_false_and_every_negative_is(index, crowded, unseen):
    rng = WORLD.rng("test", index)
    scene = draw_scene(WORLD, rng, CROWDED if crowded else SPARSE, unseen=unseen)
    said = say(scene, rng)
    assert {s.role for s in said} >= set(ROLES) - {"relation", "phrase"}
    for caption in said:
        assert is_true(caption.text, scene), caption.text
        for kind, text in negatives(caption, scene, WORLD, rng):
            assert not is_true(text, scene), (kind, caption.text, text)
            assert kind not in TRANSFER_KINDS


def changed_facts(old, new):
    """Which facts of two captions differ, told by the independent reader."""
    (a, place_a, between_a), (b, place_b, between_b) = read_things(old), read_things(new)
    facts = set()
    if between_a != between_b:
        facts.add("relation")
    if place_a != place_b:
        facts.add("place")
    for (noun_a, said_a, count_a), (noun_b, said_b, count_b) in zip(a, b, strict=True):
        facts |= {"object"} if noun_a != noun_b else set()
        facts |= {"count"} if count_a != count_b else set()
        facts |= {name for name in ("colour", "fill", "size") if said_a.get(name) != said_b.get(name)}
    return facts


ONE_FACT = {"replace_object": {"object"}, "replace_colour": {"colour"}, "replace_fill": {"fill"}, "replace_size": {"size"}, "relation": {"relation"},
            "place": {"place"}, "swap_attribute": {"colour"}, "swap_fill": {"fill"}}  # fmt: skip


def test_negatives_differ_in_the_stated_fact_and_every_kind_occurs():
    seen = set()
    for index in range(150):
        rng = WORLD.rng("kinds", index)
        scene = draw_scene(WORLD, rng)
        for caption in say(scene, rng):
            for kind, text in negatives(caption, scene, WORLD, rng):
                seen.add(kind)
                if kind == "swap_object":
                    assert sorted(caption.text.split()) != caption.text.split()
                    assert read_things(text)[0] == read_things(caption.text)[0][::-1]
                else:
                    assert changed_facts(caption.text, text) == ONE_FACT[kind], (kind, caption.text, text)
    assert seen == set(NEGATIVE_KINDS)


@pytest.mark.parametrize("kind", TWIN_KINDS)
def test_each_twin_caption_is_true_of_exactly_one_twin_and_differs_in_one_fact(kind):
    for index in range(40):
        (a, said_a), (b, said_b) = draw_twins(kind, WORLD, WORLD.rng(kind, index), unseen=index % 2 == 0)
        table = [[is_true(said.text, scene) for said in (said_a, said_b)] for scene in (a, b)]
        assert table == [[True, False], [False, True]], (said_a.text, said_b.text)
        if kind == "swap_object":
            assert read_things(said_a.text)[0] == read_things(said_b.text)[0][::-1]
        else:
            assert changed_facts(said_a.text, said_b.text) == ONE_FACT[kind]
        assert (a.ground, a.texture, a.style) == (b.ground, b.texture, b.style)


@pytest.mark.parametrize("kind", TWIN_KINDS)
def test_text_alone_cannot_tell_twins(kind):
    """The order within a pair is a fair coin, and swapping the pair gives an equally likely item: lengths are balanced, too."""
    first, longer = 0, 0
    count = 300
    for index in range(count):
        (_, a), (_, b) = draw_twins(kind, WORLD, WORLD.rng("coin " + kind, index), unseen=False)
        first += a.text < b.text
        longer += np.sign(len(a.text) - len(b.text))
    assert abs(first - count / 2) < 4 * np.sqrt(count) / 2
    assert abs(longer) < 4 * np.sqrt(count)


def test_hard_positives_have_two_true_wordings_and_a_false_one():
    for index in range(60):
        scene, said, same, false = draw_hard_positive(WORLD, WORLD.rng("hard", index), unseen=True)
        assert [is_true(c.text, scene) for c in (said, same, false)] == [True, True, False]
        assert said.text != same.text


def test_the_bag_of_words_oracle_retrieves_well_and_is_blind_to_order():
    """The gates of the world: a random batch can be told apart by its words, a swap or an inverted relation cannot."""
    assert bag_retrieval(WORLD, batch=128, batches=8) >= 0.98
    for kind in ("swap_object", "swap_attribute", "swap_fill"):
        assert bag_twins(kind, WORLD, 100) == 0.5
    assert bag_twins("replace_object", WORLD, 100) == 1.0


# --- novelty, determinism, pictures --------------------------------------------------------------------------------------------------


def test_held_out_combinations_and_wordings_never_appear_in_training():
    for index in range(400):
        rng = WORLD.rng("train", index)
        scene = draw_scene(WORLD, rng)
        assert not any(WORLD.is_held_out(t.noun, t.colour) for t in scene.things)
        assert not any({"drawing", "beside", "lies"} & set(s.text.split()) for s in say(scene, rng))
    tested = [draw_scene(WORLD, WORLD.rng("test", i), unseen=True) for i in range(50)]
    assert all(WORLD.is_held_out(s.things[0].noun, s.things[0].colour) for s in tested)
    share = np.mean([WORLD.is_held_out(n, c) for n in WORLD.nouns for c in COLOURS])
    assert 0.05 < share < 0.15


def test_glyph_sets_are_disjoint_and_every_silhouette_has_its_own_shape():
    assert len(GLYPHS["A"]) == len(GLYPHS["B"]) == 60
    assert not set(GLYPHS["A"]) & set(GLYPHS["B"])
    shapes = [mask(noun, 24) for names in GLYPHS.values() for noun in names]
    assert all(0.03 < shape.mean() < 0.95 for shape in shapes)
    flat = np.stack([s.ravel() for s in shapes])
    gap = np.abs(flat[:, None] - flat[None]).mean(-1) + np.eye(len(flat))
    assert gap.min() > 0.02


def test_a_scene_is_a_function_of_world_split_and_index():
    one, same = (draw(draw_scene(WORLD, WORLD.rng("train", 5))) for _ in range(2))
    other_seed, other_split = World(seed=1).rng("train", 5), WORLD.rng("val", 5)
    assert np.array_equal(one, same)
    assert not np.array_equal(one, draw(draw_scene(WORLD, other_seed)))
    assert not np.array_equal(one, draw(draw_scene(WORLD, other_split)))
    assert World().hash != World(size=96).hash


@pytest.mark.parametrize("size", [64, 96, 128])
def test_masks_cover_what_was_painted(size):
    for index in range(20):
        scene = draw_scene(WORLD, WORLD.rng("masks", index))
        picture, pages = draw(scene, size).astype(int), masks(scene, size)
        assert picture.shape == (size, size, 3)
        assert not (np.sum(pages, 0) > 1).any(), "objects overlap"
        for thing, page in zip(scene.things, pages, strict=True):
            rows, columns = np.nonzero(page)
            assert abs(rows.mean() / size - thing.y) < 0.12
            assert abs(columns.mean() / size - thing.x) < 0.12


@settings(max_examples=50, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_run_lengths_restore_the_mask(bits):
    lengths = run_lengths(np.array([bits]))
    restored = [bool(i % 2) for i, n in enumerate(lengths) for _ in range(n)]
    assert restored == bits


def test_edits_say_where_the_words_changed():
    old, new = "a red cup left of a sun", "a red cup right of an anchor"
    edits = edits_between(old, new)
    text, shift = old, 0
    for start, end, was, now in edits:
        assert old[start:end] == was
        text = text[: start + shift] + now + text[end + shift :]
        shift += len(now) - (end - start)
    assert text == new
