"""Which patch is to find which box: the cheapest assignment of one picture (Carion et al., *DETR*, ECCV 2020), by OWL-ViT's costs.

Costs as scenic's ``projects/owl_vit/losses.py:compute_cost``: focal cost of the box's own name, L1 of centre and size, minus generalised IoU, each
with the weight that it has in the loss (all 1 in OWL-ViT; DETR: 1, 5, 2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import logsigmoid
from torchvision.ops import box_convert, generalized_box_iou


@dataclass(frozen=True)
class Costs:
    """Weights of the costs, and the focal cost's alpha and gamma."""

    name: float = 1.0
    box: float = 1.0
    giou: float = 1.0
    alpha: float = 0.3
    gamma: float = 2.0


def corners(box_N4: Tensor) -> Tensor:
    """Centre and size -> x0, y0, x1, y1."""
    return box_convert(box_N4, "cxcywh", "xyxy")


def name_cost(logits: Tensor, alpha: float, gamma: float) -> Tensor:
    """What it costs that a logit is true instead of false: positive minus negative focal term."""
    true, false = -logsigmoid(logits), -logsigmoid(-logits)
    return alpha * (-logits).sigmoid() ** gamma * true - (1 - alpha) * logits.sigmoid() ** gamma * false


@torch.no_grad()
def cost_matrix(logits_PQ: Tensor, box_P4: Tensor, true_M4: Tensor, label_M: Tensor, costs: Costs) -> Tensor:
    """``[P, M]``: what it costs that a patch finds a box; ``label_M`` are columns of the logits."""
    name_PM = name_cost(logits_PQ[:, label_M], costs.alpha, costs.gamma)
    apart_PM = torch.cdist(box_P4, true_M4, p=1)
    return costs.name * name_PM + costs.box * apart_PM - costs.giou * generalized_box_iou(corners(box_P4), corners(true_M4))


def match(cost_PM: Tensor) -> tuple[Tensor, Tensor]:
    """Patches and boxes of the cheapest assignment, int64 ``[min(P, M)]`` each; costs that are not finite count as very high."""
    cost = np.nan_to_num(cost_PM.detach().cpu().double().numpy(), nan=1e6, posinf=1e6, neginf=1e6)
    patch, box = linear_sum_assignment(cost)
    return torch.from_numpy(patch).long(), torch.from_numpy(box).long()
