"""What the losses share that compare every image with every text of the global batch.

**Softmax.** A pair (image i, its text n) is compared twice: with other texts under its image (a row of the score matrix) and with
other images under its text (a column). With S the scaled scores, R(i) and C(n) what the image and the text are compared with::

    loss(i, n) = 1/2 [ -log e^S(i,n) / (e^S(i,n) + sum_{m in R(i)} e^S(i,m))
                       -log e^S(i,n) / (e^S(i,n) + sum_{j in C(n)} e^S(j,n)) ]

R and C hold no true partner but the pair's own, so an image may have any number of texts, and R may hold texts (hard negatives)
that are candidates but never queries. Each term is ``-log sigmoid(S(i,n) - lse)``, ``lse`` the log-sum-exp of the others.

**Sharing the work.** A process computes the rows of its own images over the texts of all processes: texts are gathered once,
images stay. Columns need images of all processes: the partial log-sum-exps, one number a text and process, are gathered (with
gradient) and added. The result is exact, not an approximation per process.

**Memory.** Scores are made in blocks of at most ``CELLS`` numbers; when there is more than one block they are recomputed in the
backward pass, so that memory does not grow with the square of the batch.

**Duplicates.** :class:`KnownTrue` says which texts are known to be true of an image: the image's own, every text with the same
words as one of these, and the texts of every copy of the image. With ``duplicates="ignore"`` these are left out of R and C;
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
from torch.utils.checkpoint import checkpoint

from wholegrain.features import Pairing
from wholegrain.losses.contract import LossOutput, at_least_float32, unit
from wholegrain.losses.gather import GlobalTexts, gather_rows, gather_texts, sum_over, world

CELLS = 2**26  # float32 scores of one block: 256 MB

Duplicates = Literal["ignore", "negative"]
Scores = Callable[[slice], Tensor]  # rows -> scaled scores [rows, C]
Mask = Callable[[slice], Tensor]  # rows -> bool [rows, C], True where a candidate is left out


class KnownTrue:
    """Which texts of the global batch are known to be true of which of this process's images.

    Args:
        pairing: this process's pairing; its images are the rows.
        everyone: the texts of the global batch; they are the columns.
        duplicates: ``"ignore"``: own texts, texts with the same words as one of these, and texts of copies of the image;
            ``"negative"``: own texts alone.

    Calling it with rows (a slice or an index) gives bool ``[rows, C]``.
    """

    def __init__(self, pairing: Pairing, everyone: GlobalTexts, duplicates: Duplicates) -> None:
        texts = everyone.pairing
        self.image_B = torch.arange(len(pairing.image_id_B), device=texts.owner_N.device) + everyone.images_before
        self.owner_C = torch.where(texts.true_N, texts.owner_N, -1)
        self.table: Tensor | None = None
        if duplicates == "negative":
            return
        image_ids, self.image_group = torch.unique(texts.image_id_B, return_inverse=True)
        text_ids, self.text_group = torch.unique(texts.text_id_N, return_inverse=True)
        if len(image_ids) == len(texts.image_id_B) and len(text_ids) == len(texts.owner_N):
            return  # nothing occurs twice
        own_ids, self.own_group = torch.unique(pairing.image_id_B, return_inverse=True)
        row_of_group = torch.full((len(image_ids),), -1, dtype=torch.int64, device=image_ids.device)
        row_of_group[torch.searchsorted(image_ids, own_ids)] = torch.arange(len(own_ids), device=image_ids.device)
        row_C = row_of_group[self.image_group[texts.owner_N]]
        here = texts.true_N & (row_C >= 0)
        self.table = torch.zeros(len(own_ids), len(text_ids), dtype=torch.bool, device=image_ids.device)
        self.table[row_C[here], self.text_group[here]] = True

    def __call__(self, rows: slice | Tensor) -> Tensor:
        own = self.image_B[rows, None] == self.owner_C
        return own if self.table is None else own | self.table[self.own_group[rows]][:, self.text_group]


def own_foils(pairing: Pairing, everyone: GlobalTexts, duplicates: Duplicates) -> Tensor:
    """This process's hard negatives; under ``"ignore"`` without those known to be true of their image: int64 ``[M]``."""
    foil = (~pairing.true_N).nonzero().squeeze(1)
    if duplicates == "negative":
        return foil
    texts, true = everyone.pairing, everyone.pairing.true_N
    images = torch.cat([texts.image_id_B[texts.owner_N[true]], pairing.image_id_B[pairing.owner_N[foil]]])
    words = torch.cat([texts.text_id_N[true], pairing.text_id_N[foil]])
    word_ids, word = torch.unique(words, return_inverse=True)
    pair = torch.unique(images, return_inverse=True)[1] * len(word_ids) + word
    facts = len(pair) - len(foil)
    return foil[~torch.isin(pair[facts:], pair[:facts])]


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


def compare(scores: Scores, left_out: Mask, rows: int, columns: int, smoothing: float = 0.0, cost: int = 1) -> tuple[Rest, Rest]:
    """What each row query and each column query is compared with: ``([rows], [columns])``, of this process's rows alone.

    ``cost`` is how many numbers ``scores`` holds in memory for each score.
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
    size = world(group)[1]
    return rest if size == 1 else Rest(_merged(gather_rows(rest.stats[None], (1,) * size, group)))


def _merged(parts: Tensor) -> Tensor:
    """``[parts, 1 or 3, Q]`` -> ``[1 or 3, Q]``."""
    return torch.cat([parts[:, :1].logsumexp(0), parts[:, 1:].sum(0)])


def pair_softmax(
    scores: Scores,
    true_P: Tensor,
    pair_P: Tensor,
    pairing: Pairing,
    everyone: GlobalTexts,
    *,
    duplicates: Duplicates = "ignore",
    foils: Foils | None = None,
    smoothing: float = 0.0,
    cost: int = 1,
) -> LossOutput:
    """The symmetric softmax over the global batch; this process's share of the mean over all true pairs.

    Args:
        scores: rows of this process's images -> scaled scores with all texts of ``everyone``.
        true_P: the scaled scores of this process's true pairs.
        pair_P: the text (0..N-1, this process's) of each of these pairs.
        pairing: this process's pairing of the same texts that were gathered.
        everyone: the texts of all processes: all are candidates of images; true texts alone are queries.
        foils: hard negatives that were not gathered: candidates of their own image alone.
        smoothing: label smoothing, 0..1.
        cost: numbers held in memory for each score.
    """
    known = KnownTrue(pairing, everyone, duplicates)
    by_image, by_text = compare(scores, known, len(pairing.image_id_B), len(everyone.pairing.owner_N), smoothing, cost)
    by_text = over_processes(by_text, everyone.group)
    if foils is not None:
        by_image = by_image.joined_by(foils.logit_M, foils.image_M)
    to_text = by_image[pairing.owner_N[pair_P]].cross_entropy(true_P, smoothing)
    to_image = by_text[pair_P + everyone.texts_before].cross_entropy(true_P, smoothing)
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
    candidate = pairing.true_N | (negatives == "all")
    pairs, candidates_ND = pairing.select_texts(candidate), text_ND[candidate]
    everyone = gather_texts(candidates_ND, pairs, group)

    def own(text_ND: Tensor, owner: Tensor) -> Tensor:
        return scale * (image_BD[owner] * text_ND).sum(1)

    foils = None
    if negatives == "own":
        foil = own_foils(pairing, everyone, duplicates)
        foils = Foils(own(text_ND[foil], pairing.owner_N[foil]), pairing.owner_N[foil])
    pair_P = pairs.true_N.nonzero().squeeze(1)
    true_P = own(candidates_ND[pair_P], pairs.owner_N[pair_P])
    settings = {"duplicates": duplicates, "foils": foils, "smoothing": smoothing}
    return pair_softmax(
        lambda rows: scale * (image_BD[rows] @ everyone.vectors_CD.T), true_P, pair_P, pairs, everyone, **settings
    )


def pair_sigmoid(
    logits: Scores,
    pairing: Pairing,
    everyone: GlobalTexts,
    *,
    duplicates: Literal["ignore", "negative", "positive"] = "ignore",
    foils: Foils | None = None,
    cost: int = 1,
) -> LossOutput:
    """The sigmoid loss of every (image, text) cell of the global batch; this process's share: the cells of its own images.

    ``-(1 / images of the global batch) sum_{i,m} log sigmoid(z(i,m) logit(i,m))`` with z = 1 for a text of the image, else -1.
    All texts of ``everyone`` are columns. ``duplicates="positive"`` makes z = 1 for every text known to be true.

    Args:
        logits: rows of this process's images -> ``scale * cosine + bias`` with all texts of ``everyone``.
        pairing, everyone, foils, cost: as in :func:`pair_softmax`.
    """
    own = KnownTrue(pairing, everyone, "negative")
    known = own if duplicates == "negative" else KnownTrue(pairing, everyone, "ignore")
    rows, columns = len(pairing.image_id_B), len(everyone.pairing.owner_N)

    def block(start: int, stop: int) -> Tensor:
        here = slice(start, stop)
        cells, positive = logits(here), (known if duplicates == "positive" else own)(here)
        counts = positive | ~known(here)
        right = -logsigmoid(torch.where(positive, cells, -cells)) * counts
        return torch.stack([(right * positive).sum(), (right * ~positive).sum()])

    per_block = max(1, CELLS // max(columns * cost, 1))
    if rows <= per_block:
        total = block(0, rows)
    else:
        starts = range(0, rows, per_block)
        blocks = [checkpoint(block, s, min(s + per_block, rows), use_reentrant=False, preserve_rng_state=False) for s in starts]
        total = torch.stack(blocks).sum(0)
    if foils is not None:
        false = -logsigmoid(-foils.logit_M).sum()
        total = total + torch.stack([torch.zeros_like(false), false])
    share = total / sum_over(total.new_tensor(float(rows)), everyone.group).clamp_min(1)
    return LossOutput(share.sum(), {"positive": share[0].detach(), "negative": share[1].detach()})
