"""The loss of one batch of detections, as sums and counts.

Names by the focal sigmoid loss (Lin et al., ICCV 2017; torchvision's, with scenic's alpha 0.3 and gamma 2) over all patches and queries of a
picture; or by a softmax over a patch's queries and "nothing", whose logit is 0 (DETR's, with its weight 0.1 of patches that find nothing; OWL-ViT
does without). Boxes by L1 of centre and size, and generalised IoU (Rezatofighi et al., CVPR 2019; torchvision's), of matched patches.

All are divided by the number of boxes of the whole batch, as in DETR and scenic's ``normalization = "global"``; OWL-ViT's own config divides per example.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, l1_loss, pad
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from wholegrain.downstream.detection.matching import Costs, corners, cost_matrix, match
from wholegrain.downstream.settings import require
from wholegrain.downstream.task import Term

FAR = -1e4  # a logit that padding has


@dataclass(frozen=True)
class DetectionLoss:
    """The loss.

    Attributes:
        kind: ``focal`` or ``softmax``.
        alpha, gamma: of the focal loss and of the matching's cost.
        name_weight, box_weight, giou_weight: of the terms and of the matching's costs (scenic's OWL-ViT: 1 each; DETR: 1, 5, 2).
        nothing: weight of patches that find nothing, in ``softmax``.
    """

    kind: Literal["focal", "softmax"] = "focal"
    alpha: float = 0.3
    gamma: float = 2.0
    name_weight: float = 1.0
    box_weight: float = 1.0
    giou_weight: float = 1.0
    nothing: float = 0.1

    def __post_init__(self) -> None:
        require(0 <= self.alpha <= 1, "loss.alpha", self.alpha, "from 0 to 1")
        for name in ("gamma", "name_weight", "box_weight", "giou_weight", "nothing"):
            require(0 <= getattr(self, name) <= 1e6, f"loss.{name}", getattr(self, name), "from 0 to 1,000,000")

    @property
    def costs(self) -> Costs:
        """Of the matching."""
        return Costs(self.name_weight, self.box_weight, self.giou_weight, self.alpha, self.gamma)

    def terms(self, logits_BPQ: Tensor, box_BP4: Tensor, real_BQ: Tensor, true: list[Tensor], labels: list[Tensor]) -> dict[str, Term]:
        """The three terms.

        Args:
            logits_BPQ: of patches and queries.
            box_BP4: centre and size, in shares of the picture.
            real_BQ: bool, False at padding.
            true: for each picture its boxes ``[M, 4]``, centre and size.
            labels: for each picture the query of each box, int64 ``[M]``.
        """
        wanted_BPQ = torch.zeros_like(logits_BPQ)
        found, boxes = [], []
        for b, (true_M4, label_M) in enumerate(zip(true, labels, strict=True)):
            if len(true_M4):
                patch_K, box_K = match(cost_matrix(logits_BPQ[b].detach(), box_BP4[b].detach(), true_M4, label_M, self.costs))
                patch_K, box_K = patch_K.to(logits_BPQ.device), box_K.to(logits_BPQ.device)
                wanted_BPQ[b, patch_K, label_M[box_K]] = 1.0
                found.append(box_BP4[b, patch_K])
                boxes.append(true_M4[box_K])
        found_N4 = torch.cat(found) if found else box_BP4[:0, 0]
        true_N4 = torch.cat(boxes) if boxes else box_BP4.new_zeros(0, 4)
        count = float(len(found_N4))
        apart = l1_loss(found_N4, true_N4, reduction="sum")
        giou = generalized_box_iou_loss(corners(found_N4), corners(true_N4), reduction="sum") if count else apart
        names = self._focal(logits_BPQ, wanted_BPQ, real_BQ) if self.kind == "focal" else self._softmax(logits_BPQ, wanted_BPQ, real_BQ)
        return {
            "names": Term(names, count, self.name_weight),
            "boxes": Term(apart, count, self.box_weight),
            "giou": Term(giou, count, self.giou_weight),
        }

    def _focal(self, logits_BPQ: Tensor, wanted_BPQ: Tensor, real_BQ: Tensor) -> Tensor:
        each_BPQ = sigmoid_focal_loss(logits_BPQ, wanted_BPQ, self.alpha, self.gamma)
        return (each_BPQ * real_BQ[:, None]).sum()

    def _softmax(self, logits_BPQ: Tensor, wanted_BPQ: Tensor, real_BQ: Tensor) -> Tensor:
        logits_BPC = pad(logits_BPQ.masked_fill(~real_BQ[:, None], FAR), (0, 1))  # the last is "nothing"
        finds_BP = wanted_BPQ.any(-1)
        label_BP = torch.where(finds_BP, wanted_BPQ.argmax(-1), logits_BPQ.shape[-1])
        each_BP = cross_entropy(logits_BPC.flatten(0, 1), label_BP.flatten(), reduction="none").view_as(label_BP)
        return (each_BP * torch.full_like(each_BP, self.nothing).masked_fill(finds_BP, 1.0)).sum()
