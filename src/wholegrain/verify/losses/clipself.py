"""``clipself`` once more: patches under each crop, one by one, and the teacher's vector of it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from wholegrain.losses.clipself import ClipselfLoss
from wholegrain.verify.closed_form import ClosedForm, all_alike
from wholegrain.verify.reference import Samples, cos, required, total

VARIANTS = {"clipself": ClipselfLoss(), "clipself-all": ClipselfLoss(inside=0.0)}


def reference(loss: ClipselfLoss, x: Samples) -> Tensor:
    """The formula of ``losses/clipself.py`` in float64, sample by sample."""
    rows, columns = required(x.image.grid)
    apart = []
    for view in x.image.views:
        if view.teacher is None:
            continue
        for i in x.images:
            x0, y0, x1, y1 = required(view.box_B4)[i].tolist()
            if _between(x0, x1, 0, 1) * _between(y0, y1, 0, 1) < loss.inside * (x1 - x0) * (y1 - y0):
                continue
            areas = [_between(x0, x1, c / columns, (c + 1) / columns) * _between(y0, y1, r / rows, (r + 1) / rows) for r in range(rows) for c in range(columns)]
            pooled = torch.stack([area * patch for area, patch in zip(areas, x.unit_patches[i], strict=True)]).sum(0)
            apart.append(1 - cos(pooled, view.teacher.pooled_BD[i]))
    return total(apart) / len(apart) if apart else 0 * x.scale


def _between(low: float, high: float, start: float, end: float) -> float:
    return max(0.0, min(high, end) - max(low, start))


def closed_forms(loss: ClipselfLoss) -> Iterator[ClosedForm]:
    """Problems whose answer is known on paper."""
    yield ClosedForm("patches and teacher alike: 0", all_alike(), 0.0)
    usual = all_alike(0)
    turned = usual.with_leaves({name: -x for name, x in usual.parts().items() if "teacher." in name})
    yield ClosedForm("a teacher opposite to the patches: 2", turned, 2.0)
