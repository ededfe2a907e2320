"""What happens to a picture's pixels before a tower sees them: it belongs to the model and travels with it.

Two halves. :meth:`Preprocess.image` resizes in the loader's workers and stays uint8, a quarter of the bytes to move;
:meth:`Preprocess.normalise` makes floats on the device. The arithmetic is that of open_clip's transforms (torchvision on PIL
images, antialiased): whole pictures come out bit for bit the same. Training has :meth:`Preprocess.quick`, the same filters in torch's
integer arithmetic: three to seven times as fast, and single values differ by one or two of 255.

``resize="crop"`` is CLIP's own: the shorter side to ``size``, then the middle square. ``resize="squash"`` makes the whole picture
square, for data that is square already or has lost its aspect ratio, and for models trained that way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from wholegrain.errors import UserError
from wholegrain.structure import StructureError, structure

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)
"""Mean and standard deviation of SigLIP and of others that map 0..255 to -1..1."""

MOST_SIDE = 2**13
STRIP = 64
"""Squares side by side in a picture of which all is resized; see :func:`_middle_of_strip`."""
Box = tuple[float, float, float, float]
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_RESIZES = ("crop", "squash")


@dataclass(frozen=True)
class Preprocess:
    """How pictures are brought to a tower's size and statistics.

    Attributes:
        size: side of the square that the tower sees, in pixels.
        resize: ``crop`` (shorter side to ``size``, middle square) or ``squash`` (the whole picture, made square).
        interpolation: ``bicubic`` or ``bilinear``, both antialiased.
        mean, std: per channel, for values scaled to 0..1.

    Example:
        >>> pixels = np.zeros((48, 64, 3), np.uint8)
        >>> Preprocess(32).image(pixels).shape
        (3, 32, 32)
        >>> Preprocess.from_json(Preprocess(32).to_json()) == Preprocess(32)
        True
    """

    size: int
    resize: Literal["crop", "squash"] = "crop"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    def __post_init__(self) -> None:
        if self.resize not in _RESIZES:
            raise UserError(f"preprocessing: resize is {self.resize!r}; choose crop or squash")
        if self.interpolation not in _FILTERS:
            raise UserError(f"preprocessing: interpolation is {self.interpolation!r}; choose bicubic or bilinear")
        fine = 1 <= self.size <= MOST_SIDE and len(self.mean) == 3 and len(self.std) == 3 and min(self.std) > 0
        if not fine or not all(map(math.isfinite, (*self.mean, *self.std))):
            raise UserError(
                f"preprocessing: size must be from 1 to {MOST_SIDE:,}, and mean and std three numbers each with std above 0"
            )

    def image(self, pixels_HWC: np.ndarray, box: Box | None = None) -> np.ndarray:
        """Resizes one picture.

        Args:
            pixels_HWC: uint8, RGB.
            box: x0, y0, x1, y1 in pixels (may be fractions); if given, this part is resized whole and nothing else is cut.

        Returns:
            uint8 ``[3, size, size]``, contiguous.
        """
        height, width = pixels_HWC.shape[:2]
        if box is None and (height, width) == (self.size, self.size):
            return np.ascontiguousarray(pixels_HWC.transpose(2, 0, 1))
        if box is not None or self.resize == "squash":
            square = Image.fromarray(pixels_HWC).resize((self.size, self.size), _FILTERS[self.interpolation], box=box)
        else:
            square = self._middle_square(Image.fromarray(_middle_of_strip(pixels_HWC)))
        return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))

    def quick(self, pixels_HWC: np.ndarray, box: tuple[int, int, int, int] | None = None) -> Tensor:
        """:meth:`image` for training, several times as fast; the same on every run, and never used where a model is judged.

        Args:
            pixels_HWC: uint8, RGB.
            box: x0, y0, x1, y1 in whole pixels; this part is cut out first, as by torchvision's ``RandomResizedCrop`` (:meth:`image` lets
                the filter look beyond the box), and resized whole.

        Returns:
            uint8 ``[3, size, size]``, not contiguous. Without a box at most 2 of 255 from :meth:`image`, in less than 1% of the values of
            photos; both are equal where nothing is resized.
        """
        size = self.size
        if box is not None:
            pixels_HWC = np.ascontiguousarray(
                pixels_HWC[box[1] : box[3], box[0] : box[2]]
            )  # torch would copy it, too, and slowly
        elif self.resize == "crop":
            pixels_HWC = _middle_of_strip(pixels_HWC)
        height, width = pixels_HWC.shape[:2]
        pixels_1CHW = torch.from_numpy(pixels_HWC).permute(2, 0, 1)[None]
        new = (size, size) if box is not None or self.resize == "squash" else _sides(size, width, height)
        if new != (width, height):
            pixels_1CHW = interpolate(pixels_1CHW, (new[1], new[0]), mode=self.interpolation, antialias=True)
        left, top = round((new[0] - size) / 2.0), round((new[1] - size) / 2.0)
        return pixels_1CHW[0, :, top : top + size, left : left + size]

    def _middle_square(self, picture: Image.Image) -> Image.Image:
        (width, height), size = picture.size, self.size
        new = _sides(size, width, height)
        if new != picture.size:
            picture = picture.resize(new, _FILTERS[self.interpolation])
        left, top = round((new[0] - size) / 2.0), round((new[1] - size) / 2.0)
        return picture.crop((left, top, left + size, top + size))

    def visible_box(self, width: int, height: int) -> Box:
        """The part of a ``width`` x ``height`` picture that :meth:`image` shows when given no box, in the picture's pixels."""
        if self.resize == "squash":
            return (0.0, 0.0, float(width), float(height))
        new = _sides(self.size, width, height)
        left, top = round((new[0] - self.size) / 2.0), round((new[1] - self.size) / 2.0)
        x, y = width / new[0], height / new[1]
        return (left * x, top * y, (left + self.size) * x, (top + self.size) * y)

    def normalise(self, pixels_BCHW: Tensor) -> Tensor:
        """uint8 ``[B, 3, H, W]`` (or any number type in 0..255) -> float32 ``[B, 3, H, W]``, on the tensor's own device."""
        scale, shift = _scale_and_shift(self.mean, self.std, pixels_BCHW.device)
        return torch.addcmul(shift, pixels_BCHW.float(), scale)

    def random_box(
        self,
        rng: np.random.Generator,
        width: int,
        height: int,
        scale: tuple[float, float] = (0.9, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
    ) -> tuple[int, int, int, int]:
        """See :func:`random_box`."""
        return random_box(rng, width, height, scale, ratio)

    def to_json(self) -> dict[str, object]:
        """Plain values, ready for ``json.dump``."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, object]) -> Preprocess:
        """The inverse of :meth:`to_json`; a missing size, an unknown name or a wrong value is a :class:`UserError`."""
        try:
            return structure(values, cls)
        except StructureError as error:
            problem = str(error).removeprefix("has a wrong value: ")  # of __post_init__, a sentence by itself
            if problem.startswith("preprocessing"):
                raise UserError(problem) from None
            names = ", ".join(f.name for f in fields(cls))
            raise UserError(f"preprocessing record: it {error}; its fields are {names}") from None


def _middle_of_strip(pixels_HWC: np.ndarray) -> np.ndarray:
    """A picture as it is, but of a strip of more than :data:`STRIP` squares those in the middle: the shorter side may be one pixel, and the
    whole strip, enlarged with it, would not fit into memory."""
    height, width = pixels_HWC.shape[:2]
    cut_y, cut_x = max(0, (height - STRIP * width) // 2), max(0, (width - STRIP * height) // 2)
    return np.ascontiguousarray(pixels_HWC[cut_y : height - cut_y, cut_x : width - cut_x]) if cut_y or cut_x else pixels_HWC


def _sides(size: int, width: int, height: int) -> tuple[int, int]:
    """Width and height when the shorter side is ``size``; sides and offsets are rounded as torchvision's Resize and CenterCrop do."""
    shorter = min(width, height)
    return int(size * width / shorter), int(size * height / shorter)


def random_box(
    rng: np.random.Generator,
    width: int,
    height: int,
    scale: tuple[float, float] = (0.9, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[int, int, int, int]:
    """A random part of a picture: torchvision's ``RandomResizedCrop`` with open_clip's default scale, drawn from ``rng`` alone.

    Args:
        rng: the only source of chance, so a crop is a function of its seed.
        width, height: of the picture.
        scale: least and greatest share of the picture's area.
        ratio: least and greatest width / height, drawn evenly in its logarithm.

    Returns:
        x0, y0, x1, y1 in whole pixels, inside the picture. A picture too long for any draw gives its middle at the nearest ratio.
    """
    narrow, wide = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        # Written out, for numpy's uniform takes ten times as long to give the same number.
        area = width * height * (scale[0] + (scale[1] - scale[0]) * rng.random())
        shape = math.exp(narrow + (wide - narrow) * rng.random())
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            break
    else:
        shape = min(max(width / height, ratio[0]), ratio[1])
        w, h = min(width, max(1, round(height * shape))), min(height, max(1, round(width / shape)))
        left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h
    left, top = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
    return left, top, left + w, top + h


@lru_cache(maxsize=32)
def _scale_and_shift(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    # One multiply and one add per value: (x / 255 - mean) / std. Made outside inference mode, so that training may use it, too.
    with torch.inference_mode(False):
        mean_C, std_C = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
        scale, shift = 1 / (255 * std_C), -mean_C / std_C
        return scale.float().view(1, 3, 1, 1).to(device), shift.float().view(1, 3, 1, 1).to(device)
