"""Holistic CLIP's guard against branches that all say the same: a hinge on their mean mutual cosine.

::

    c    = mean over images of the global batch and over pairs g != h of cos(v[i,g], v[i,h])
    loss = max(0, c - ceiling)

Wang et al., CVPR 2025, arXiv 2412.00440: not in the paper as far as known, but in the released code with ceiling 0.7 and weight
1; a comment there calls it unused, yet it is active whenever branches are more than 0.7 alike.

The hinge is on the mean of the *global* batch (the released code: of each process). With one branch the loss is 0.
Duplicates: play no part. Cost: B x H x H dot products; sends two numbers.

Example:
    >>> import torch
    >>> from wholegrain.features import ImageFeatures, Pairing, TextFeatures
    >>> image = ImageFeatures(torch.ones(2, 4), branches_BHD=torch.ones(2, 3, 4))
    >>> loss = DiversityLoss()(image, TextFeatures(torch.ones(2, 4)), Pairing.one_to_one(2), torch.tensor(10.0))
    >>> round(loss.value.item(), 4)
    0.3
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.core.contract import LossOutput, Ranges, State, full_precision, unit
from wholegrain.losses.core.gather import sum_over


@dataclass(frozen=True)
class DiversityLoss:
    """Hinge on the mean cosine between different branches of an image.

    Attributes:
        ceiling: mean cosine above which the loss acts, -1..1.
    """

    ceiling: float = 0.7
    needs: ClassVar[frozenset[str]] = frozenset({"branches"})
    ranges: ClassVar[Ranges] = {"ceiling": (-1, 1)}

    @full_precision
    def __call__(
        self,
        image: ImageFeatures,
        text: TextFeatures,
        pairing: Pairing,
        scale: Tensor,
        bias: Tensor | None = None,
        state: State | None = None,
        *,
        group: dist.ProcessGroup | None = None,
    ) -> LossOutput:
        if image.branches_BHD is None:
            raise ValueError("DiversityLoss needs branches_BHD; use a model whose head has branches")
        branch_BHD = unit(image.branches_BHD)
        images, branches = branch_BHD.shape[:2]
        other = ~torch.eye(branches, dtype=torch.bool, device=branch_BHD.device)
        total = (branch_BHD @ branch_BHD.mT)[:, other].sum()
        sums = sum_over(torch.stack([total.detach(), total.new_tensor(float(images * branches * (branches - 1)))]), group)
        pairs = sums[1].clamp_min(1)
        acts = sums[0] / pairs > self.ceiling
        mean_share = total / pairs
        ceiling_share = self.ceiling * images * branches * (branches - 1) / pairs
        return LossOutput(torch.where(acts, mean_share - ceiling_share, 0.0), {"cosine": mean_share.detach()})
