"""Two heads on patches: a linear one that labels every pixel, and one that names a region whose mask is given.

**Linear** (the linear probe of DINOv2, Oquab et al. 2023, arXiv 2304.07193, section 7.4, and of TIPS, arXiv 2410.16512): batch normalisation of the
patches' channels, one linear layer to C logits a patch (a 1 x 1 convolution), enlarged bilinearly to the picture. DINOv2's released head is
mmsegmentation's ``BNHead``: the same, on 512-pixel crops with random scales, flips and colours, of pictures that windows slide over when measured;
here a picture is seen whole, once, made square at the tower's own size, and nothing is augmented: a frozen tower is then run once a picture.

**Mask pooling**: the mean of the patches under a mask, each weighted by the share of it that the mask covers, then batch normalisation and one
linear layer. Masks are class-agnostic: the head is told where a region is and says what it is. This is the dense protocol of CLIPSelf (Wu et al., ICLR
2024, arXiv 2310.01403: mask pooling, accuracy over regions) with a trained classifier in the place of class names' vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, grid_sample

from wholegrain.downstream.settings import require
from wholegrain.errors import UserError
from wholegrain.towers.base import RawImage

Norm = Literal["batch", "layer", "none"]
_NORMS = ("batch", "layer", "none")


@dataclass(frozen=True)
class SegmentationHeadSettings:
    """What stands between patches and classes.

    Attributes:
        norm: of each patch's (or region's) channels: ``batch`` (as DINOv2's linear probe; with several processes each takes the statistics of
            its own part of a batch), ``layer``, or ``none``.
        dropout: share of channels that a patch or a region loses in training.
    """

    norm: Norm = "batch"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        require(self.norm in _NORMS, "head.norm", self.norm, "batch, layer or none")
        require(0 <= self.dropout < 1, "head.dropout", self.dropout, "from 0 to below 1")


class Classifier(nn.Module):
    """Normalisation, dropout and one linear layer, for the last axis of ``[N, V]`` rows."""

    def __init__(self, width: int, classes: int, settings: SegmentationHeadSettings) -> None:
        super().__init__()
        norms: dict[Norm, nn.Module] = {"batch": nn.BatchNorm1d(width), "layer": nn.LayerNorm(width), "none": nn.Identity()}
        self.norm = norms[settings.norm]
        self.dropout = nn.Dropout(settings.dropout)
        self.linear = nn.Linear(width, classes)
        nn.init.normal_(self.linear.weight, std=0.01)  # as DINOv2's heads
        nn.init.zeros_(self.linear.bias)

    def forward(self, rows_NV: Tensor) -> Tensor:
        """``[N, C]`` logits. One row alone has no spread: its batch statistics would be nought, so the running ones are taken."""
        if self.training and isinstance(self.norm, nn.BatchNorm1d) and len(rows_NV) < 2:
            norm = self.norm
            rows_NV = nn.functional.batch_norm(rows_NV, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
        else:
            rows_NV = self.norm(rows_NV)
        return self.linear(self.dropout(rows_NV))


class SegmentationHeads(nn.Module):
    """Both heads; they share nothing.

    Args:
        width: V of the tower's patches.
        classes: C of pixels, the background among them, where there is one; a region is one of the first ``named``.
        named: classes that a region can have (the background is no region).
    """

    def __init__(self, width: int, classes: int, named: int, settings: SegmentationHeadSettings) -> None:
        super().__init__()
        self.pixels = Classifier(width, classes, settings)
        self.regions = Classifier(width, named, settings)

    def pixel_logits(self, image: RawImage) -> Tensor:
        """``[B, C, R, Q]``: of every patch, on the grid."""
        patches_BPV, grid = patches_of(image)
        logits = self.pixels(patches_BPV.flatten(0, 1))
        return logits.unflatten(0, patches_BPV.shape[:2]).mT.unflatten(2, grid)

    def region_logits(self, image: RawImage, mask_MSS: Tensor, picture_M: Tensor) -> Tensor:
        """``[M, C]``: of M regions with float masks in 0..1, each of the picture ``picture_M`` (a place in the batch)."""
        patches_BPV, grid = patches_of(image)
        return self.regions(pooled_regions(patches_BPV, grid, mask_MSS, picture_M))


def patches_of(image: RawImage) -> tuple[Tensor, tuple[int, int]]:
    """``[B, P, V]`` and the grid.

    Raises:
        UserError: the tower gives no patches.
    """
    if image.patches_BPV is None or image.grid is None:
        raise UserError("The image tower gives no patches; choose a model with a Vision Transformer.")
    return image.patches_BPV, image.grid


def pooled_regions(patches_BPD: Tensor, grid: tuple[int, int], mask_MSS: Tensor, picture_M: Tensor) -> Tensor:
    """``[M, D]``: means of patches, weighted by the share of each that the mask covers.

    Example:
        >>> patches = torch.tensor([[[1.0], [3.0]]])
        >>> pooled_regions(patches, (1, 2), torch.tensor([[[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0]]]), torch.tensor([0])).round(decimals=4).tolist()
        [[1.666700005531311]]
    """
    cover_MP = adaptive_avg_pool2d(mask_MSS[:, None], grid).flatten(1).to(patches_BPD.dtype)
    weight_MP = cover_MP / cover_MP.sum(1, keepdim=True).clamp_min(1e-12)
    return torch.einsum("mp,mpd->md", weight_MP, patches_BPD[picture_M])


def logits_at(logits_BCRQ: Tensor, place_BK2: Tensor) -> Tensor:
    """``[B, K, C]``: bilinear between patches at K places (x, y in -1..1 over the picture), as ``interpolate`` has it at pixels' centres."""
    found_BC1K = grid_sample(logits_BCRQ, place_BK2[:, None].to(logits_BCRQ.dtype), mode="bilinear", padding_mode="border", align_corners=False)
    return found_BC1K[:, :, 0].mT
