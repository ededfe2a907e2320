"""What a recipe costs beside plain CLIP: what it encodes per image, and the arithmetic of its losses."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch.utils.flop_counter import FlopCounterMode

from wholegrain.objectives.objective import Objective
from wholegrain.objectives.schema import CaptionDraw, DataRecipe, Recipe, Term
from wholegrain.verify.cases import Batch, as_type, make_batch
from wholegrain.verify.subject import evaluate

IMAGES, PATCHES, TOKENS, WIDTH = 32, 49, 16, 64
"""The problem on which arithmetic is counted."""


def encoded(recipe: Recipe) -> str:
    """What the towers encode for each image and step, where a record has all that is drawn.

    Example:
        >>> from wholegrain.objectives.recipe import load_recipe
        >>> encoded(load_recipe("negclip"))
        '1 image, 5 texts'
    """
    views, texts = 1 + sum(view.count for view in recipe.data.views), _texts_per_image(recipe.data)
    said = f"{views} image{'s' * (views > 1)}, {texts} text{'s' * (texts > 1)}"
    if recipe.teacher.kind == "none":
        return said
    seen = min(views, recipe.teacher.views)
    return f"{said}; teacher {seen}, {texts}"


def loss_work(recipe: Recipe) -> float:
    """Multiply-adds of the recipe's losses, forward and backward, in units of plain CLIP's on as many images with one caption.

    Counted, not timed, on 32 images of 49 patches and texts of 16 tokens, width 64, without towers and heads; element-wise work is
    not counted, so losses over words and patches cost more seconds than this says.
    """
    return _work(recipe) / _work(replace(recipe, terms=(Term("clip"),), data=DataRecipe()))


def _work(recipe: Recipe) -> int:
    objective, batch = Objective(term for term in recipe.terms if not term.optional), _batch(recipe.data)
    with FlopCounterMode(display=False) as counter:
        evaluate(_Summed(objective), batch)
    return counter.get_total_flops()


class _Summed:
    """An objective that is called as a loss is."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def __call__(self, image, text, pairing, scale, bias=None, state=None, *, group=None):
        return self.objective(image, text, pairing, scale, bias, group=group)


def _texts_per_image(data: DataRecipe) -> int:
    return sum(draw.count * (1 + _foils(draw, data)) for draw in data.captions)


def _foils(draw: CaptionDraw, data: DataRecipe) -> int:
    return data.negatives.count if draw.whole else int(draw.units)


def _role(draw: CaptionDraw) -> str:
    return draw.name or next((role for role in draw.roles if role != "any" and not role.startswith("-")), "web")


def _batch(data: DataRecipe) -> Batch:
    """Random features, with texts paired as the recipe draws them."""
    count = _texts_per_image(data)
    batch = make_batch(0, (count,) * IMAGES, 0, patches=PATCHES, tokens=TOKENS, width=WIDTH, duplicates=False)
    roles = tuple(dict.fromkeys(_role(draw) for draw in data.captions))
    rows: list[tuple[int, int, int]] = []  # negative_of, role, kind; of one image
    for draw in data.captions:
        for _ in range(draw.count):
            mine = len(rows)
            rows.append((-1, roles.index(_role(draw)), -1))
            rows += [(mine, roles.index(_role(draw)), kind % 2) for kind in range(_foils(draw, data))]
    negative_of, role, kind = (torch.tensor(column).repeat(IMAGES) for column in zip(*rows, strict=True))
    first = torch.arange(IMAGES).repeat_interleave(count) * count
    negative_of = torch.where(negative_of >= 0, negative_of + first, -1)
    pairing = replace(batch.pairing, negative_of_N=negative_of, role_N=role, kind_N=kind, roles=roles, kinds=("a", "b"))
    return as_type(replace(batch, pairing=pairing), torch.float32)
