"""What the losses share that compare every image with every text of the global batch.

**Softmax.** A pair (image i, its text n) is compared twice: with other texts under its image (a row of the score matrix) and with
other images under its text (a column). With S the scaled scores, R(i) and C(n) what the image and the text are compared with::

    loss(i, n) = 1/2 [ -log e^S(i,n) / (e^S(i,n) + sum_{m in R(i)} e^S(i,m))
                       -log e^S(i,n) / (e^S(i,n) + sum_{j in C(n)} e^S(j,n)) ]

R and C hold no true partner but the pair's own, so an image may have any number of texts, and R may hold texts (hard negatives)
that are candidates but never queries. Each term is ``-log sigmoid(S(i,n) - lse)``, ``lse`` the log-sum-exp of the others.

**Sharing the work.** A process computes the rows of its own images over the texts of all processes: texts are gathered once,
images stay. Columns need images of all processes: the partial log-sum-exps, one number a text, are merged by an all-reduce. The
result is exact, not an approximation per process, and no score is computed twice in the world.

**Memory.** Scores that are products of vectors (:class:`~wholegrain.losses.core.tiles.Logits`) are made a tile at a time, forward and
backward (``losses/core/tiled_softmax.py``, ``losses/core/tiled_sigmoid.py``). Scores that take more than a product are made in blocks of at
most ``CELLS`` numbers; when there is more than one block they are recomputed in the backward pass. Either way memory does not grow
with the square of the batch, and neither does the mask of what is left out.

**Duplicates.** ``losses/core/known_true.py`` says which texts are known to be true of an image: the image's own, every text with the
same words as one of these, and the texts of every copy of the image. With ``duplicates="ignore"`` these are left out of R and C;
with ``"negative"`` only the image's own texts are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import logsigmoid

from wholegrain.features import Pairing
from wholegrain.losses.core.contract import LossOutput, at_least_float32, unit
from wholegrain.losses.core.gather import GlobalTexts, add_over, gather_texts, max_over, sum_over, world
from wholegrain.losses.core.known_true import Duplicates, KnownTrue, own_foils
from wholegrain.losses.core.tiled_sigmoid import tiled_sigmoid
from wholegrain.losses.core.tiled_softmax import tiled_softmax
from wholegrain.losses.core.tiles import Logits
from wholegrain.losses.core.typed_torch import checkpoint

CELLS = 2**26  # float32 scores of one block: 256 MB

Scores = Callable[[slice], Tensor]  # rows -> scaled scores [rows, C]
RowMask = Callable[[slice], Tensor]  # rows -> bool [rows, C], True where a candidate is left out


def grouped_lse(logit_M: Tensor, group_M: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Log-sum-exp of each group's logits ``[groups]``, 0 for an empty one, and which groups are not empty."""
    peak = logit_M.new_full((groups,), -torch.inf).scatter_reduce(0, group_M, logit_M.detach(), "amax")
    filled = peak > -torch.inf
    peak = torch.where(filled, peak, 0.0)
    total = torch.zeros_like(peak).index_add(0, group_M, (logit_M - peak[group_M]).exp())
    return torch.where(filled, torch.where(filled, total, 1.0).log() + peak, 0.0), filled


@dataclass(frozen=True)
class Rest:
    """What queries are compared with beside their true partner; its numbers are logits.

    Attributes:
        stats: ``[1, Q]``: log-sum-exp; or ``[3, Q]``: log-sum-exp, sum and number, if labels are smoothed.
    """

    stats: Tensor

    def __getitem__(self, index: Tensor) -> Rest:
        return Rest(self.stats[:, index])

    def joined_by(self, logit_M: Tensor, query_M: Tensor) -> Rest:
        """With further rivals: ``logit_M[m]`` joins the rivals of query ``query_M[m]``."""
        lse, joined = grouped_lse(logit_M, query_M, self.stats.shape[1])
        stats = [torch.where(joined, torch.logaddexp(self.stats[0], lse), self.stats[0])]
        if len(self.stats) > 1:
            stats += [self.stats[1].index_add(0, query_M, logit_M), self.stats[2].index_add(0, query_M, torch.ones_like(logit_M))]
        return Rest(torch.stack(stats))

    def cross_entropy(self, true_Q: Tensor, smoothing: float = 0.0) -> Tensor:
        """Cross entropy of each query with the logit ``true_Q`` of its true partner; smoothing as in ``F.cross_entropy``."""
        loss = -logsigmoid(true_Q - self.stats[0])
        if smoothing:
            loss = loss + smoothing * (true_Q - (self.stats[1] + true_Q) / (self.stats[2] + 1))
        return loss


@dataclass(frozen=True)
class Foils:
    """Hard negatives that are compared with their own image alone.

    Attributes:
        logit_M: their scaled scores with their image.
        image_M: their image (0..B-1, this process's).
    """

    logit_M: Tensor
    image_M: Tensor


@dataclass(frozen=True)
class RowScores:
    """Scaled scores that take more than a product of vectors, and so are made a few rows at a time.

    Attributes:
        make: rows -> their scores ``[rows, C]``.
        cost: numbers that it holds in memory for each score.
        true_P: of a softmax: the scores of this process's true pairs.
    """

    make: Scores
    cost: int = 1
    true_P: Tensor | None = None


def compare(
    scores: Scores, left_out: RowMask, rows: int, columns: int, smoothing: float = 0.0, cost: int = 1
) -> tuple[Rest, Rest]:
    """What each row query and each column query is compared with: ``([rows], [columns])``, of this process's rows alone.

    For scores that take more than a product of vectors; those that do not are for :func:`tiled_softmax`. ``cost`` is how many
    numbers ``scores`` holds in memory for each score.
    """
    per_block = max(1, CELLS // max(columns * cost, 1))
    starts = range(0, max(rows, 1), per_block)

    def block(start: int) -> tuple[Tensor, Tensor]:
        here = slice(start, min(start + per_block, rows))
        logits, out = scores(here), left_out(here)
        # A finite floor: a query with nothing to compare with then has loss 0 and gradient 0, never NaN.
        floored = logits.masked_fill(out, torch.finfo(logits.dtype).min / 4)
        by_row, by_column = [floored.logsumexp(1)], [floored.logsumexp(0)]
        if smoothing:
            zeroed, counted = logits.masked_fill(out, 0), (~out).to(logits.dtype)
            by_row += [zeroed.sum(1), counted.sum(1)]
            by_column += [zeroed.sum(0), counted.sum(0)]
        return torch.stack(by_row), torch.stack(by_column)

    if len(starts) == 1:
        by_row, by_column = block(0)
        return Rest(by_row), Rest(by_column)
    blocks = [checkpoint(block, start, use_reentrant=False, preserve_rng_state=False) for start in starts]
    return Rest(torch.cat([b[0] for b in blocks], 1)), Rest(_merged(torch.stack([b[1] for b in blocks])))


def over_processes(rest: Rest, group: dist.ProcessGroup | None) -> Rest:
    """The same queries, compared with the candidates of all processes; with gradient."""
    if world(group)[1] == 1:
        return rest
    peak = max_over(rest.stats[:1], group)
    added = add_over(torch.cat([(rest.stats[:1] - peak).exp(), rest.stats[1:]]), group)
    return Rest(torch.cat([added[:1].log() + peak, added[1:]]))


def _merged(parts: Tensor) -> Tensor:
    """``[parts, 1 or 3, Q]`` -> ``[1 or 3, Q]``."""
    return torch.cat([parts[:, :1].logsumexp(0), parts[:, 1:].sum(0)])


def pair_softmax(
    scores: RowScores | Logits,
    pair_P: Tensor,
    pairing: Pairing,
    everyone: GlobalTexts,
    *,
    duplicates: Duplicates = "ignore",
    foils: Foils | None = None,
    smoothing: float = 0.0,
) -> LossOutput:
    """The symmetric softmax over the global batch; this process's share of the mean over all true pairs.

    Args:
        scores: scaled scores of this process's images with all texts of ``everyone``: vectors, or rows of scores.
        pair_P: the text (0..N-1, this process's) of each of this process's true pairs.
        pairing: this process's pairing of the same texts that were gathered.
        everyone: the texts of all processes: all are candidates of images; true texts alone are queries.
        foils: hard negatives that were not gathered: candidates of their own image alone.
        smoothing: label smoothing, 0..1.
    """
    known = KnownTrue(pairing, everyone, duplicates)
    row_P, column_P = pairing.owner_N[pair_P], pair_P + everyone.texts_before
    if isinstance(scores, Logits):
        found = tiled_softmax(scores, known, row_P, column_P, sums=smoothing > 0)
        by_image, by_text, true_P = Rest(found.by_row), Rest(found.by_column), found.pair_P
    else:
        rows, columns, true_P = len(pairing.image_id_B), len(everyone.pairing.owner_N), scores.true_P
        by_image, by_text = compare(scores.make, known, rows, columns, smoothing, scores.cost)
    assert true_P is not None
    by_text = over_processes(by_text, everyone.group)
    if foils is not None:
        by_image = by_image.joined_by(foils.logit_M, foils.image_M)
    to_text = by_image[row_P].cross_entropy(true_P, smoothing)
    to_image = by_text[column_P].cross_entropy(true_P, smoothing)
    pairs = everyone.pairing.true_N.sum().clamp_min(1)
    return mean_of_both(to_text.sum() / pairs, to_image.sum() / pairs)


def mean_of_both(to_text: Tensor, to_image: Tensor) -> LossOutput:
    """The mean of the two directions, with both in the log."""
    parts = {"image_to_text": to_text.detach(), "text_to_image": to_image.detach()}
    return LossOutput((to_text + to_image) / 2, parts)


def pooled_softmax(
    image_BD: Tensor,
    text_ND: Tensor,
    pairing: Pairing,
    scale: Tensor,
    *,
    group: dist.ProcessGroup | None,
    negatives: Literal["none", "own", "all"] = "none",
    duplicates: Duplicates = "ignore",
    smoothing: float = 0.0,
) -> LossOutput:
    """:func:`pair_softmax` of scaled cosines of one vector an image and one vector a text.

    ``negatives``: hard negatives are not seen, are candidates of their own image, or of every image.
    """
    image_BD, text_ND, scale = unit(image_BD), unit(text_ND), at_least_float32(scale)
    pairs, candidates_ND = pairing, text_ND
    if negatives != "all":
        pairs, candidates_ND = pairing.select_texts(pairing.true_N), text_ND[pairing.true_N]
    everyone = gather_texts(candidates_ND, pairs, group)
    foils = None
    if negatives == "own":
        foil = own_foils(pairing, everyone, duplicates)
        image_M = pairing.owner_N[foil]
        foils = Foils(scale * (image_BD[image_M] * text_ND[foil]).sum(1), image_M)
    pair_P = pairs.true_N.nonzero().squeeze(1)
    logits = Logits(image_BD, everyone.vectors_CD, scale)
    return pair_softmax(logits, pair_P, pairs, everyone, duplicates=duplicates, foils=foils, smoothing=smoothing)


def pair_sigmoid(
    logits: RowScores | Logits,
    pairing: Pairing,
    everyone: GlobalTexts,
    *,
    duplicates: Literal["ignore", "negative", "positive"] = "ignore",
    foils: Foils | None = None,
) -> LossOutput:
    """The sigmoid loss of every (image, text) cell of the global batch; this process's share: the cells of its own images.

    ``-(1 / images of the global batch) sum_{i,m} log sigmoid(z(i,m) logit(i,m))`` with z = 1 for a text of the image, else -1.
    All texts of ``everyone`` are columns. ``duplicates="positive"`` makes z = 1 for every text known to be true.

    Args:
        logits: ``scale * cosine + bias`` of this process's images with all texts of ``everyone``: vectors, or rows.
        pairing, everyone, foils: as in :func:`pair_softmax`.
    """
    own = KnownTrue(pairing, everyone, "negative")
    known = own if duplicates == "negative" else KnownTrue(pairing, everyone, "ignore")
    positive = known if duplicates == "positive" else own
    rows, columns = len(pairing.image_id_B), len(everyone.pairing.owner_N)
    if isinstance(logits, Logits):
        total, of_positive = tiled_sigmoid(logits, positive, known)
    else:
        total, of_positive = _sigmoid_in_blocks(logits.make, positive, known, rows, columns * logits.cost)
    if foils is not None:
        total = total - logsigmoid(-foils.logit_M).sum()
    images = sum_over(total.new_tensor(float(rows)), everyone.group).clamp_min(1)
    share, of_positive = total / images, of_positive / images
    return LossOutput(share, {"positive": of_positive, "negative": share.detach() - of_positive})


def _sigmoid_in_blocks(logits: Scores, positive: KnownTrue, known: KnownTrue, rows: int, numbers: int) -> tuple[Tensor, Tensor]:
    """As :func:`tiled_sigmoid`, for scores that take more than a product of vectors: ``numbers`` in memory for each row."""

    def block(start: int, stop: int) -> tuple[Tensor, Tensor]:
        here = slice(start, stop)
        cells, is_positive = logits(here), positive(here)
        right = -logsigmoid(torch.where(is_positive, cells, -cells)) * (is_positive | ~known(here))
        return right.sum(), (right.detach() * is_positive).sum()

    per_block = max(1, CELLS // max(numbers, 1))
    if rows <= per_block:
        return block(0, rows)
    starts = range(0, rows, per_block)
    blocks = [checkpoint(block, s, min(s + per_block, rows), use_reentrant=False, preserve_rng_state=False) for s in starts]
    totals, of_positive = zip(*blocks, strict=True)
    return torch.stack(totals).sum(), torch.stack(of_positive).sum()
