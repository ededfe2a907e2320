"""The symmetric softmax over a score matrix that is never whole: exact, in memory that does not grow with its square.

For scores ``S = scale * rows @ columns.T + bias`` of which some cells are left out: the log-sum-exp of every row and of every column
over the rest, and the scores of chosen cells (the true pairs). That is all that a softmax in both directions needs: any number of
true partners, queries that are candidates of nothing and candidates that are no queries, weights and smoothing are sums over these.

Four matrix products: the scores once forward and once again backward, and the two products that carry their gradient to the vectors.
Each tile serves rows and columns at once. A matrix of at most ``tiles.KEPT`` cells is kept between the passes, which saves the second.
Beyond inputs and gradients, memory is a few tiles and a few numbers a row and a column.

The idea of a softmax by tiles with a running normaliser is that of Milakov and Gimelshein (arXiv 1805.02867) and FlashAttention (Dao et
al., arXiv 2205.14135); for contrastive losses Cheng et al. (Inf-CL, arXiv 2410.17243) tile the rows. Here one pass serves both directions.

**Numbers.** On a CPU a tile takes one exponential a cell for both directions, of its distance from the tile's largest score, if the
scores of the tile lie within what the type can hold so (80 in float32), else one for rows and one for columns. The result is the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from wholegrain.losses.core import tiles
from wholegrain.losses.core.tiles import Inputs, Logits, Mask, ProductGradient, Strip, cut, only_once, tile_sides, untraced

WITHIN = {torch.float32: 80.0, torch.float64: 600.0}


@dataclass(frozen=True)
class Normalisers:
    """What :func:`tiled_softmax` gives; all with gradient.

    Attributes:
        by_row: ``[1, R]``: log-sum-exp of each row; or ``[3, R]``: log-sum-exp, sum and number of its scores.
        by_column: ``[1 or 3, C]``, likewise.
        pair_P: the scores of the cells that were asked for.
    """

    by_row: Tensor
    by_column: Tensor
    pair_P: Tensor


def tiled_softmax(logits: Logits, left_out: Mask, row_P: Tensor, column_P: Tensor, *, sums: bool = False) -> Normalisers:
    """Log-sum-exp of every row and every column of ``logits``, and single scores.

    Args:
        logits: the scores; computed in float32 at least, float64 stays.
        left_out: cells that are in no sum.
        row_P, column_P: cells whose scores are given beside, left out or not.
        sums: also the sum and the number of the scores of each row and column, for label smoothing.

    A row or column of which everything is left out has a log-sum-exp of about -1e38, which has gradient 0. Not twice differentiable.

    Example:
        >>> from wholegrain.losses.core.tiles import Nothing
        >>> one = torch.ones(3, 1)
        >>> found = tiled_softmax(Logits(one, one, torch.tensor(0.0)), Nothing(), torch.tensor([0]), torch.tensor([2]))
        >>> found.by_row.exp().round().tolist(), found.pair_P.tolist()
        ([[3.0, 3.0, 3.0]], [0.0])
    """
    return Normalisers(*untraced(_TiledSoftmax.apply, *logits.inputs(), left_out, row_P, column_P, sums))


class _Context(tiles.Context, Protocol):
    left_out: Mask
    sums: bool
    sides: tuple[int, int]


class _TiledSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context,
        rows_RD: Tensor,
        columns_CD: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        left_out: Mask,
        row_P: Tensor,
        column_P: Tensor,
        sums: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``by_row``, ``by_column`` and ``pair_P`` of :class:`Normalisers`; few scores are kept for backward, many are made again there."""
        inputs = rows_RD, columns_CD, scale, bias
        rows, columns = len(rows_RD), len(columns_CD)
        sides = tile_sides(rows, columns, rows_RD.device)
        found = _Totals(rows, columns, len(row_P), scale, sums)
        keep = any(ctx.needs_input_grad) and rows * columns <= tiles.KEPT
        kept: list[Tensor] = []
        room = None if keep else rows_RD.new_empty(sides[0] * sides[1])
        with torch.autocast(rows_RD.device.type, enabled=False):
            for strip, pairs in _strips(inputs, sides, row_P, column_P):
                for here in cut(columns, sides[1]):
                    tile = strip.tile(here, room)
                    place, row, column = pairs.within(here)
                    found.pair_P[place] = tile[row, column]
                    peak = found.add(tile, left_out, strip.rows, here)
                    if keep:
                        kept += [tile, peak]
        ctx.save_for_backward(*inputs, row_P, column_P, found.by_row[0], found.by_column[0], *kept)
        ctx.left_out, ctx.sums, ctx.sides = left_out, sums, sides
        return found.by_row, found.by_column, found.pair_P

    @staticmethod
    def backward(ctx: _Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of rows, columns, scale and bias, from the kept tiles or from tiles that are made again."""
        only_once()
        rows_RD, columns_CD, scale, bias, row_P, column_P, lse_R, lse_C, *tiled = ctx.saved_tensors
        inputs, kept = (rows_RD, columns_CD, scale, bias), iter(tiled)
        wanted = ProductGradient(inputs, ctx.needs_input_grad[:4])
        room = None if tiled else rows_RD.new_empty(ctx.sides[0] * ctx.sides[1])
        with torch.autocast(rows_RD.device.type, enabled=False):
            for strip, pairs in _strips(inputs, ctx.sides, row_P, column_P):
                rows = strip.rows
                for here in cut(len(columns_CD), ctx.sides[1]):
                    if room is None:
                        tile, peak = next(kept), next(kept)
                    else:
                        tile = strip.tile(here, room)
                        peak = _exponentials(tile, ctx.left_out, rows, here)
                    back = _of_lse(tile, peak, lse_R[rows], lse_C[here], grads[0][0, rows], grads[1][0, here])
                    if len(peak) == 0:
                        ctx.left_out.fill(back, rows, here, 0.0)
                    if ctx.sums:
                        each = grads[0][1, rows, None] + grads[1][1, here]
                        ctx.left_out.fill(each, rows, here, 0.0)
                        back += each
                    place, row, column = pairs.within(here)
                    back.index_put_((row, column), grads[2][place], accumulate=True)
                    wanted.add(rows, here, back)
            return (*wanted.result(), None, None, None, None)


class _Totals:
    """The sums of a forward pass."""

    def __init__(self, rows: int, columns: int, pairs: int, like: Tensor, sums: bool) -> None:
        floor = torch.finfo(like.dtype).min / 4  # a finite floor: an empty row has gradient 0, never NaN
        self.by_row, self.by_column = like.new_zeros(3 if sums else 1, rows), like.new_zeros(3 if sums else 1, columns)
        self.by_row[0], self.by_column[0] = floor, floor
        self.pair_P, self.sums = like.new_zeros(pairs), sums

    def add(self, tile: Tensor, left_out: Mask, rows: slice, columns: slice) -> Tensor:
        """Adds a tile of scores, which becomes what :func:`_exponentials` makes of it; gives its peak."""
        to_row, to_column = self.by_row[:, rows], self.by_column[:, columns]
        if self.sums:
            left_out.fill(tile, rows, columns, 0.0)
            counted = torch.ones_like(tile)
            left_out.fill(counted, rows, columns, 0.0)
            for place, numbers in ((1, tile), (2, counted)):
                to_row[place] += numbers.sum(1)
                to_column[place] += numbers.sum(0)
        peak = _exponentials(tile, left_out, rows, columns)
        if len(peak):
            row, column = tile.sum(1).log_().add_(peak), tile.sum(0).log_().add_(peak)
        else:
            row, column = tile.logsumexp(1), tile.logsumexp(0)
        torch.logaddexp(to_row[0], row, out=to_row[0])
        torch.logaddexp(to_column[0], column, out=to_column[0])
        return peak


def _exponentials(tile: Tensor, left_out: Mask, rows: slice, columns: slice) -> Tensor:
    """Scores become ``exp(score - peak)`` in place, 0 where left out, and ``peak [1]`` is given; if they lie too far apart for
    that, they stay scores, very low where left out, and ``[0]`` is given."""
    if tile.device.type == "cpu" and tile.numel():  # elsewhere the comparison would wait for the device
        low, high = tile.aminmax()
        if high - low < WITHIN[tile.dtype]:
            tile.sub_(high).exp_()
            left_out.fill(tile, rows, columns, 0.0)
            return high[None]
    left_out.fill(tile, rows, columns, torch.finfo(tile.dtype).min / 4)
    return tile.new_empty(0)


def _of_lse(tile: Tensor, peak: Tensor, lse_R: Tensor, lse_C: Tensor, grad_R: Tensor, grad_C: Tensor) -> Tensor:
    """The gradient of a tile's scores, from those of the log-sum-exps of its rows and columns."""
    if len(peak):  # where left out, the tile holds 0 and the factor must be finite
        most = WITHIN[tile.dtype] + 1
        row, column = grad_R * (peak - lse_R).clamp_max(most).exp(), grad_C * (peak - lse_C).clamp_max(most).exp()
        return (row[:, None] + column).mul_(tile)
    back = (tile - lse_R[:, None]).exp_().mul_(grad_R[:, None])
    return back.add_((tile - lse_C).exp_().mul_(grad_C))


class _Pairs:
    """Chosen cells of a strip."""

    def __init__(self, row_P: Tensor, column_P: Tensor, rows: slice) -> None:
        self.place = ((row_P >= rows.start) & (row_P < rows.stop)).nonzero().squeeze(1)
        self.row, self.column = row_P[self.place] - rows.start, column_P[self.place]

    def within(self, columns: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Their places among all, and their rows and columns within the tile of ``columns``."""
        here = ((self.column >= columns.start) & (self.column < columns.stop)).nonzero().squeeze(1)
        return self.place[here], self.row[here], self.column[here] - columns.start


def _strips(inputs: Inputs, sides: tuple[int, int], row_P: Tensor, column_P: Tensor) -> Iterator[tuple[Strip, _Pairs]]:
    for rows in cut(len(inputs[0]), sides[0]):
        yield Strip(inputs, rows), _Pairs(row_P, column_P, rows)
