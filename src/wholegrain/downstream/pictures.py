"""A picture's tokens, for training and for measuring: made once where the tower is frozen, anew at every step where it is tuned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wholegrain.downstream.task import PictureData, View
from wholegrain.errors import UserError
from wholegrain.files import digest
from wholegrain.progress import Show, each, nowhere
from wholegrain.towers.base import RawImage
from wholegrain.towers.model import Model
from wholegrain.training.loading.frozen import FrozenImages, encode_images_once
from wholegrain.training.memory.precision import autocast
from wholegrain.training.pace import Say


def prepared_model(model: Model, view: View, tune: str) -> Model:
    """The model in eval mode, everything frozen but what ``tune`` names of its image tower, with the preprocessing of the view; changed in place.

    Raises:
        UserError: ``tune`` names nothing of this tower.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.eval()
    model.image_tower.tune(tune)
    if view == "whole":
        model.preprocess = replace(model.preprocess, resize="squash")
    return model


class TowerTokens:
    """Raw features of pictures by key: the pooled vector, and the patches where the needs name them.

    Args:
        model: see :func:`prepared_model`, on its device.
        pictures: by key.
        needs: of :meth:`wholegrain.towers.model.Model.raw_images`.
        precision: ``fp32`` or ``bf16``.
    """

    def __init__(self, model: Model, pictures: PictureData, needs: frozenset[str], precision: str = "fp32") -> None:
        self.model, self.pictures, self.needs, self.precision = model, pictures, needs, precision
        self._kept: FrozenImages | None = None

    def keep(self, keys: Sequence[str], say: Say, cache: Path | None = None) -> None:
        """Encodes these pictures once, where the tower is frozen and the features fit into memory. The bits depend on the keys' order alone."""
        if self.model.image_frozen:
            once = list(dict.fromkeys(keys))
            cache = cache and cache / digest(self.pictures.content_hash)[:16]  # keys may be names of files, alike in two data sets
            self._kept = encode_images_once(self.model, self.pictures, once, self.needs, self.precision, say=say, cache=cache)

    def pixels(self, keys: Sequence[str]) -> Tensor | None:
        """uint8 ``[B, 3, S, S]`` on the CPU; ``None`` where the features are kept."""
        if self._kept is not None and all(key in self._kept.row for key in keys):
            return None
        return torch.from_numpy(np.stack([self.model.preprocess.image(self.pictures.pixels(key)) for key in keys]))

    def raw(self, keys: Sequence[str], pixels_BCHW: Tensor | None = None) -> RawImage:
        """The raw features, on the model's device; ``pixels_BCHW``: of :meth:`pixels`, where they are at hand."""
        pixels_BCHW = self.pixels(keys) if pixels_BCHW is None else pixels_BCHW
        if pixels_BCHW is None:
            assert self._kept is not None
            return self._kept.read(keys, self.model.device)
        tuned = not self.model.image_frozen and torch.is_grad_enabled()
        with torch.set_grad_enabled(tuned), autocast(self.model.device, self.precision):
            raw = self.model.raw_images(pixels_BCHW.to(self.model.device), self.needs)
        if "patches" in self.needs and (raw.patches_BPV is None or raw.grid is None):
            raise UserError("The image tower gives no patches; choose a model with a Vision Transformer.")
        return raw if tuned else raw.map(lambda part: part.float())

    def batches(self, keys: Sequence[str], batch: int = 64, show: Show = nowhere) -> Iterator[tuple[Sequence[str], RawImage]]:
        """Keys and their raw features in eval mode and without gradient, batch by batch; the next batch's pictures are read meanwhile."""
        parts = [keys[start : start + batch] for start in range(0, len(keys), batch)]
        was_training = self.model.image_tower.training
        self.model.image_tower.eval()
        try:
            for part, pixels in each(read_ahead(self, parts), "pictures", show, len(parts)):
                with torch.no_grad():
                    yield part, self.raw(part, pixels)
        finally:
            self.model.image_tower.train(was_training)


def read_ahead(tokens: TowerTokens, parts: Iterable[Sequence[str]]) -> Iterator[tuple[Sequence[str], Tensor | None]]:
    """Each part of keys with its pixels (:meth:`TowerTokens.pixels`), which a thread reads one part ahead."""
    with ThreadPoolExecutor(1) as pool:
        before: tuple[Sequence[str], Future[Tensor | None]] | None = None
        for part in parts:
            now = part, pool.submit(tokens.pixels, part)
            if before is not None:
                yield before[0], before[1].result()
            before = now
        if before is not None:
            yield before[0], before[1].result()
