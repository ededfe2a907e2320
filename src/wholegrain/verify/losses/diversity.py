"""``diversity`` once more: the mean cosine of an image's branches, pair by pair."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from wholegrain.losses.diversity import DiversityLoss
from wholegrain.verify.closed_form import ClosedForm, all_alike
from wholegrain.verify.reference import Samples, cos, required

VARIANTS = {"diversity": DiversityLoss(ceiling=-0.3), "diversity-idle": DiversityLoss(ceiling=0.9)}


def reference(loss: DiversityLoss, x: Samples) -> Tensor:
    """The formula of ``losses/diversity.py`` in float64, sample by sample."""
    branch = required(x.image.branches_BHD)
    count = range(branch.shape[1])
    cosines = [cos(branch[i, g], branch[i, h]) for i in x.images for g in count for h in count if g != h]
    return (torch.stack(cosines).mean() - loss.ceiling).clamp_min(0)


def closed_forms(loss: DiversityLoss) -> Iterator[ClosedForm]:
    """Problems whose answer is known on paper."""
    yield ClosedForm("branches alike: 1 - ceiling", all_alike(), 1 - loss.ceiling)
