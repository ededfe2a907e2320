"""What an image says in one step: which captions and which hard negatives are drawn, from one random stream a sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from wholegrain.data.batch import Text
from wholegrain.data.record import Caption, Negative, Record
from wholegrain.objectives.schema import DataRecipe, NegativeDraw, selects

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
        fitting = [place for place, caption in enumerate(left) if selects(draw.roles, caption.role)]
        taken = random.permutation(len(fitting))[: draw.count]
        places = [fitting[number] for number in taken]
        drawn += [left[place] for place in places]
        left = [caption for place, caption in enumerate(left) if place not in places]
    return drawn


def _negatives(rows: Sequence[Negative], draw: NegativeDraw, random: np.random.Generator) -> list[Negative]:
    """One of each kind first, in a random order of kinds, then a second of each, until there are enough."""
    if draw.count == 0 or not rows or random.random() >= draw.dose:
        return []
    seen: dict[str, int] = {}
    ranked = []
    for number in random.permutation(len(rows)):
        row = rows[number]
        if draw.kinds and row.kind not in draw.kinds:
            continue
        turn = seen[row.kind] = seen.get(row.kind, -1) + 1
        ranked.append((turn, len(ranked), row))
    return [row for _, _, row in sorted(ranked, key=lambda item: item[:2])[: draw.count]]
