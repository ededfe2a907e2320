"""Scores that an image and a text make jointly: word against patch, or an image pooled anew by every text.

Such a score costs far more than a dot product and passes through something large (every patch against every word). It is made
here in rectangles of images by texts that hold at most ``CELLS`` numbers; if there are several, each is recomputed in the
backward pass. What stays is one score a pair, ``[B_local, C]``: as much as a contrastive loss that keeps its logits.

:func:`pair_softmax_of` is CLIP's symmetric softmax over such scores, :func:`pair_sigmoid_of` SigLIP's sigmoid loss; both keep
the contract of :mod:`wholegrain.losses.core.contract`: a process scores its own images with the texts of all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import logsigmoid, pad

from wholegrain.features import Pairing, TextFeatures
from wholegrain.losses.core.contract import TINY, LossOutput, at_least_float32
from wholegrain.losses.core.contrastive import mean_of_both
from wholegrain.losses.core.gather import GlobalTexts, gather_rows, gather_texts, max_over, sum_over, world
from wholegrain.losses.core.known_true import Duplicates, KnownTrue
from wholegrain.losses.core.typed_torch import checkpoint

CELLS = 2**26  # float32 numbers of one rectangle: 256 MB

Block = Callable[[slice, slice], Tensor]  # rows, columns -> anything made of these images and these texts


def blocks(block: Block, rows: int, columns: int, cost: int) -> list[list[Tensor]]:
    """``block(rows, columns)`` over all rectangles, as a table; recomputed in the backward pass if there are several.

    Args:
        block: makes a tensor from the images and texts of a rectangle.
        rows, columns: how many there are; at least one rectangle is made, be it empty.
        cost: numbers that ``block`` holds in memory for each pair.

    Example:
        >>> [[list(x.shape) for x in row] for row in blocks(lambda r, c: torch.zeros(5, 7)[r, c], 5, 7, CELLS // 7)]
        [[[1, 7]], [[1, 7]], [[1, 7]], [[1, 7]], [[1, 7]]]
    """
    wide = max(1, min(columns, CELLS // max(cost, 1)))
    high = max(1, min(rows, CELLS // max(cost * wide, 1)))
    starts = [
        (r, [slice(c, min(c + wide, columns)) for c in range(0, max(columns, 1), wide)]) for r in range(0, max(rows, 1), high)
    ]
    table = [(slice(r, min(r + high, rows)), across) for r, across in starts]
    if len(table) == 1 and len(table[0][1]) == 1:
        return [[block(table[0][0], table[0][1][0])]]

    def again(rows: slice, columns: slice) -> Tensor:
        return checkpoint(block, rows, columns, use_reentrant=False, preserve_rng_state=False)

    return [[again(here, there) for there in across] for here, across in table]


def joined(table: list[list[Tensor]]) -> Tensor:
    """One tensor ``[..., rows, columns]`` from the rectangles ``[..., r, c]``."""
    return torch.cat([row[0] if len(row) == 1 else torch.cat(row, -1) for row in table], -2)


@dataclass(frozen=True)
class MaskedTokens:
    """Tokens of several texts, and which of them are there.

    Attributes:
        tokens_CLD: zero where there is no token.
        mask_CL: True at tokens.
    """

    tokens_CLD: Tensor
    mask_CL: Tensor

    def __getitem__(self, texts: slice | Tensor) -> MaskedTokens:
        return MaskedTokens(self.tokens_CLD[texts], self.mask_CL[texts])


def clean_tokens(text: TextFeatures, who: str) -> MaskedTokens:
    """The tokens in float32 at least, with zeros for padding, which may hold anything, even NaN."""
    if text.tokens_NLD is None or text.mask_NL is None:
        raise ValueError(f"{who} needs tokens_NLD and mask_NL; encode with needs={{'tokens'}}")
    return MaskedTokens(torch.where(text.mask_NL[..., None], at_least_float32(text.tokens_NLD), 0.0), text.mask_NL)


def gather_tokens(tokens: MaskedTokens, pairing: Pairing, group: dist.ProcessGroup | None) -> tuple[MaskedTokens, GlobalTexts]:
    """The tokens of all processes, padded to the longest text of all, and the texts they belong to."""
    length = tokens.mask_CL.shape[1]
    if world(group)[1] > 1:
        length = int(max_over(torch.tensor(length, device=tokens.mask_CL.device), group))
    mask = tokens.mask_CL[..., None].to(tokens.tokens_CLD.dtype)
    sent = pad(torch.cat([tokens.tokens_CLD, mask], -1), (0, 0, 0, length - tokens.mask_CL.shape[1]))
    everyone = gather_texts(sent, pairing, group)
    return MaskedTokens(everyone.vectors_CD[..., :-1], everyone.vectors_CD[..., -1] > 0.5), everyone


def pair_softmax_of(
    to_text_BC: Tensor,
    to_image_BC: Tensor,
    pairing: Pairing,
    everyone: GlobalTexts,
    *,
    duplicates: Duplicates = "ignore",
) -> LossOutput:
    """The symmetric softmax over the global batch of scores that were made already; this process's share of the mean over pairs.

    Args:
        to_text_BC: scaled scores for choosing among texts, of this process's images with all texts.
        to_image_BC: scaled scores for choosing among images: the same tensor, unless the method's score has a direction.
        pairing: this process's pairing of the texts that were gathered.
        everyone: the texts of all processes: all are candidates of images, true texts alone are queries.
        duplicates: ``"ignore"`` leaves known true pairs out of the denominators; ``"negative"`` keeps them in.
    """
    out_BC = KnownTrue(pairing, everyone, duplicates)(slice(0, len(pairing.image_id_B)))
    floor = torch.finfo(to_text_BC.dtype).min / 4  # finite: with nothing to compare with, loss and gradient are 0, never NaN
    by_image_B = to_text_BC.masked_fill(out_BC, floor).logsumexp(1)
    by_text_C = lse_over_processes(to_image_BC.masked_fill(out_BC, floor).logsumexp(0), everyone.group)
    text_P = pairing.true_N.nonzero().squeeze(1)
    image_P, column_P = pairing.owner_N[text_P], text_P + everyone.texts_before
    pairs = everyone.pairing.true_N.sum().clamp_min(1)
    to_text = -logsigmoid(to_text_BC[image_P, column_P] - by_image_B[image_P]).sum() / pairs
    to_image = -logsigmoid(to_image_BC[image_P, column_P] - by_text_C[column_P]).sum() / pairs
    return mean_of_both(to_text, to_image)


def pair_sigmoid_of(
    logit_BC: Tensor, pairing: Pairing, everyone: GlobalTexts, *, duplicates: Duplicates = "ignore"
) -> LossOutput:
    """The sigmoid loss of logits that were made already; this process's share: the cells of its own images / images of all.

    Args: as in :func:`pair_softmax_of`; ``logit_BC`` is ``scale * score + bias``.
    """
    rows = slice(0, len(pairing.image_id_B))
    own_BC = KnownTrue(pairing, everyone, "negative")(rows)
    false_BC = ~(own_BC if duplicates == "negative" else KnownTrue(pairing, everyone, duplicates)(rows))
    images = sum_over(logit_BC.new_tensor(float(len(logit_BC))), everyone.group).clamp_min(1)
    positive = -(logsigmoid(logit_BC) * own_BC).sum() / images
    negative = -(logsigmoid(-logit_BC) * false_BC).sum() / images
    return LossOutput(positive + negative, {"positive": positive.detach(), "negative": negative.detach()})


def lse_over_processes(lse_C: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Log-sum-exps over this process's images made those over all images; with gradient."""
    size = world(group)[1]
    return lse_C if size == 1 else gather_rows(lse_C[None], (1,) * size, group).logsumexp(0)


def candidates(pairing: Pairing, negatives: str) -> Tensor:
    """Which texts are compared at all, bool ``[N]``: the true ones, and with ``"all"`` hard negatives, too."""
    return pairing.true_N | (negatives == "all")


def pooled_cosine(weight: Tensor, dot: Tensor, patches: Tensor, length: Tensor) -> Tensor:
    """``cos(sum_p weight[p] v[p], t)`` without the pooled vectors where patches are few; 0 if either is 0.

    Args:
        weight: ``[b, ..., P]``, weights over the patches of image b.
        dot: ``[b, ..., P]``, ``t . v[p]``.
        patches: ``[b, P, D]``.
        length: ``[b, ...]`` or broadcastable, the norm of t.
    """
    flat = weight.flatten(1, -2)
    if patches.shape[1] <= patches.shape[2]:  # squared length by way of the patches' products
        square = ((flat @ (patches @ patches.mT)) * flat).sum(-1)
    else:
        square = (flat @ patches).square().sum(-1)
    square = square.view(weight.shape[:-1]) * length.square()
    tiny = torch.finfo(square.dtype).tiny
    return torch.where(square > TINY**2, (weight * dot).sum(-1) * square.clamp_min(max(TINY**2, tiny)).rsqrt(), 0.0)
