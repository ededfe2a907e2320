"""What can be said of a scene: true claims in every role, and their wordings.

A claim is drawn first (so that its truth is known), then worded. Twelve wordings of an overview are for training, four are held out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from wholegrain.data.scenes.world import (
    COLOURS,
    FILLS,
    GROUNDS,
    NAMED,
    SIZES,
    STYLES,
    TEXTURES,
    Claim,
    Mention,
    Scene,
    Thing,
    World,
    pick,
    related_pairs,
    relation,
)

ROLES = ("overview", "main_object", "background", "nouns", "style", "relation", "detail", "phrase")

PLAIN_WORDINGS = (
    "{a} and {b}",
    "a picture of {a} and {b}",
    "{a} with {b}",
    "there is {a} and {b}",
    "we see {a} and also {b}",
    "{a} , {b}",
)
RELATION_WORDINGS = (
    "{a} {r} {b}", "a picture of {a} {r} {b}", "there is {a} {r} {b}", "we see {a} {r} {b}", "{a} is {r} {b}", "{a} placed {r} {b}",
)  # fmt: skip
HELD_OUT_PLAIN = ("a drawing that shows {a} and {b}", "{a} beside {b}")
HELD_OUT_RELATION = ("a drawing of {a} {r} {b}", "here {a} lies {r} {b}")
RELATION_WORDS = {
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
PLACE_WORDS = {
    "left": ("on the left", "at the left side"),
    "right": ("on the right", "at the right side"),
    "top": ("at the top", "in the upper part"),
    "bottom": ("at the bottom", "in the lower part"),
}
NUMBERS = {1: "a", 2: "two", 3: "three"}
_PLURALS = {"leaf": "leaves", "scissors": "scissors", "scales": "scales", "fish": "fish", "cross": "crosses", "die": "dice",
            "radiation": "radiation signs", "biohazard": "biohazard signs", "hash": "hashes", "lily": "lilies", "mercury": "mercuries",
            "infinity": "infinities", "plus": "pluses", "venus": "venuses", "mars": "marses"}  # fmt: skip


def plural(noun: str) -> str:
    """The plural of a glyph's noun."""
    return _PLURALS.get(noun, noun + "s")


def noun_phrase(m: Mention) -> str:
    """A mention in words, with its article or number: "a large striped red cup", "two cups", "an anchor"."""
    words = [w for w in (m.size, m.fill, m.colour) if w] + [plural(m.noun) if m.count > 1 else m.noun]
    article = NUMBERS[m.count] if m.count > 1 or words[0][0] not in "aeiou" else "an"
    return " ".join([article, *words])


@dataclass(frozen=True)
class SceneCaption:
    """A caption: the claim it makes, its role, and the template and word variant it is worded with.

    Another claim of the same form is put into the same words by :meth:`reword`; that is how negatives and twins are made.
    """

    claim: Claim
    role: str
    template: str
    variant: int = 0

    @property
    def text(self) -> str:
        """The caption in words."""
        names = {name: noun_phrase(m) for name, m in zip("abcdef", self.claim.mentions, strict=False)}
        nouns = {f"{name}_noun": m.noun for name, m in zip("abcdef", self.claim.mentions, strict=False)}
        if self.claim.relation:
            names["r"] = RELATION_WORDS[self.claim.relation][self.variant]
        if self.claim.mentions and self.claim.mentions[0].place:
            names["p"] = PLACE_WORDS[self.claim.mentions[0].place][self.variant]
        c = self.claim
        return self.template.format(**names, **nouns, ground=c.ground, texture=c.texture, style=c.style)

    def reword(self, claim: Claim) -> SceneCaption:
        """The same template and variant with another claim of the same form."""
        return replace(self, claim=claim)


TRAINING_WORDINGS = (PLAIN_WORDINGS, RELATION_WORDINGS)
HELD_OUT_WORDINGS = (HELD_OUT_PLAIN, HELD_OUT_RELATION)
Wordings = tuple[Sequence[str], Sequence[str]]  # (without relation, with relation)


def _alike(scene: Scene, thing: Thing) -> int:
    return sum(t.noun == thing.noun for t in scene.things)


def singles(scene: Scene) -> tuple[Thing, ...]:
    """The objects that are alone of their noun."""
    return tuple(t for t in scene.things if _alike(scene, t) == 1)


def draw_mention(scene: Scene, thing: Thing, rng: np.random.Generator, *, attributes: bool = True) -> Mention:
    """Some true things about an object, each as often as ``NAMED`` says; the number where there are several alike."""
    said = {name: getattr(thing, name) for name, share in NAMED.items() if attributes and rng.random() < share}
    return Mention(thing.noun, **said, count=_alike(scene, thing))


def draw_overview(scene: Scene, rng: np.random.Generator, *, relation_share: float = 0.5) -> Claim:
    """Two objects of different nouns; in half of the cases, where it is clear, the relation of the first to the second."""
    pairs = related_pairs(scene)
    if pairs and rng.random() < relation_share:
        a, b = pick(rng, pairs)
        return Claim((draw_mention(scene, a, rng), draw_mention(scene, b, rng)), relation=relation(a, b))
    one_each = list({t.noun: t for t in scene.things}.values())
    order = rng.permutation(len(one_each))
    return Claim(tuple(draw_mention(scene, one_each[i], rng) for i in order[:2]))


def overview(scene: Scene, rng: np.random.Generator, wordings: Wordings = TRAINING_WORDINGS) -> SceneCaption:
    """Two objects, with or without their relation."""
    claim = draw_overview(scene, rng)
    return SceneCaption(claim, "overview", pick(rng, wordings[claim.relation is not None]), int(rng.integers(2)))


def main_object(scene: Scene, rng: np.random.Generator) -> SceneCaption:
    """One object and, where it is clear, its absolute place in the picture."""
    thing = pick(rng, singles(scene) or scene.things)
    mention = draw_mention(scene, thing, rng)
    where = thing.places() if mention.count == 1 else ()
    if not where:
        return SceneCaption(Claim((mention,)), "main_object", "{a}")
    return SceneCaption(Claim((replace(mention, place=pick(rng, where)),)), "main_object", "{a} {p}", int(rng.integers(2)))


def background(scene: Scene, rng: np.random.Generator) -> SceneCaption:
    """The ground's colour and texture, naming no object."""
    return SceneCaption(Claim(ground=scene.ground, texture=scene.texture), "background", "a {texture} {ground} background")


def style(scene: Scene, rng: np.random.Generator) -> SceneCaption:
    """How the picture looks as a whole, naming no object."""
    return SceneCaption(Claim(style=scene.style, texture=scene.texture), "style", "a {style} picture , {texture}")


def nouns(scene: Scene, rng: np.random.Generator) -> SceneCaption:
    """The names of all objects."""
    names = list(dict.fromkeys(t.noun for t in scene.things))
    claim = Claim(tuple(Mention(names[i]) for i in rng.permutation(len(names))))
    return SceneCaption(claim, "nouns", " , ".join(f"{{{name}_noun}}" for name in "abcdef"[: len(names)]))


def detail(scene: Scene, rng: np.random.Generator) -> SceneCaption:
    """Every object with all its attributes, then the background."""
    one_each = list({t.noun: t for t in scene.things}.values())
    chosen = [one_each[i] for i in rng.permutation(len(one_each))]
    mentions = tuple(Mention(t.noun, t.colour, t.fill, t.size, count=_alike(scene, t)) for t in chosen)
    listed = " and ".join(f"{{{name}}}" for name in "abcdef"[: len(mentions)])
    claim = Claim(mentions, ground=scene.ground, texture=scene.texture)
    return SceneCaption(claim, "detail", listed + " on a {texture} {ground} background")


def relation_only(scene: Scene, rng: np.random.Generator) -> SceneCaption | None:
    """Two bare nouns and their relation; ``None`` if no relation is clear."""
    pairs = related_pairs(scene)
    if not pairs:
        return None
    a, b = pick(rng, pairs)
    claim = Claim((Mention(a.noun), Mention(b.noun)), relation=relation(a, b))
    return SceneCaption(claim, "relation", "the {a_noun} is {r} the {b_noun}", int(rng.integers(2)))


def phrases(scene: Scene, rng: np.random.Generator) -> list[SceneCaption]:
    """One noun phrase per object that is alone of its noun."""
    return [SceneCaption(Claim((draw_mention(scene, thing, rng),)), "phrase", "{a}") for thing in singles(scene)]


def say(scene: Scene, rng: np.random.Generator, wordings: Wordings = TRAINING_WORDINGS) -> list[SceneCaption]:
    """All captions of a scene, one per role (a ``phrase`` per single object), the relation only where one is clear."""
    made = [overview(scene, rng, wordings)]
    made += [make(scene, rng) for make in (main_object, background, nouns, style, detail)]
    related = relation_only(scene, rng)
    return [*made, *([related] if related else []), *phrases(scene, rng)]


def vocabulary(world: World) -> list[str]:
    """Texts that together hold every word of the world, held-out wordings included: what a tokeniser must know."""
    nouns = [*world.nouns, *(plural(noun) for noun in world.nouns)]
    templates = [*PLAIN_WORDINGS, *RELATION_WORDINGS, *HELD_OUT_PLAIN, *HELD_OUT_RELATION]
    bare = [template.format(a="", b="", r="") for template in templates]
    related = [words for table in (RELATION_WORDS, PLACE_WORDS) for pair in table.values() for words in pair]
    looks = [
        *COLOURS,
        *FILLS,
        *SIZES,
        *GROUNDS,
        *TEXTURES,
        *STYLES,
        *NUMBERS.values(),
        "an",
        "the",
        "is",
        "on",
        "picture",
        "background",
        "and",
        ",",
    ]
    return [" ".join(nouns), *bare, *related, " ".join(looks)]
