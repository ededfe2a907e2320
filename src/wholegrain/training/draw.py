"""What an image says in one step: which captions and which hard negatives are drawn, from one random stream a sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from wholegrain.data.batch import Text
from wholegrain.data.record import Caption, Negative, Record
from wholegrain.objectives.schema import DataRecipe, NegativeDraw, selects

Item = TypeVar("Item")
Negatives = Mapping[tuple[str, str], Sequence[Negative]]


def stream(seed: int, position: int, purpose: int) -> np.random.Generator:
    """The random stream of one sample: the same in every process, and another one for every purpose."""
    return np.random.default_rng([seed, position, purpose])


def draw_texts(
    record: Record,
    negatives: Negatives,
    recipe: DataRecipe,
    roles: Mapping[str, int],
    kinds: Mapping[str, int],
    random: np.random.Generator,
) -> tuple[Text, ...]:
    """The texts of one image: its drawn captions in the order of the recipe's draws, each followed by its drawn negatives.

    Args:
        record: the image's record.
        negatives: (key, caption id) -> negatives of that caption.
        recipe: what to draw.
        roles, kinds: name -> index, of the whole data set.
        random: the sample's own stream.
    """
    texts: list[Text] = []
    for caption in _captions(record, recipe, random):
        place = len(texts)
        texts.append(Text(caption.text, roles[caption.role]))
        for false in _negatives(negatives.get((record.key, caption.id), ()), recipe.negatives, random):
            texts.append(Text(false.text, roles[caption.role], place, kinds[false.kind]))
    return tuple(texts)


def _captions(record: Record, recipe: DataRecipe, random: np.random.Generator) -> list[Caption]:
    left = list(record.captions)
    drawn: list[Caption] = []
    for draw in recipe.captions:
        fitting = [caption for caption in left if selects(draw.roles, caption.role)]
        mixed = [fitting[number] for number in random.permutation(len(fitting))]
        taken = (one_of_each(mixed, lambda caption: caption.role) if draw.spread else mixed)[: draw.count]
        drawn += taken
        left = [caption for caption in left if caption not in taken]
    return drawn


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
    return [items[place] for place in sorted(range(len(items)), key=lambda place: turns[place])]
