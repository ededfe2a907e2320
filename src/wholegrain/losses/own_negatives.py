"""An image must choose its caption among the caption's own hard negatives: a small softmax beside CLIP's large one.

For caption n of image i and its hard negatives H(n), with S = scale * cosine::

    p_k  = e^S(i,k) / ( e^S(i,n) + sum_{m in H(n)} e^S(i,m) ),   k in {n} and H(n)
    loss = mean over captions that have negatives of  - sum_k y_k (1 - p_k)^focal log p_k
    y_n  = 1 - smoothing + smoothing / (1 + |H(n)|),   y_k = smoothing / (1 + |H(n)|) for a negative

Sources. ``focal = 0`` and no smoothing: L_neg of Doveh et al., "Teaching Structured Vision & Language Concepts" (TSVLC or
SVLC; CVPR 2023, arXiv 2211.11733) and its released code, also the image-grounded contrast of DeGLA (arXiv 2504.16801).
``focal = 2``, ``label_smoothing = 0.02``: the "selective calibrated regularization" of the global term of FSC-CLIP (Oh et
al., EMNLP 2024, arXiv 2410.05210) and its released code: a caption that is chosen already counts less (focal, Lin et al.,
ICCV 2017), and a negative, which may well be true in part, is not pushed away without end.

In ``negclip`` the negatives stand among hundreds of captions of other images, which are easy; here the question is the hard
one alone. CE-CLIP's intra-modal contrast (``imc``, variant ``own``) asks the same of *texts*: a caption's cosine with itself,
1, against its cosines with its negatives; no image takes part, and it does not train the scale. Here an image does the
choosing.

Where sources differ. FSC-CLIP's code fills a missing negative with a vector of zeros, which stays in the denominator as a
candidate of logit 0 (nothing at a scale of 100, something in early training); TSVLC takes the same number for every image;
here a missing negative is missing. Both average within a process, here over the global batch. With focal and smoothing
together the factor (1 - p_k)^focal stands at every class, as in FSC-CLIP's code. With several captions an image each caption
has its own softmax.

Duplicates: a negative whose words are a true caption of the image (or of its copy) is left out (``duplicates="ignore"``);
``"negative"`` keeps it, as the released codes do.
Cost: one dot product a text; sends the ids of texts, no vectors.

Example:
    >>> import torch
    >>> from wholegrain.features import ImageFeatures, Pairing, TextFeatures
    >>> lone, zero = torch.tensor([-1, 0]), torch.zeros(2, dtype=torch.int64)       # one image, its caption, one false caption
    >>> pairing = Pairing(zero, lone, zero, torch.tensor([-1, 0]), torch.tensor([7, 8]), torch.tensor([5]), kinds=("swap",))
    >>> loss = OwnNegativesLoss()(ImageFeatures(torch.ones(1, 8)), TextFeatures(torch.ones(2, 8)), pairing, torch.tensor(10.0))
    >>> round(loss.value.exp().item(), 4)
    2.0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import logsigmoid

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.core.contract import LossOutput, Ranges, State, at_least_float32, full_precision, unit
from wholegrain.losses.core.contrastive import grouped_lse
from wholegrain.losses.core.gather import gather_texts, sum_over
from wholegrain.losses.core.known_true import Duplicates, own_foils


@dataclass(frozen=True)
class OwnNegativesLoss:
    """Softmax of an image over a caption and the caption's own hard negatives.

    Attributes:
        focal: exponent of (1 - p), 0 or more: how much less a caption counts that is chosen already; 0 is cross entropy.
        label_smoothing: 0..1, spread evenly over the caption and its negatives.
        duplicates: ``"ignore"`` leaves out negatives known to be true; ``"negative"`` keeps them in.
    """

    focal: float = 0.0
    label_smoothing: float = 0.0
    duplicates: Duplicates = "ignore"
    needs: ClassVar[frozenset[str]] = frozenset({"negatives"})
    ranges: ClassVar[Ranges] = {"focal": (0, 1e6), "label_smoothing": (0, 1)}

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
        logit_N = at_least_float32(scale) * (unit(image.pooled_BD)[pairing.owner_N] * unit(text.pooled_ND)).sum(1)
        foil_M = true_foils(pairing, self.duplicates, group)
        return choice_among_own(logit_N, foil_M, pairing, self.focal, self.label_smoothing, group)


def true_foils(pairing: Pairing, duplicates: Duplicates, group: dist.ProcessGroup | None) -> Tensor:
    """This process's hard negatives that are not known, in any process, to be true of their image: int64 ``[M]``."""
    nothing = torch.zeros(len(pairing.owner_N), 1, device=pairing.owner_N.device)
    return own_foils(pairing, gather_texts(nothing, pairing, group), duplicates)


def choice_among_own(
    logit_N: Tensor,
    foil_M: Tensor,
    pairing: Pairing,
    focal: float,
    smoothing: float,
    group: dist.ProcessGroup | None,
) -> LossOutput:
    """This process's share of the mean, over captions with negatives, of :func:`choice`; ``right`` is the share chosen rightly.

    Args:
        logit_N: every text's score with its own image, scaled.
        foil_M: the negatives that take part.
        pairing: this process's pairing.
        focal, smoothing: see :class:`OwnNegativesLoss`.
    """
    caption_M = pairing.negative_of_N[foil_M]
    each_N, has_N = choice(logit_N, logit_N[foil_M], caption_M, focal, smoothing)
    captions = sum_over(has_N.sum(), group).clamp_min(1)
    with torch.no_grad():
        beaten_N = torch.zeros_like(has_N).index_put_((caption_M[logit_N[foil_M] >= logit_N[caption_M]],), has_N.new_ones(()))
        right = (has_N & ~beaten_N).sum().to(logit_N.dtype) / captions
    return LossOutput(each_N[has_N].sum() / captions, {"right": right})


def choice(true_N: Tensor, false_M: Tensor, query_M: Tensor, focal: float = 0.0, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """The (focal, smoothed) cross entropy of each query's true logit among its false ones ``[N]``, and which have false ones.

    Args:
        true_N: the logit of each query's true candidate.
        false_M: logits of false candidates.
        query_M: the query (0..N-1) of each false candidate.
        focal, smoothing: see :class:`OwnNegativesLoss`.

    Example:
        >>> choice(torch.zeros(2), torch.zeros(3), torch.tensor([0, 0, 0]))[0].exp().tolist()    # four alike; no choice
        [4.0, 1.0]
    """
    lse_N, has_N = grouped_lse(false_M, query_M, len(true_N))
    lse_N = torch.where(has_N, lse_N, torch.finfo(lse_N.dtype).min / 4)
    ahead_N = true_N - lse_N
    share_N = smoothing / (1 + torch.bincount(query_M, minlength=len(true_N)).to(true_N.dtype))
    each_N = -(1 - smoothing + share_N) * logsigmoid(ahead_N) * _factor(logsigmoid(-ahead_N), focal)
    if smoothing:
        log_p_M = false_M - torch.logaddexp(true_N, lse_N)[query_M]
        others_M = -torch.expm1(log_p_M.clamp_max(0.0))  # 1 - p
        least = torch.finfo(others_M.dtype).tiny
        factor_M = _factor(others_M.clamp_min(least).log(), focal)
        each_N = each_N.index_add(0, query_M, -share_N[query_M] * log_p_M * factor_M)
    return each_N, has_N


def _factor(log_others: Tensor, focal: float) -> Tensor | float:
    """(1 - p)^focal, from log(1 - p)."""
    return (focal * log_others).exp() if focal else 1.0
