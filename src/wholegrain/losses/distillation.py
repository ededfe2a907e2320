"""The model is held to its teacher: squared distance of unit vectors, images and texts each for itself.

With V_i, T_n the unit vectors of image i and text n (hard negatives included), V', T' the teacher's::

    reduction "mean" (default):  mean_i |V_i - V'_i|^2 + mean_n |T_n - T'_n|^2
    reduction "sum":             sum_i  |V_i - V'_i|^2 + sum_n  |T_n - T'_n|^2

over the global batch; |a - b|^2 = 2 - 2 cos. DeGLA's self-distillation (Hu et al., ACM MM 2025, arXiv 2504.16801, section 3): fine-tuning
with hard negatives forgets, and a teacher that is an average of the model's own past (``teacher.kind = "ema"``, momentum 0.9996) slows
that down. With ``teacher.kind = "frozen"`` the model is held to where it began (as in LwF, Li and Hoiem, ECCV 2016, on features).

Where sources differ. The released code sums over the global batch, with weight 0.005 at 256 images of five texts each: in terms of means
that is 1.28 for images and 6.4 for texts, and it grows with the batch while the contrastive terms do not. ``"sum"`` is that;
``"mean"`` does not depend on the batch. The first step's value is zero, for the teacher begins as the model.

Duplicates: play no part; every image and every text is compared with itself alone.
Cost: one dot product an image and a text, and the teacher's forward pass; sends two counts.

Example:
    >>> import torch
    >>> from wholegrain.features import ImageFeatures, Pairing, TextFeatures
    >>> image = ImageFeatures(torch.eye(2), teacher=ImageFeatures(-torch.eye(2)))          # opposite: |2 v|^2
    >>> text = TextFeatures(torch.eye(2), teacher=TextFeatures(torch.eye(2).flip(0)))      # at right angles
    >>> DistillationLoss()(image, text, Pairing.one_to_one(2), torch.tensor(10.0)).value.item()
    6.0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.core.contract import LossOutput, State, full_precision, unit
from wholegrain.losses.core.gather import sum_over


@dataclass(frozen=True)
class DistillationLoss:
    """Squared distance of the model's unit vectors to a teacher's.

    Attributes:
        reduction: ``"mean"`` over images and over texts, or ``"sum"`` as released.
        sides: ``"both"``, or ``"image"`` or ``"text"`` alone.
    """

    reduction: Literal["mean", "sum"] = "mean"
    sides: Literal["both", "image", "text"] = "both"
    needs: ClassVar[frozenset[str]] = frozenset({"teacher"})

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
        if image.teacher is None or text.teacher is None:
            raise ValueError('DistillationLoss needs a teacher; set teacher.kind to "ema" or "frozen"')
        sums = {
            "image": _distance(image.pooled_BD, image.teacher.pooled_BD),
            "text": _distance(text.pooled_ND, text.teacher.pooled_ND),
        }
        if self.reduction == "mean":
            counts = torch.tensor([float(len(image.pooled_BD)), float(len(text.pooled_ND))], device=image.pooled_BD.device)
            images, texts = sum_over(counts, group).clamp_min(1)
            sums = {"image": sums["image"] / images, "text": sums["text"] / texts}
        chosen = [part for side, part in sums.items() if self.sides in ("both", side)]
        return LossOutput(torch.stack(chosen).sum(), {side: part.detach() for side, part in sums.items()})


def _distance(own: Tensor, theirs: Tensor) -> Tensor:
    own = unit(own)
    return (own - unit(theirs).to(own.dtype)).square().sum()
