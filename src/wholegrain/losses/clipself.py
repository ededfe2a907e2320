"""CLIPSelf: what patches say of a crop is to be what a frozen teacher says of the crop as a picture of its own.

Wu et al., ICLR 2024, arXiv 2310.01403; released code (wusize/CLIPSelf, training/clipself.py). A Vision Transformer of CLIP's names whole pictures well
and its own patches badly. So the model teaches itself: crops of a picture are encoded one by one by the model as it was; the student sees the
picture once, and its patches under each crop, pooled, must point the same way. With p_r the student's unit patches, b_rk the share of patch r that
crop k covers, t_ik the teacher's vector of crop k of image i::

    v_ik = sum_r b_rk p_r / sum_r b_rk          loss = mean over images and crops of 1 - cos(v_ik, t_ik)

The mean is over all crops of the global batch of which the student's view shows at least the share ``inside`` (others are left out: nothing
can be said of what was not seen); crops are the views that a teacher saw, beyond the first. No text is asked.

Where sources differ. The released code crops along grids of m x n cells (m and n up to 6, at most 20 of the cells), ours at random places, shapes and
sizes (``data.views``). It pools by RoIAlign (bilinear samples, one output cell), ours by the exact area that a crop has in each patch. In EVA-CLIP it
takes dense features from the last block without its attention; here patches are the model's own, as all other tasks read them. It mixes
the student with the start model's weights at the end (``--alpha 0.7``): ``wholegrain interpolate`` does that.

Duplicates: play no part; every crop is compared with itself alone. Needs patches, ``data.views`` and a teacher of kind "frozen" that sees
them; ``teacher.student_views = 1`` saves the student crops that nothing asks it for.
Cost: P x D products a crop, and the teacher's forward pass over all crops; sends one count.

Example:
    >>> import torch
    >>> from wholegrain.features import ImageFeatures, Pairing, TextFeatures
    >>> patches = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])                                     # left and right half
    >>> teacher = ImageFeatures(torch.tensor([[0.0, 2.0]]))
    >>> crop = ImageFeatures(torch.ones(1, 2), teacher=teacher, box_B4=torch.tensor([[0.0, 0.0, 0.5, 1.0]]))   # the left half
    >>> image = ImageFeatures(torch.ones(1, 2), patches_BPD=patches, grid=(1, 2), views=(crop,), teacher=teacher)
    >>> ClipselfLoss()(image, TextFeatures(torch.ones(1, 2)), Pairing.one_to_one(1), torch.tensor(10.0)).value.item()
    1.0
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
class ClipselfLoss:
    """One minus the cosine of pooled patches and a teacher's vector of the same crop.

    Attributes:
        inside: share of a crop, in [0, 1], that the student's view must show.
    """

    inside: float = 0.9
    needs: ClassVar[frozenset[str]] = frozenset({"patches", "teacher", "views"})
    ranges: ClassVar[Ranges] = {"inside": (0, 1)}

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
        crops = [view for view in image.views if view.teacher is not None and view.box_B4 is not None]
        if image.patches_BPD is None or image.grid is None or not crops:
            raise ValueError('ClipselfLoss needs patches and crops that a teacher sees; set teacher.kind to "frozen", and teacher.views above 1')
        patch_BPD = unit(image.patches_BPD)
        taught_BKD = torch.stack([unit(view.teacher.pooled_BD) for view in crops if view.teacher is not None], 1)
        box_BK4 = torch.stack([view.box_B4.detach() for view in crops if view.box_B4 is not None], 1).to(patch_BPD)
        cover_BKP = covers(box_BK4, image.grid)
        counted_BK = shown_share(box_BK4) >= self.inside
        cosine_BK = (unit(cover_BKP @ patch_BPD) * taught_BKD.to(patch_BPD.dtype)).sum(-1)
        apart = torch.where(counted_BK, 1 - cosine_BK, 0.0).sum()
        count = sum_over(counted_BK.sum().to(apart.dtype), group).clamp_min(1)
        return LossOutput(apart / count, {"cosine": torch.where(counted_BK, cosine_BK, 0.0).sum().detach() / count})


def covers(box_BK4: Tensor, grid: tuple[int, int]) -> Tensor:
    """``[B, K, P]``: the share of each patch, row-major, that each box (x0, y0, x1, y1 in shares of the picture's sides) covers.

    Example:
        >>> covers(torch.tensor([[[0.0, 0.0, 0.75, 1.0]]]), (1, 2)).tolist()
        [[[1.0, 0.5]]]
    """
    rows, columns = (_overlaps(box_BK4[..., k], box_BK4[..., k + 2], n) for k, n in ((1, grid[0]), (0, grid[1])))
    return (rows[..., :, None] * columns[..., None, :]).flatten(-2)


def _overlaps(low_BK: Tensor, high_BK: Tensor, count: int) -> Tensor:
    """``[B, K, count]``: the share of each of ``count`` equal parts of 0..1 that lies between two borders."""
    edge = torch.arange(count + 1, dtype=low_BK.dtype, device=low_BK.device) / count
    length = torch.minimum(high_BK[..., None], edge[1:]) - torch.maximum(low_BK[..., None], edge[:-1])
    return (length * count).clamp(0, 1)


def shown_share(box_BK4: Tensor) -> Tensor:
    """``[B, K]``: the share of each box that lies in 0..1."""
    inner = box_BK4.clamp(0, 1)
    area, whole = ((box[..., 2:] - box[..., :2]).clamp_min(0).prod(-1) for box in (inner, box_BK4))
    return area / whole.clamp_min(1e-12)
