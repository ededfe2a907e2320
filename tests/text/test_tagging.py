"""The built-in tagger where neighbours decide, and the noun phrases that follow from it."""

import numpy as np
import pytest

from wholegrain.data.scenes.captions import noun_phrase, say
from wholegrain.data.scenes.world import World, draw_scene
from wholegrain.text.words.phrases import NounPhrases
from wholegrain.text.words.tagging import BuiltinTagger


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("a ruled white background", ["a ruled white background"]),
        ("two shaded trees beside a painted wall", ["two shaded trees", "a painted wall"]),
        ("his framed poster and a barking dog", ["his framed poster", "a barking dog"]),
        ("a dog chased a cat", ["a dog", "a cat"]),
        ("a man that chased dogs", ["a man", "dogs"]),
        ("two wearing hats", ["hats"]),
        ("both carried bags", ["bags"]),
    ],
)
def test_a_participle_belongs_to_the_noun_that_it_describes(text, phrases):
    assert NounPhrases()([text]) == [tuple(phrases)]


def held(text, *phrases):
    assert NounPhrases()([text]) == [phrases]


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("two men in crowded streets", ["two men", "crowded streets"]),
        ("a dog on freshly mowed grass", ["a dog", "freshly mowed grass"]),
        ("girls in matching green outfits", ["girls", "matching green outfits"]),
        ("a man in orange and white swimming trunks", ["a man", "orange and white swimming trunks"]),
        ("an orange floating toy", ["an orange floating toy"]),
        ("a dog on a snow covered hill", ["a dog", "a snow covered hill"]),
        ("a medium sized black dog", ["a medium sized black dog"]),
        ("a graffiti covered wall", ["a graffiti covered wall"]),
        ("a man painted walls", ["a man", "walls"]),
        ("a small boat called Neptuno", ["a small boat", "Neptuno"]),
        ("a man in red skiing", ["a man", "red"]),
        ("a dotted crescent placed over a flag", ["a dotted crescent", "a flag"]),
    ],
)
def test_a_participle_also_describes_behind_a_preposition_an_adverb_and_a_noun(text, phrases):
    held(text, *phrases)


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("a long white stick in shallow water", ["a long white stick", "shallow water"]),
        ("a girl jumps high in the air", ["a girl", "the air"]),
        ("a room full of people", ["a room", "people"]),
        ("a light blue shirt and a light colored dog", ["a light blue shirt", "a light colored dog"]),
        ("a lamp gives light", ["a lamp", "light"]),
        ("a white and gold shirt", ["a white and gold shirt"]),
        ("red , white , and blue hurdles", ["red , white , and blue hurdles"]),
        ("a short , fat man on a cold but sunny day", ["a short , fat man", "a cold but sunny day"]),
        ("a woman in black and white on a horse", ["a woman", "black and white", "a horse"]),
        ("a very steep rock wall", ["a very steep rock wall"]),
        ("a woman in brightly colored clothes", ["a woman", "brightly colored clothes"]),
        ("a man runs quickly", ["a man"]),
    ],
)
def test_adjectives_stand_before_their_noun_alone_listed_or_graded(text, phrases):
    held(text, *phrases)


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("a man in winter costumes", ["a man", "winter costumes"]),
        ("two pug dogs on railroad tracks", ["two pug dogs", "railroad tracks"]),
        ("they jump their BMX bikes into the air", ["their BMX bikes", "the air"]),
        ("cups and bottles of water", ["cups", "bottles", "water"]),
        ("a dog bears its teeth", ["a dog", "its teeth"]),
        ("a man bikes down a hill", ["a man", "a hill"]),
        ("a man in a tan coat lights torches", ["a man", "a tan coat", "torches"]),
        ("a girl in red jumps off a rock", ["a girl", "red", "a rock"]),
        ("a man in red shorts", ["a man", "red shorts"]),
        ("an adult holds a cup", ["an adult", "a cup"]),
        ("two boys in small waves", ["two boys", "small waves"]),
        ("a boy runs as another watches", ["a boy"]),
        ("a sports uniform", ["a sports uniform"]),
    ],
)
def test_a_word_in_s_is_a_plural_or_a_deed(text, phrases):
    held(text, *phrases)


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("two people in black clothing stand together", ["two people", "black clothing"]),
        ("two men dressed in black stand by a car", ["two men", "black", "a car"]),
        ("two kids wearing jeans squirt water", ["two kids", "jeans", "water"]),
        ("two people at an ice cream stand", ["two people", "an ice cream stand"]),
        ("a man and a dog run", ["a man", "a dog"]),
        ("a star and a cup on a plain sky background", ["a star", "a cup", "a plain sky background"]),
        ("a woman in a jeans skirt", ["a woman", "a jeans skirt"]),
        ("two men rock climbing", ["two men"]),
        ("a man on a big rock overlooking a valley", ["a man", "a big rock", "a valley"]),
        ("his shot at a basket", ["his shot", "a basket"]),
    ],
)
def test_the_base_form_of_a_verb_ends_a_phrase_and_stands_in_compounds(text, phrases):
    held(text, *phrases)


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("a little girl in a child 's red swing", ["a little girl", "a child 's red swing"]),
        ("a brown dog's head", ["a brown dog's head"]),
        ("a cart that 's red", ["a cart"]),
        ("two dogs bite each other on the back", ["two dogs", "the back"]),
        ("a dog looks back and rolls on its back", ["a dog", "its back"]),
        ("its back legs", ["its back legs"]),
        ("his next subject", ["his next subject"]),
        ("a girl hangs upside down", ["a girl"]),
        ("a boy in t-shirts on a four-wheeler", ["a boy", "t-shirts", "a four-wheeler"]),
        ("a long-haired dog hangs upside-down", ["a long-haired dog"]),
    ],
)
def test_owners_places_and_words_with_hyphens(text, phrases):
    held(text, *phrases)


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("a woman in a tank top in front of a wall", ["a woman", "a tank top", "a wall"]),
        ("a purple top at the top", ["a purple top"]),
        ("a cup in the lower part of the picture", ["a cup"]),
        ("a drawing that shows a cup right of a star", ["a cup", "a star"]),
        ("a closeup of a cat on the left side", ["a cat"]),
        ("front legs or the right arm", ["front legs", "the right arm"]),
    ],
)
def test_a_part_of_the_frame_is_no_phrase_and_a_thing_that_is_called_so_is(text, phrases):
    held(text, *phrases)


def _said(caption):
    """The phrases of a scene's caption, in the order of its template."""
    claim = caption.claim
    places = {}
    for name, mention in zip("abcdef", claim.mentions, strict=False):
        places[caption.template.find(f"{{{name}}}")] = noun_phrase(mention)
        places[caption.template.find(f"{{{name}_noun}}")] = ("the " if caption.role == "relation" else "") + mention.noun
    found = [phrase for place, phrase in sorted(places.items()) if place >= 0]
    return (*found, f"a {claim.texture} {claim.ground} background") if "background" in caption.template else tuple(found)


@pytest.mark.parametrize("glyphs", ["A", "B"])
def test_every_phrase_of_the_scenes_is_found(glyphs):
    world = World(glyphs=glyphs)
    for index in range(60):
        scene = draw_scene(world, world.rng("train", index))
        captions = [caption for number in range(3) for caption in say(scene, np.random.default_rng(number))]
        assert NounPhrases()([caption.text for caption in captions]) == [_said(caption) for caption in captions]


def test_the_version_is_written():
    assert BuiltinTagger().identity == "builtin 3"
