"""The sigmoid loss over a score matrix that is never whole: exact, in memory that does not grow with its square.

``sum over the cells that count of -log sigmoid(z S)``, ``S = scale * rows @ columns.T + bias``, z = 1 at positive cells, else -1
(Zhai et al., SigLIP, arXiv 2303.15343, eq. 1). No cell needs to know another's, so gradients are made in the forward pass,
while the tile is at hand: three matrix products in all, none in the backward pass, which multiplies by the gradient of the sum.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from wholegrain.losses.core.tiles import Context, Logits, Mask, ProductGradient, Strip, cut, only_once, tile_sides, untraced


class Cells(Protocol):
    """A set of cells of a score matrix."""

    def pairs(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """Rows and columns, counted within the tile ``[rows, columns]``, of its cells that belong; none twice."""
        ...


def tiled_sigmoid(logits: Logits, positive: Cells, left_out: Mask) -> tuple[Tensor, Tensor]:
    """The loss summed over all cells that count, and, without gradient, over the positive ones alone; scalars.

    Args:
        logits: the scores; computed in float32 at least, float64 stays.
        positive: cells with z = 1; they count whether left out or not.
        left_out: cells that do not count.

    Not twice differentiable.

    Example:
        >>> class Diagonal:
        ...     def pairs(self, rows, columns):
        ...         return torch.eye(2, dtype=torch.bool)[rows, columns].nonzero().unbind(1)
        >>> from wholegrain.losses.core.tiles import Nothing
        >>> one, zero = torch.ones(2, 1), torch.tensor(0.0)
        >>> [round(x.item(), 4) for x in tiled_sigmoid(Logits(one, one, zero), Diagonal(), Nothing())]    # four cells of ln 2
        [2.7726, 1.3863]
    """
    return untraced(_TiledSigmoid.apply, *logits.inputs(), positive, left_out)


class _Context(Context, Protocol):
    made: list[bool]

    def set_materialize_grads(self, value: bool) -> object: ...
    def mark_non_differentiable(self, *outputs: Tensor) -> object: ...


class _TiledSigmoid(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context, rows_RD: Tensor, columns_CD: Tensor, scale: Tensor, bias: Tensor | None, positive: Cells, left_out: Mask
    ) -> tuple[Tensor, Tensor]:
        """The two sums, scalars; gradients of the inputs are made on the way, tile by tile, so that backward only scales them."""
        ctx.set_materialize_grads(False)
        inputs = rows_RD, columns_CD, scale, bias
        wanted = ProductGradient(inputs, ctx.needs_input_grad[:4])
        height, width = tile_sides(len(rows_RD), len(columns_CD), rows_RD.device)
        room = rows_RD.new_empty(height * width)
        total, of_positive = scale.new_zeros(()), scale.new_zeros(())
        with torch.autocast(rows_RD.device.type, enabled=False):
            for rows in cut(len(rows_RD), height):
                strip = Strip(inputs, rows)
                for columns in cut(len(columns_CD), width):
                    against = strip.tile(columns, room)  # -z S, for z = -1
                    row, column = positive.pairs(rows, columns)
                    flipped = -against[row, column]
                    left_out.fill(against, rows, columns, torch.finfo(against.dtype).min / 4)
                    against[row, column] = flipped
                    total -= logsigmoid(-against).sum()
                    of_positive -= logsigmoid(-flipped).sum()
                    if any(wanted.needed):
                        gradient = against.sigmoid_()
                        gradient[row, column] *= -1
                        wanted.add(rows, columns, gradient)
            made = wanted.result()
        ctx.made = [gradient is not None for gradient in made]
        ctx.save_for_backward(*(gradient for gradient in made if gradient is not None))
        ctx.mark_non_differentiable(of_positive)
        return total, of_positive

    @staticmethod
    def backward(ctx: _Context, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        only_once()
        saved, by_total = iter(ctx.saved_tensors), grads[0]
        if by_total is None:
            return (None,) * 6
        return (*(next(saved) * by_total if made else None for made in ctx.made), None, None)
