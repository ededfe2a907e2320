"""Segmentation as a task of :mod:`wholegrain.downstream.trainer`: pixels and regions that a step learns from, and cross-entropy on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from wholegrain.downstream.segmentation.head import SegmentationHeads, SegmentationHeadSettings, logits_at
from wholegrain.downstream.segmentation.labelled import LabelledPicture, LabelledPictures, LabelMaps, class_names
from wholegrain.downstream.settings import HeadTraining, require
from wholegrain.downstream.task import Term, View
from wholegrain.towers.base import RawImage
from wholegrain.towers.model import Model


@dataclass(frozen=True)
class SegmentationData:
    """What a step learns from and what is measured.

    Attributes:
        pixels: drawn from each picture at every step, of those whose class is known.
        side: of the square that labels are brought to (nearest pixel) for training and for regions.
        least: share of the square that a region must have to be trained on and asked about.
        templates: sentences for class names in what is measured without training, as of ``wholegrain evaluate``.
        threshold_pictures: training pictures on which the threshold of the background is chosen, for what needs no training.
    """

    pixels: int = 1024
    side: int = 112
    least: float = 0.001
    templates: tuple[str, ...] = ("plain",)
    threshold_pictures: int = 50

    def __post_init__(self) -> None:
        for name, most in (("pixels", 10**7), ("side", 4096), ("threshold_pictures", 10**6)):
            require(1 <= getattr(self, name) <= most, f"data.{name}", getattr(self, name), f"from 1 to {most:,}")
        require(0 <= self.least < 1, "data.least", self.least, "from 0 to below 1")


@dataclass(frozen=True)
class SegmentationLoss:
    """Weights of the heads' cross-entropies; they share no parameter but those of a tuned tower, and the bound of the gradient.

    Attributes:
        pixels: of the linear head.
        regions: of the mask-pooling head.
    """

    pixels: float = 1.0
    regions: float = 1.0

    def __post_init__(self) -> None:
        for name in ("pixels", "regions"):
            require(0 <= getattr(self, name) <= 1e6, f"loss.{name}", getattr(self, name), "from 0 to 1,000,000")


@dataclass(frozen=True)
class SegmentationSettings:
    """The recipe of segmentation."""

    training: HeadTraining = field(default_factory=HeadTraining)
    head: SegmentationHeadSettings = field(default_factory=SegmentationHeadSettings)
    loss: SegmentationLoss = field(default_factory=SegmentationLoss)
    data: SegmentationData = field(default_factory=SegmentationData)


@dataclass(frozen=True)
class SegmentationTargets:
    """What a batch asks for.

    Attributes:
        place_BK2: x, y in -1..1 of pixels.
        label_BK: int64, their classes; -1 is not counted (fill-up of pictures with few known pixels).
        mask_MSS: bool, the regions.
        picture_M: int64, the picture (a place in the batch) of each region.
        class_M: int64, its class.
    """

    place_BK2: Tensor
    label_BK: Tensor
    mask_MSS: Tensor
    picture_M: Tensor
    class_M: Tensor

    def to(self, device: torch.device) -> SegmentationTargets:
        """The same on a device."""
        return SegmentationTargets(*(part.to(device) for part in vars(self).values()))


@dataclass(frozen=True)
class Regions:
    """The regions of one picture, one for each class in it: all pixels of that class.

    Attributes:
        mask_MSS: bool ``[M, S, S]`` on the square.
        class_M: int64 ``[M]``.
    """

    mask_MSS: np.ndarray
    class_M: np.ndarray

    @classmethod
    def of(cls, square_SS: np.ndarray, named: int, least: float) -> Regions:
        """Of a square of labels: classes 0 to ``named`` - 1 that have at least the share ``least`` of its pixels.

        Example:
            >>> Regions.of(np.array([[0, 2], [2, -1]]), 2, 0.1).class_M.tolist()
            [0]
        """
        count_C = np.bincount(square_SS[square_SS >= 0].ravel(), minlength=named)[:named]
        class_M = np.flatnonzero(count_C > max(0.0, least * square_SS.size - 0.5))
        return cls(square_SS[None] == class_M[:, None, None], class_M)


class SegmentationTask:
    """Both heads on the classes of some pictures.

    Args:
        settings: the recipe.
        pictures: with their labels.
    """

    name = "segment"
    needs = frozenset({"patches"})
    view: View = "whole"

    def __init__(self, settings: SegmentationSettings, pictures: LabelledPictures) -> None:
        self.settings, self.names = settings, class_names(pictures.classes)
        self.named = len(pictures.classes.ids)
        self.maps = LabelMaps(pictures, settings.data.side)

    def make_head(self, model: Model) -> SegmentationHeads:
        """New heads."""
        return SegmentationHeads(model.image_tower.width, len(self.names), self.named, self.settings.head)

    def targets(self, examples: Sequence[LabelledPicture], random: Sequence[np.random.Generator]) -> SegmentationTargets:
        """Pixels at random, and all regions."""
        data = self.settings.data
        squares = [self.maps.square(example.key) for example in examples]
        regions = [Regions.of(square, self.named, data.least) for square in squares]
        places, labels = zip(*(_drawn(square, data.pixels, one) for square, one in zip(squares, random, strict=True)), strict=True)
        return SegmentationTargets(
            torch.from_numpy(np.stack(places)),
            torch.from_numpy(np.stack(labels)),
            torch.from_numpy(np.concatenate([one.mask_MSS for one in regions])),
            torch.from_numpy(np.repeat(np.arange(len(regions)), [len(one.class_M) for one in regions])),
            torch.from_numpy(np.concatenate([one.class_M for one in regions])),
        )

    def loss(self, head: nn.Module, image: RawImage, targets: SegmentationTargets) -> dict[str, Term]:
        """Sums of cross-entropies over pixels, and over regions."""
        assert isinstance(head, SegmentationHeads)
        weights = self.settings.loss
        logits_BKC = logits_at(head.pixel_logits(image), targets.place_BK2)
        wrong = cross_entropy(logits_BKC.flatten(0, 1).float(), targets.label_BK.flatten(), ignore_index=-1, reduction="sum")
        found = {"pixels": Term(wrong, float((targets.label_BK >= 0).sum()), weights.pixels)}
        if len(targets.class_M):
            logits_MC = head.region_logits(image, targets.mask_MSS.float(), targets.picture_M).float()
            wrong = cross_entropy(logits_MC, targets.class_M, reduction="sum")
        else:
            wrong = 0.0 * found["pixels"].total
        return found | {"regions": Term(wrong, float(len(targets.class_M)), weights.regions)}


def _drawn(square_SS: np.ndarray, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Places float32 ``[K, 2]`` and labels int64 ``[K]`` of so many known pixels, none twice; -1 where there are not so many."""
    side = len(square_SS)
    known = np.flatnonzero(square_SS.ravel() >= 0)
    chosen = random.choice(known, count, replace=False, shuffle=False) if len(known) > count else known
    place, label = np.zeros((count, 2), dtype=np.float32), np.full(count, -1, dtype=np.int64)
    place[: len(chosen), 0] = (2 * (chosen % side) + 1) / side - 1
    place[: len(chosen), 1] = (2 * (chosen // side) + 1) / side - 1
    label[: len(chosen)] = square_SS.ravel()[chosen]
    return place, label
