"""CE-CLIP's cross-modal rank: an image is closer to its caption than to the caption's negatives, by a margin that grows.

For caption n of image i and its hard negative k of kind K, with S = scale * cosine (Zhang et al., CVPR 2024, arXiv 2306.08832,
section 3; a curriculum: the margin starts at 0 and follows what the model can do)::

    loss   = mean over cells of max(0, S(i, T_k) - S(i, T_n) + margin_K)
    margin_K at step t+1 = clamp( mean_n S(i, T_n) - mean_{negatives of kind K} S(i, T_k), 0, upper )    of step t's global batch

The margins are state: carried from step to step, detached, one a kind, and kept when a kind is absent from a batch.

Where sources differ. The released code resets the margins to 0 with every epoch (a local variable); here they last. It averages
over the B x K grid including absent cells (``reduction="grid"``: captions times kinds); ``"valid"`` divides by the negatives
that are there. It takes the positive mean over all captions, also those without a negative of the kind (``gap="all"``);
``gap="paired"`` takes the captions of these negatives, so that captions without negatives do not move the margins. It gives NaN
when a kind is absent. ``margin="max"`` is its other mode: the largest gap of the batch / 5; ``"fixed"`` keeps ``fixed``. Units:
the code's S is in logits, so upper = 10 is 0.10 in cosines at scale 100. FG-CLIP 2 restates the loss with bare cosines and no
bound: ``units="cosine"``, ``upper=2``.

``scores="joint"``, for a fusion model (CE-XVLM): S is the log-odds of ``ImageFeatures.match``, the scale is not used, and ``upper`` and
``fixed`` are log-odds. The paper applies "the same losses" to X-VLM; that code was never released, so whether its S was the
matching output or X-VLM's cosine is unknown.

A negative that is word for word its caption is left out. Duplicates: play no part; an image meets only its own texts.
Cost: one dot product a negative (``"joint"``: one pass of the network for every text, true or false); sends a few numbers.

Example:
    >>> import torch
    >>> from wholegrain.features import ImageFeatures, Pairing, TextFeatures
    >>> lone, zero = torch.tensor([-1, 0]), torch.zeros(2, dtype=torch.int64)       # one image, its caption, one false caption
    >>> pairing = Pairing(zero, lone, zero, torch.tensor([-1, 0]), torch.tensor([7, 8]), torch.tensor([5]), kinds=("swap",))
    >>> image, text = ImageFeatures(torch.tensor([[1.0, 0.0]])), TextFeatures(torch.tensor([[1.0, 0.0], [0.6, 0.8]]))
    >>> first = CmrLoss()(image, text, pairing, torch.tensor(10.0))                     # S = 10 and 6: in order, margin 0
    >>> second = CmrLoss()(image, text, pairing, torch.tensor(10.0), state={"margin_K": torch.tensor([6.0])})
    >>> first.value.item(), round(first.state["margin_K"].item(), 4), round(second.value.item(), 4)
    (0.0, 4.0, 2.0)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.core.contract import LossOutput, Ranges, State, at_least_float32, takes_numbers, unit
from wholegrain.losses.core.gather import max_over, sum_over, world
from wholegrain.losses.core.matching import NEEDED, own_log_odds


@dataclass(frozen=True)
class CmrLoss:
    """Hinge on an image's own caption against the caption's own negatives, with one adaptive margin a kind.

    Attributes:
        margin: ``"mean"`` and ``"max"`` follow the last batch's gap, ``"fixed"`` does not.
        upper: bound of the margin, in ``units``.
        fixed: the margin of ``"fixed"``, in ``units``.
        reduction: ``"valid"``: mean over negatives; ``"grid"``: sum over negatives / (captions times kinds).
        gap: captions of the positive mean: ``"all"``, or ``"paired"`` with a negative of the kind.
        units: ``"logit"``: scale * cosine; ``"cosine"``: bare cosines, and the scale is not used.
        scores: ``"cosine"``: in ``units``; ``"joint"``: log-odds of a model that reads image and text together.
    """

    margin: Literal["mean", "max", "fixed"] = "mean"
    upper: float = 10.0
    fixed: float = 2.0
    reduction: Literal["valid", "grid"] = "valid"
    gap: Literal["all", "paired"] = "all"
    units: Literal["logit", "cosine"] = "logit"
    scores: Literal["cosine", "joint"] = "cosine"
    needs: ClassVar[frozenset[str]] = frozenset({"negatives"})
    ranges: ClassVar[Ranges] = {"upper": (0, 1e6), "fixed": (0, 1e6)}

    def __post_init__(self) -> None:
        if self.scores == "joint":
            object.__setattr__(self, "needs", frozenset({"negatives"}) | NEEDED)

    def initial_state(self, kinds: Sequence[str]) -> dict[str, Tensor]:
        """``margin_K``: one margin for each kind, in ``units``; 0 where it adapts."""
        return {"margin_K": torch.full((len(kinds),), self.fixed if self.margin == "fixed" else 0.0)}

    @takes_numbers
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
        if self.scores == "joint":  # in the precision of training, like the rest of the network
            score_N = own_log_odds(image, text, pairing)
        else:
            scale = at_least_float32(scale if self.units == "logit" else torch.ones_like(scale))
            score_N = scale * (unit(image.pooled_BD)[pairing.owner_N] * unit(text.pooled_ND)).sum(1)
        return self._ranked(score_N, pairing, state, group)

    def _ranked(self, score_N: Tensor, pairing: Pairing, state: State | None, group: dist.ProcessGroup | None) -> LossOutput:
        """The loss from the score of every text with its own image."""
        caption, kind = pairing.negative_of_N, pairing.kind_N
        foil = (~pairing.true_N).nonzero().squeeze(1)
        foil = foil[pairing.text_id_N[foil] != pairing.text_id_N[caption[foil]]]
        margin_K = score_N.new_full((len(pairing.kinds),), self.fixed if self.margin == "fixed" else 0.0)
        if state is not None and self.margin != "fixed":
            margin_K = state["margin_K"].to(score_N)
        true_M, false_M, kind_M = score_N[caption[foil]], score_N[foil], kind[foil]
        hinge_M = (false_M - true_M + margin_K[kind_M]).relu()

        captions = sum_over(pairing.true_N.sum(), group)
        cells = captions * len(margin_K) if self.reduction == "grid" else sum_over(kind_M.new_tensor(len(foil)), group)
        next_K = self._next_margin(margin_K, score_N[pairing.true_N].detach(), true_M.detach(), false_M.detach(), kind_M, group)
        share = margin_K / world(group)[1]
        parts = {f"margin/{name}": share[k] for k, name in enumerate(pairing.kinds)}
        return LossOutput(hinge_M.sum() / cells.clamp_min(1), parts, {"margin_K": next_K})

    def _next_margin(
        self, margin_K: Tensor, true_N: Tensor, true_M: Tensor, false_M: Tensor, kind_M: Tensor, group: dist.ProcessGroup | None
    ) -> Tensor:
        """The next step's margins, the same in every process; a kind without negatives in the global batch keeps its own."""
        if self.margin == "fixed":
            return margin_K
        zero_K = torch.zeros_like(margin_K)
        sums = [zero_K.index_add(0, kind_M, x) for x in (torch.ones_like(true_M), true_M, false_M)]
        means = torch.cat([torch.stack([true_N.sum(), true_N.new_tensor(float(len(true_N)))]), *sums])
        means = sum_over(means, group)
        number_K, paired_K, false_K = means[2:].view(3, -1)
        at_least_one = number_K.clamp_min(1)
        if self.margin == "max":
            gap_K = max_over((zero_K - torch.inf).scatter_reduce(0, kind_M, true_M - false_M, "amax"), group) / 5
        elif self.gap == "paired":
            gap_K = (paired_K - false_K) / at_least_one
        else:
            gap_K = means[0] / means[1].clamp_min(1) - false_K / at_least_one
        return torch.where(number_K > 0, gap_K.clamp(0, self.upper), margin_K)
