"""What an image says in one step: which captions and which hard negatives are drawn, from one random stream a sample."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

import numpy as np

from wholegrain.data.batch import Text
from wholegrain.data.record import Caption, Negative, Record
from wholegrain.objectives.schema import CaptionDraw, DataRecipe, NegativeDraw, selects
from wholegrain.text.words.units import unit_and_foil

Item = TypeVar("Item")
_END = re.compile(r"(?<=[.!?])\s+|\n+")
Negatives = Mapping[tuple[str, str], Sequence[Negative]]


def draw_texts(
    record: Record,
    negatives: Negatives,
    recipe: DataRecipe,
    roles: Mapping[str, int],
    kinds: Mapping[str, int],
    random: np.random.Generator,
    of_twins: Collection[str] = (),
) -> tuple[Text, ...]:
    """The texts of one image: its drawn captions in the order of the recipe's draws, each followed by its drawn negatives; then
    texts made of drawn sentences, or of parts of the drawn captions.

    Args:
        record: the image's record.
        negatives: (key, caption id) -> negatives of that caption.
        recipe: what to draw.
        roles, kinds: name -> index, of the whole data set.
        random: the sample's own stream.
        of_twins: the captions that tell the image from its twin.
    """
    texts: list[Text] = []
    captions = _captions(record, recipe, random, of_twins)
    for caption, name in captions:
        owner, role = len(texts), roles[name or caption.role]
        texts.append(Text(caption.text, role))
        for false in _negatives(negatives.get((record.key, caption.id), ()), recipe.negatives, random):
            texts.append(Text(false.text, role, owner, kinds[false.kind]))
    for draw in recipe.captions:
        if draw.sentences[1]:
            texts += [Text(text, roles[draw.name]) for text in text_crops(record.captions, draw, random)]
        elif draw.lead:
            taken = [caption.text for caption, _ in captions if selects(draw.roles, caption.role)]
            texts += [Text(first_sentences(text, draw.lead), roles[draw.name]) for text in taken[: draw.count]]
        elif draw.units:
            changed = [(c, row) for c, _ in captions if selects(draw.roles, c.role) for row in negatives.get((record.key, c.id), ())]
            for unit, foil, kind in _units(changed, draw.count, recipe.negatives, random):
                texts += [Text(unit, roles[draw.name]), Text(foil, roles[draw.name], len(texts), kinds[kind])]
    return tuple(texts)


def text_crops(captions: Sequence[Caption], draw: CaptionDraw, random: np.random.Generator) -> list[str]:
    """Texts of a few random sentences each, out of all captions that the draw takes; none if there is no such caption.

    COSMOS's text cropping (Kim et al., CVPR 2025, arXiv 2412.01814, section 3.2): "global" texts of one to five sentences, "local" ones
    of one. A text of more than one sentence takes them without replacement; texts of one take turns through a shuffled deck.
    """
    pool = [s for caption in captions if selects(draw.roles, caption.role) for s in sentences_of(caption.text)]
    if not pool:
        return []
    least, most = draw.sentences
    if most == 1:
        decks = [random.permutation(len(pool)) for _ in range(-(-draw.count // len(pool)))]
        return [pool[number] for number in np.concatenate(decks)[: draw.count]]
    counts = [min(int(random.integers(least, most + 1)), len(pool)) for _ in range(draw.count)]
    return [". ".join(pool[number] for number in random.permutation(len(pool))[:count]) for count in counts]


def sentences_of(text: str) -> list[str]:
    """The sentences of a text without their full stops; a text without any mark is one sentence.

    Example:
        >>> sentences_of("A dog runs. It is 3.5 years old! A ball")
        ['A dog runs', 'It is 3.5 years old!', 'A ball']
    """
    parts = (part.strip().rstrip(".").rstrip() for part in _END.split(text))
    return [part for part in parts if part]


def first_sentences(text: str, count: int) -> str:
    """The beginning of a text, without its last full stop; the text itself where it has no sentence.

    Example:
        >>> first_sentences("A dog runs. A ball lies there. It rains.", 2)
        'A dog runs. A ball lies there'
    """
    return ". ".join(sentences_of(text)[:count]) or text


def _captions(record: Record, recipe: DataRecipe, random: np.random.Generator, of_twins: Collection[str]) -> list[tuple[Caption, str]]:
    """Whole captions, and the name that their draw gives them."""
    left = list(record.captions)
    drawn: list[tuple[Caption, str]] = []
    for draw in recipe.captions:
        if not draw.whole:
            continue
        fits = {role: selects(draw.roles, role) for role in {caption.role for caption in left}}
        fitting = [caption for caption in left if fits[caption.role]]
        if draw.of_twins:
            fitting = [caption for caption in fitting if caption.text in of_twins] or fitting
        mixed = [fitting[number] for number in random.permutation(len(fitting)).tolist()]
        taken = (one_of_each(mixed, lambda caption: caption.role) if draw.spread else mixed)[: draw.count]
        drawn += [(caption, draw.name) for caption in taken]
        if draw is not recipe.captions[-1]:
            left = [caption for caption in left if caption not in taken]
    return drawn


def _units(
    changed: Sequence[tuple[Caption, Negative]], count: int, draw: NegativeDraw, random: np.random.Generator
) -> list[tuple[str, str, str]]:
    """So many parts of captions that negatives change, each another one: the part, its false version, the kind of negative."""
    found: dict[str, tuple[str, str, str]] = {}
    for number in random.permutation(len(changed)).tolist():
        caption, row = changed[number]
        if len(found) < count and (not draw.kinds or row.kind in draw.kinds):
            made = unit_and_foil(caption.text, row.edits)
            if made is not None:
                found.setdefault(made[0], (*made, row.kind))
    return list(found.values())


def _negatives(rows: Sequence[Negative], draw: NegativeDraw, random: np.random.Generator) -> list[Negative]:
    if draw.count == 0 or not rows or random.random() >= draw.dose:
        return []
    mixed = [rows[number] for number in random.permutation(len(rows))]
    wanted = [row for row in mixed if not draw.kinds or row.kind in draw.kinds]
    return one_of_each(wanted, lambda row: row.kind)[: draw.count]


def one_of_each(items: Sequence[Item], group: Callable[[Item], str]) -> list[Item]:
    """The first item of each group, then the second of each, and so on.

    Example:
        >>> one_of_each(["a1", "a2", "a3", "b1"], lambda item: item[0])
        ['a1', 'b1', 'a2', 'a3']
    """
    seen: Counter[str] = Counter()
    turns = []
    for item in items:
        turns.append(seen[group(item)])
        seen[group(item)] += 1
    return [items[index] for index in sorted(range(len(items)), key=lambda index: turns[index])]
