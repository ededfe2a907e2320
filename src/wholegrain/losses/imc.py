"""CE-CLIP's intra-modal contrast: a caption is pushed away from its hard negatives within the space of texts.

With T_n a caption, H(n) its own hard negatives, s the scale, cosines throughout (Zhang et al., CVPR 2024, arXiv 2306.08832,
section 3). There is no agreement on the formula, so it is a setting:

``"own"`` (default)::

    -log e^{s p} / (e^{s p} + sum_{k in H(n)} e^{s cos(T_n, T_k)}),  p = 1, the caption's cosine with itself

    The intent, done cleanly: only own negatives, and a positive that pulls nothing anywhere. ``positive="sibling"`` takes
    another caption of the same image as the positive where there is one (as DeGLA, arXiv 2504.16801, takes a teacher's
    embedding); sensible for paraphrases, not for captions of different roles.

``"paper"``::

    log sum_{k in H(n)} e^{s cos(T_n, T_k)}

    The printed form, as FG-CLIP 2 restates it: no positive, no lower bound but the negatives' own. Whether the paper scales the
    cosines is not known; ``scaled=False`` does not.

``"cross_modal"``::

    -log e^{s cos(I_n, T_n)} / (e^{s cos(I_n, T_n)} + sum_{k in H} e^{s cos(T_n, T_k)}),  H: all hard negatives of the batch

    The released code between 31 January and 8 March 2024. It compares image-text cosines (about 0.3) with text-text ones (about
    0.9).

``"released"``::

    -log e^{s cos(T_n, T_first)} / sum_{k in H} e^{s cos(T_n, T_k)},  T_first: the first hard negative of the global batch

    The released code since 27 March 2024: the target is an arbitrary negative, the same for every caption. Its floor is ln |H|, ln(4B)
    with four negatives a caption, once the texts cannot be told apart. ``"first_release"`` (June 2023 to 31 January 2024, and 8 to 27
    March 2024; with which the published models agree best) has ``e^{s cos(I_n, T_n)}`` in the sum, too: one rival more. Both to
    reproduce, not to recommend.

``scores="joint"``, for a fusion model (CE-XVLM), in the first two: the cosine of two texts gives way to the log-odds z of
``ImageFeatures.match`` for the image i of T_n with each text, so "own" asks which of the caption and its negatives the image has::

    own:  -log e^{z(i,n)} / (e^{z(i,n)} + sum_{k in H(n)} e^{z(i,k)}),     paper:  log sum_{k in H(n)} e^{z(i,k)}

The paper applies "the same losses" to X-VLM; that code was never released, so it is unknown whether its IMC compared texts by X-VLM's
text vectors (``"cosine"`` here, which works with a fusion model, too) or pairs by its matching output.

In the first two the scale is not learned from this term: there is no image in it, and its gradient would push the scale one way.

The mean is over all captions of the global batch that have a negative (``own``, ``paper``), or over all captions. A negative that
is word for word its caption is left out, except in the two released ones, which leave nothing out.

Duplicates: in ``"cross_modal"`` a hard negative that is known to be true of the image is ignored; else they play no part.
Cost: ``own`` and ``paper``: one dot product a negative (``"joint"``: one pass of the network for every text, true or false), nothing
sent but a count; the others gather all texts.

Example:
    >>> import torch
    >>> from wholegrain.features import ImageFeatures, Pairing, TextFeatures
    >>> lone, zero = torch.tensor([-1, 0]), torch.zeros(2, dtype=torch.int64)       # one caption, one false caption
    >>> pairing = Pairing(zero, lone, zero, torch.tensor([-1, 0]), torch.tensor([7, 8]), torch.tensor([5]), kinds=("swap",))
    >>> loss = ImcLoss()(ImageFeatures(torch.ones(1, 8)), TextFeatures(torch.ones(2, 8)), pairing, torch.tensor(10.0))
    >>> round(loss.value.exp().item(), 4)
    2.0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import logsigmoid

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.core.contract import LossOutput, State, at_least_float32, full_precision, takes_numbers, unit
from wholegrain.losses.core.contrastive import grouped_lse
from wholegrain.losses.core.gather import gather_texts, sum_over
from wholegrain.losses.core.known_true import KnownTrue
from wholegrain.losses.core.matching import NEEDED, own_log_odds
from wholegrain.losses.core.tiled_softmax import tiled_softmax
from wholegrain.losses.core.tiles import Logits, Nothing


@dataclass(frozen=True)
class ImcLoss:
    """Contrast of captions with hard negative captions, text against text.

    Attributes:
        variant: which formula, see the module.
        positive: of ``"own"``: ``"self"``, or ``"sibling"``: another caption of the same image where there is one.
        scaled: multiply cosines by the learned scale; ``False`` leaves bare cosines.
        scores: ``"cosine"``: of two texts; ``"joint"``: log-odds of image and text, of a model that reads both together; for ``own``
            (with the caption as its own positive) and ``paper``.
    """

    variant: Literal["own", "paper", "cross_modal", "released", "first_release"] = "own"
    positive: Literal["self", "sibling"] = "self"
    scaled: bool = True
    scores: Literal["cosine", "joint"] = "cosine"
    needs: ClassVar[frozenset[str]] = frozenset({"negatives"})

    def __post_init__(self) -> None:
        if self.scores == "joint":
            if self.variant not in ("own", "paper") or self.positive != "self":
                raise ValueError('scores = "joint" goes with variant = "own" or "paper" and positive = "self"')
            object.__setattr__(self, "needs", frozenset({"negatives"}) | NEEDED)

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
            each, count = self._among_scores(own_log_odds(image, text, pairing), pairing)
            return LossOutput(each.sum() / sum_over(count, group).clamp_min(1))
        return self._of_cosines(image, text, pairing, scale, group)

    @full_precision
    def _of_cosines(
        self, image: ImageFeatures, text: TextFeatures, pairing: Pairing, scale: Tensor, group: dist.ProcessGroup | None
    ) -> LossOutput:
        text_ND = unit(text.pooled_ND)
        scale = at_least_float32(scale) if self.scaled else torch.ones_like(text_ND[:0].sum())
        if self.variant in ("own", "paper"):
            each, count = self._among_own(text_ND, pairing, scale.detach())
        else:
            each, count = self._among_all(unit(image.pooled_BD), text_ND, pairing, scale, group)
        return LossOutput(each.sum() / sum_over(count, group).clamp_min(1))

    def _among_scores(self, score_N: Tensor, pairing: Pairing) -> tuple[Tensor, Tensor]:
        foil_M = _different_foils(pairing)
        lse_N, has_N = grouped_lse(score_N[foil_M], pairing.negative_of_N[foil_M], len(score_N))
        each = lse_N[has_N] if self.variant == "paper" else -logsigmoid(score_N[has_N] - lse_N[has_N])
        return each, has_N.sum()

    def _among_own(self, text_ND: Tensor, pairing: Pairing, scale: Tensor) -> tuple[Tensor, Tensor]:
        foil_M = _different_foils(pairing)
        caption_M = pairing.negative_of_N[foil_M]
        lse_N, has_N = grouped_lse(scale * (text_ND[foil_M] * text_ND[caption_M]).sum(1), caption_M, len(text_ND))
        lse, caption = lse_N[has_N], has_N.nonzero().squeeze(1)
        if self.variant == "paper":
            return lse, has_N.sum()
        true = torch.ones_like(lse)
        if self.positive == "sibling":
            sibling = _siblings(pairing)[caption]
            true = torch.where(sibling == caption, true, (text_ND[caption] * text_ND[sibling]).sum(1))
        return -logsigmoid(scale * true - lse), has_N.sum()

    def _among_all(
        self, image_BD: Tensor, text_ND: Tensor, pairing: Pairing, scale: Tensor, group: dist.ProcessGroup | None
    ) -> tuple[Tensor, Tensor]:
        everyone = gather_texts(text_ND, pairing, group)
        foil_F = (~everyone.pairing.true_N).nonzero().squeeze(1)
        caption = pairing.true_N.nonzero().squeeze(1)
        if len(foil_F) == 0:  # the same in every process
            return 0 * everyone.vectors_CD.sum()[None], torch.zeros_like(caption.sum())
        logits, count = (
            Logits(text_ND[caption], everyone.vectors_CD[foil_F], scale),
            torch.tensor(len(caption), device=scale.device),
        )
        row = torch.arange(len(caption), device=foil_F.device)
        owner = pairing.owner_N[caption]
        true = scale * (image_BD[owner] * text_ND[caption]).sum(1)
        if self.variant in ("released", "first_release"):
            found = tiled_softmax(logits, Nothing(), row, torch.zeros_like(row))
            rivals = found.by_row[0] if self.variant == "released" else torch.logaddexp(found.by_row[0], true)
            return rivals - found.pair_P, count
        known = KnownTrue(pairing, everyone, "ignore", image_R=owner, text_C=foil_F)
        return -logsigmoid(true - tiled_softmax(logits, known, row[:0], row[:0]).by_row[0]), count


def _different_foils(pairing: Pairing) -> Tensor:
    """The negatives whose words differ from their caption's: int64 index."""
    foil = (~pairing.true_N).nonzero().squeeze(1)
    return foil[pairing.text_id_N[foil] != pairing.text_id_N[pairing.negative_of_N[foil]]]


def _siblings(pairing: Pairing) -> Tensor:
    """For each true text the next true text of the same image, cyclically; a lone one is its own sibling: ``[N]``."""
    true = pairing.true_N.nonzero().squeeze(1)
    order = true[pairing.owner_N[true].argsort(stable=True)]
    owner = pairing.owner_N[order]
    place = torch.arange(len(order), device=order.device)
    first = torch.searchsorted(owner, owner)
    last = torch.searchsorted(owner, owner, right=True) - 1
    following = torch.where(place == last, first, place + 1)
    sibling = torch.arange(len(pairing.owner_N), device=order.device)
    sibling[order] = order[following]
    return sibling
