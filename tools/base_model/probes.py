"""What a linear classifier reads from a model's own features: an attribute that it cannot read is not there for any score to find.

Of single things from the mean over the patches that they cover (colour, fill, size); of the whole picture from its pooled vector (ground,
texture, style, and how many things are alike). A kind of twins is built on an attribute only if its probe reads it: what the features do
not hold, no method that fine-tunes them for a few hundred steps can be blamed for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wholegrain.data.scenes.draw import draw, masks
from wholegrain.data.scenes.world import COLOURS, FILLS, GROUNDS, SIZES, STYLES, TEXTURES, Scene, World, draw_scene
from wholegrain.evaluation.tasks.linear_probe import LabelledFeatures, choose_l2, fit_logistic
from wholegrain.towers.model import Model

OF_THINGS = {"colour": tuple(COLOURS), "fill": FILLS, "size": tuple(SIZES)}
OF_PICTURES = {"ground": tuple(GROUNDS), "texture": TEXTURES, "style": STYLES}


@dataclass(frozen=True)
class Reading:
    """How well a probe reads an attribute of scenes that it was not fitted on.

    Attributes:
        share: read rightly, 0..1.
        commonest: what always naming the commonest value would score.
    """

    share: float
    commonest: float


@torch.inference_mode()
def _features(model: Model, scenes: list[Scene], size: int, batch: int = 250) -> tuple[Tensor, list[Tensor]]:
    """Pooled vectors ``[N, V]``, and for each scene ``[things, D]``: means over the patches that a thing covers, by their covers."""
    pooled, things = [], []
    for start in range(0, len(scenes), batch):
        part = scenes[start : start + batch]
        pixels = torch.stack([torch.as_tensor(np.asarray(model.preprocess.image(draw(scene, size)))) for scene in part])
        image = model.encode_images(pixels, frozenset({"patches"}))
        assert image.patches_BPD is not None
        assert image.grid is not None
        pooled.append(image.pooled_BD.float())
        side = size // image.grid[0]
        for scene, patches_PD in zip(part, image.patches_BPD.float(), strict=True):
            cover_TP = torch.tensor(np.stack([_cover(mask, side) for mask in masks(scene, size)]), dtype=torch.float32)
            things.append(cover_TP / cover_TP.sum(1, keepdim=True).clamp(min=1e-6) @ patches_PD)
    return torch.cat(pooled), things


def _cover(mask: np.ndarray, side: int) -> np.ndarray:
    """The share of each patch that a mask covers, ``[P]``."""
    cells = len(mask) // side
    return mask.reshape(cells, side, cells, side).mean((1, 3)).ravel()


def read_attributes(model: Model, world: World, *, train: int = 8000, test: int = 1500) -> dict[str, Reading]:
    """Fits a multinomial logistic probe for every attribute on some scenes and reads others; neither is in any split of a data set.

    ``number`` is read of scenes with several things alike: two or three.

    Args:
        train, test: scenes.
    """
    scenes = [[draw_scene(world, world.rng(f"probe {split}", i)) for i in range(n)] for split, n in (("train", train), ("test", test))]
    (fit_pooled, fit_things), (test_pooled, test_things) = (_features(model, part, world.size) for part in scenes)
    found = {}
    for name, values in OF_THINGS.items():
        labels = [[values.index(getattr(t, name)) for scene in part for t in scene.things] for part in scenes]
        found[name] = _read(torch.cat(fit_things), labels[0], torch.cat(test_things), labels[1])
    for name, values in OF_PICTURES.items():
        labels = [[values.index(getattr(scene, name)) for scene in part] for part in scenes]
        found[name] = _read(fit_pooled, labels[0], test_pooled, labels[1])
    several = [torch.tensor([_copies(scene) > 1 for scene in part]) for part in scenes]
    numbers = [[_copies(scene) - 2 for scene in part if _copies(scene) > 1] for part in scenes]
    found["number"] = _read(fit_pooled[several[0]], numbers[0], test_pooled[several[1]], numbers[1])
    return found


def _copies(scene: Scene) -> int:
    nouns = [thing.noun for thing in scene.things]
    return max(map(nouns.count, nouns))


def _read(fit_ND: Tensor, fit: list[int], test_ND: Tensor, test: list[int]) -> Reading:
    known = LabelledFeatures(fit_ND, torch.tensor(fit))
    classes, held = max(fit) + 1, len(fit) * 4 // 5
    l2 = choose_l2(known.select(torch.arange(held)), known.select(torch.arange(held, len(fit))), classes)
    classify, right = fit_logistic(known.x_ND, known.class_N, classes, l2), torch.tensor(test)
    share = classify(test_ND).argmax(1).eq(right).float().mean()
    return Reading(float(share), float(right.bincount().max() / len(test)))
