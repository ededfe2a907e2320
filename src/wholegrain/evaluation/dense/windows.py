"""Square windows that slide over a picture, and the values of class names in them, put together again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from wholegrain.evaluation.contract import PatchModel
from wholegrain.evaluation.dense.maps import AskedNames, seen_views


@dataclass(frozen=True)
class Windows:
    """How windows lie.

    Attributes:
        short: the shorter side after resizing, in pixels; 0 is one and a half times the model's size (336 for 224).
        stride: 0 is half the model's size.
        longest: no side becomes longer.
    """

    short: int = 0
    stride: int = 0
    longest: int = 2048

    def resized(self, width: int, height: int, size: int) -> tuple[int, int]:
        """Width and height after resizing, never smaller than a window."""
        short = self.short or round(1.5 * size)
        factor = min(short / min(width, height), self.longest / max(width, height))
        return max(size, round(width * factor)), max(size, round(height * factor))

    def starts(self, length: int, size: int) -> list[int]:
        """Where windows begin along one side.

        Example:
            >>> Windows(stride=112).starts(400, 224)
            [0, 112, 176]
        """
        stride = self.stride or max(1, size // 2)
        count = max(0, -(-(length - size) // stride)) + 1
        return [min(n * stride, length - size) for n in range(count)]


def window_logits(
    model: PatchModel, pixels_HWC: np.ndarray, asked: Sequence[AskedNames], class_W: Tensor, windows: Windows, batch: int = 64
) -> list[Tensor]:
    """For each read-out the mean values float32 ``[C, h, w]`` at the resized picture's size; a class has the best of its words."""
    size = int(model.preprocess.size)
    width, height = windows.resized(pixels_HWC.shape[1], pixels_HWC.shape[0], size)
    resized = np.asarray(Image.fromarray(pixels_HWC).resize((width, height), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    corners = [(y, x) for y in windows.starts(height, size) for x in windows.starts(width, size)]
    views = [resized[:, y : y + size, x : x + size] for y, x in corners]
    sums, count = [torch.zeros(len(class_W), height, width) for _ in asked], torch.zeros(height, width)
    for seen in seen_views(model, [names.read_out for names in asked], views, batch):
        here = [corners[place] for place in seen.places]
        for y, x in here:
            count[y : y + size, x : x + size] += 1
        for total, names, look in zip(sums, asked, seen.looks, strict=True):
            for (y, x), near_PW in zip(here, names.read_out.all_maps(look, names.asked_N, len(here)), strict=True):
                small = near_PW.T.unflatten(1, seen.grid)
                total[:, y : y + size, x : x + size] += interpolate(small[None], (size, size), mode="bilinear")[0]
    return [_best_words(total / count, class_W) for total in sums]


def _best_words(mean_WHW: Tensor, class_W: Tensor) -> Tensor:
    classes = int(class_W.max()) + 1
    if len(class_W) == classes:
        return mean_WHW
    index = class_W[:, None, None].expand_as(mean_WHW)
    return torch.full((classes, *mean_WHW.shape[1:]), -torch.inf).scatter_reduce(0, index, mean_WHW, "amax")
