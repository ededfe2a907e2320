"""A caption must find itself, as a teacher embeds it, among its own hard negatives: text against text.

With T_n a caption's vector, T'_n the teacher's vector of the same caption, H(n) its hard negatives, cosines throughout::

    loss = mean over captions that have negatives of
           - log e^{s cos(T_n, T'_n)} / ( e^{s cos(T_n, T'_n)} + sum_{m in H(n)} e^{s cos(T_n, T_m)} )

DeGLA's text-grounded contrast (Hu et al., ACM MM 2025, arXiv 2504.16801, section 3; released code): what CE-CLIP's intra-modal contrast
(``imc``) wanted, with a positive. The teacher is an average of the model's own past, so the caption is held where it was while its
negatives are pushed away; nothing is learned through the teacher. ``imc``, variant ``own``, has the caption itself in that place: the
caption may then move anywhere, as long as its negatives do not move with it.

Where sources differ. The released code fixes the scale at 10, whatever the model's own; so does this (``scale``). Its mask does not fit
its list of negatives: the list runs sample by sample (negatives 4i to 4i+3 are caption i's), and the mask takes entries i, B+i, 2B+i,
3B+i, as if it ran negative by negative. So nearly every caption is contrasted with four negatives of *other* captions: at B = 256 four
of the 1,024 cells are a caption's own. (Its image-grounded contrast has the right order.) Here a caption meets its own negatives.

Duplicates: a negative whose words are a true caption of the image (or of its copy) is left out (``duplicates="ignore"``);
``"negative"`` keeps it, as the released code does.
Cost: one dot product a text, and the teacher's forward pass; sends the ids of texts, no vectors.

Example:
    >>> import torch
    >>> from wholegrain.features import ImageFeatures, Pairing, TextFeatures
    >>> lone, zero = torch.tensor([-1, 0]), torch.zeros(2, dtype=torch.int64)       # one caption, one false caption
    >>> pairing = Pairing(zero, lone, zero, torch.tensor([-1, 0]), torch.tensor([7, 8]), torch.tensor([5]), kinds=("swap",))
    >>> text = TextFeatures(torch.ones(2, 8), teacher=TextFeatures(torch.ones(2, 8)))
    >>> round(TgcLoss()(ImageFeatures(torch.ones(1, 8)), text, pairing, torch.tensor(100.0)).value.exp().item(), 4)
    2.0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.core.contract import LossOutput, Ranges, State, at_least_float32, full_precision, unit
from wholegrain.losses.core.known_true import Duplicates
from wholegrain.losses.own_negatives import choice_among_own, true_foils


@dataclass(frozen=True)
class TgcLoss:
    """Softmax of a caption over the teacher's copy of it and its own hard negatives.

    Attributes:
        scale: factor on the cosines; 0 takes the model's own, which this term then trains, too.
        duplicates: ``"ignore"`` leaves out negatives known to be true; ``"negative"`` keeps them in.
    """

    scale: float = 10.0
    duplicates: Duplicates = "ignore"
    needs: ClassVar[frozenset[str]] = frozenset({"negatives", "teacher"})
    ranges: ClassVar[Ranges] = {"scale": (0, 1e6)}

    def __post_init__(self) -> None:
        if self.scale < 0:
            raise ValueError(f"scale is {self.scale} and must be above 0, or 0 for the model's own")

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
        if text.teacher is None:
            raise ValueError('TgcLoss needs a teacher\'s texts; set teacher.kind to "ema" or "frozen"')
        text_ND = unit(text.pooled_ND)
        caption_N = torch.where(pairing.true_N, torch.arange(len(text_ND), device=text_ND.device), pairing.negative_of_N)
        other_ND = torch.where(pairing.true_N[:, None], unit(text.teacher.pooled_ND).to(text_ND.dtype), text_ND)
        factor = self.scale or at_least_float32(scale)
        logit_N = factor * (text_ND[caption_N] * other_ND).sum(1)
        return choice_among_own(logit_N, true_foils(pairing, self.duplicates, group), pairing, 0.0, 0.0, group)
