"""Patches as they are before a tower's last block: what LLaVA gives its language model (``vision_feature_layer = -2``)."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from wholegrain.errors import UserError
from wholegrain.towers.base import NOTHING, Config, ImageTower, RawImage


class EarlierTower(ImageTower):
    """An image tower whose patches are those that enter its last block; all else is the tower's own.

    Args:
        tower: a transformer of at least two blocks; not copied.
        image_size: of its pictures.

    Attributes:
        width: of these patches, which may differ from the tower's own.

    Raises:
        UserError: it has no such blocks, or no patches.
    """

    fixed_size = True

    def __init__(self, tower: ImageTower, image_size: int) -> None:
        super().__init__()
        if len(tower.transformer_blocks()) < 2:
            raise UserError("tokens.layer is 'penultimate', and this image tower has no two blocks of a transformer; use 'last'.")
        self.tower = tower
        self.retired, self.tuned = tuple(f"tower.{name}" for name in tower.retired), tower.tuned
        with torch.no_grad():
            patches = self(next(tower.parameters()).new_zeros(1, 3, image_size, image_size), frozenset({"patches"})).patches_BPV
        if patches is None:
            raise UserError("The image tower gives no patches; choose a model with a Vision Transformer.")
        self.width = patches.shape[-1]

    def forward(self, pixels_BCHW: Tensor, needs: frozenset[str] = NOTHING, kept_BK: Tensor | None = None) -> RawImage:
        """See :class:`ImageTower`."""
        caught: list[Tensor] = []
        handle = self.tower.transformer_blocks()[-2].register_forward_hook(lambda _module, _inputs, output: caught.append(cast(Tensor, output)))
        try:
            raw = self.tower(pixels_BCHW, needs, kept_BK)
        finally:
            handle.remove()
        if raw.patches_BPV is None:
            return raw
        return replace(raw, patches_BPV=caught[0][:, -raw.patches_BPV.shape[1] :])  # class tokens stand before the patches

    def stages(self) -> list[nn.Module]:
        """The tower's."""
        return self.tower.stages()

    def config(self) -> Config:
        """The tower's, and whose patches these are."""
        return {**self.tower.config(), "tokens": "penultimate"}
