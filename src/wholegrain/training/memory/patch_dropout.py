"""Patch dropout: in training every image keeps a random part of its patches, and the others are not computed at all.

FLIP (Li et al., *Scaling language-image pre-training via masking*, CVPR 2023, arXiv 2212.00794, section 3): half of the patches take about half of
the time and memory of the image tower. The paper ends with a short training on whole images; here that is a second run without it. Which
patches an image keeps depends on seed, step, image and view alone, so on no number of processes or workers, and a resumed run keeps the same.
Teachers and evaluation see all patches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from wholegrain.errors import UserError
from wholegrain.objectives.schema import Recipe
from wholegrain.towers.model import Model


class PatchDropout:
    """Which patches are kept.

    Args:
        seed: the recipe's.
        share: of patches that are dropped, in (0, 1).
        patches: how many there are.

    Attributes:
        step: the training step; set before each.
        keep: how many patches an image keeps, at least one.
    """

    def __init__(self, seed: int, share: float, patches: int) -> None:
        self.seed, self.patches, self.step = seed, patches, 0
        self.keep = max(1, round(patches * (1 - share)))

    def kept(self, keys: Sequence[str], views: int = 1) -> Tensor:
        """int64 ``[views * B, K]``, ascending: the patches that each view of each image keeps, view after view."""
        names = [f"{self.seed}/{self.step}/{view}/{key}" for view in range(views) for key in keys]
        start_B = np.array(
            [int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") for name in names], np.uint64
        )
        noise_BP = _split_mix(start_B[:, None], self.patches)
        kept_BK = np.argpartition(noise_BP, self.keep - 1, axis=1)[:, : self.keep] if self.keep < self.patches else None
        kept_BK = np.broadcast_to(np.arange(self.patches), noise_BP.shape) if kept_BK is None else np.sort(kept_BK, axis=1)
        return torch.from_numpy(np.ascontiguousarray(kept_BK, dtype=np.int64))


def _split_mix(start_B1: np.ndarray, count: int) -> np.ndarray:
    """uint64 ``[B, count]``: the first numbers of splitmix64 from each start (Steele et al., OOPSLA 2014)."""
    x = start_B1 + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def make_dropping(recipe: Recipe, model: Model, needs: frozenset[str]) -> PatchDropout | None:
    """What a recipe asks for, or ``None``.

    Raises:
        UserError: the tower's patches cannot be dropped, or something needs all of them.
    """
    share = recipe.model.patch_dropout
    if not share:
        return None
    patches = int(getattr(model.image_tower, "droppable", 0))
    if not patches:
        raise UserError(
            "model.patch_dropout needs a Vision Transformer of open_clip or timm without branches, whose patches all see each other; "
            "set it to 0 for this model."
        )
    if "patches" in model.head.raw_needs(needs):
        raise UserError(
            f"model.patch_dropout cannot go with recipe {recipe.name}, which compares patches with words; set it to 0."
        )
    if model.image_frozen:
        raise UserError("model.patch_dropout saves nothing where the image tower is not trained; set it to 0.")
    return PatchDropout(recipe.seed, share, patches)
