"""Detections: what a trained head finds in pictures, for any names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wholegrain.downstream.detection.boxes import BoxedPicture
from wholegrain.downstream.detection.losses import DetectionLoss
from wholegrain.downstream.detection.matching import corners
from wholegrain.downstream.detection.task import Detector
from wholegrain.downstream.pictures import TowerTokens
from wholegrain.progress import Show, nowhere


@dataclass(frozen=True)
class Detections:
    """What was found in one picture, the surest first.

    Attributes:
        box_K4: x0, y0, x1, y1 in pixels of the picture, float64.
        score_K: float64; higher is surer.
        label_K: places in the vocabulary, int64.
    """

    box_K4: np.ndarray
    score_K: np.ndarray
    label_K: np.ndarray


NOTHING = Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, dtype=np.int64))


@torch.no_grad()
def detect(
    head: Detector,
    tokens: TowerTokens,
    pictures: Sequence[BoxedPicture],
    text_CD: Tensor,
    loss: DetectionLoss,
    *,
    most: int = 100,
    batch: int = 64,
    show: Show = nowhere,
) -> Iterator[Detections]:
    """The ``most`` surest pairs of a patch and a name in each picture, in the pictures' order; a patch may be found under several names, and nothing
    is suppressed (as in OWL-ViT).

    Args:
        text_CD: unit vectors of the names that are looked for.
        loss: says what a score is: a sigmoid, or with ``softmax`` the probability among all names and "nothing".
    """
    by_key = {picture.key: picture.size for picture in pictures}
    for keys, image in tokens.batches([picture.key for picture in pictures], batch, show):
        candidates = head(image)
        logits_BPC = candidates.logits(text_CD.to(candidates.class_BPD.device))
        score_BPC = logits_BPC.sigmoid() if loss.kind == "focal" else _with_nothing(logits_BPC)
        best_BK, place_BK = score_BPC.flatten(1).topk(min(most, score_BPC[0].numel()), sorted=True)
        patch_BK, label_BK = place_BK // len(text_CD), place_BK % len(text_CD)
        box_BK4 = corners(candidates.box_BP4.flatten(0, 1)).view_as(candidates.box_BP4).gather(1, patch_BK[..., None].expand(-1, -1, 4))
        for key, box_K4, score_K, label_K in zip(keys, box_BK4.cpu(), best_BK.cpu(), label_BK.cpu(), strict=True):
            pixels = box_K4.double().clamp(0, 1).numpy() * np.tile(by_key[key], 2)
            yield Detections(pixels, score_K.double().numpy(), label_K.numpy())


def _with_nothing(logits_BPC: Tensor) -> Tensor:
    return torch.cat([logits_BPC, torch.zeros_like(logits_BPC[..., :1])], -1).softmax(-1)[..., :-1]
