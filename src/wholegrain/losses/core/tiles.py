"""Score matrices that are never whole: ``scale * rows @ columns.T + bias``, taken a tile at a time.

A tile holds about ``TILE`` numbers, whatever the batch: on a CPU as many as its cache holds beside the vectors. What a loss makes of
the tiles is in ``losses/core/tiled_softmax.py`` and ``losses/core/tiled_sigmoid.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from wholegrain.losses.core.contract import at_least_float32
from wholegrain.losses.core.typed_torch import disable

TILE = {"cpu": 2**20, "accelerator": 2**24}  # numbers of a tile
KEPT = 2**24  # numbers that the forward pass may keep for the backward pass, which then computes no score again
Inputs: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor | None]  # rows_RD, columns_CD, scale, bias


@dataclass(frozen=True)
class Logits:
    """``scale * rows @ columns.T + bias``, ``[R, C]``, not computed.

    Attributes:
        rows_RD, columns_CD: vectors, as a rule unit vectors.
        scale: scalar.
        bias: scalar, or ``None``.
    """

    rows_RD: Tensor
    columns_CD: Tensor
    scale: Tensor
    bias: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(R, C)."""
        return len(self.rows_RD), len(self.columns_CD)

    def inputs(self) -> Inputs:
        """The four tensors in one type, float32 at least."""
        rows, columns = at_least_float32(self.rows_RD), at_least_float32(self.columns_CD)
        dtype = torch.promote_types(rows.dtype, columns.dtype)
        bias = None if self.bias is None else self.bias.to(dtype)
        return rows.to(dtype), columns.to(dtype), self.scale.to(dtype), bias


def untraced(call: Callable[..., Any], *arguments: object) -> Any:
    """``call(*arguments)``, run as it is under ``torch.compile``: its loops over tiles are no work for a compiler.

    (As a decorator, ``torch.compiler.disable`` would import the compiler wherever a loss is imported: two seconds.)
    """
    return disable(call)(*arguments) if torch.compiler.is_compiling() else call(*arguments)


def only_once() -> None:
    """To be called in a backward pass: refuses a graph of it, for its gradients would be missing there without a word."""
    if torch.is_grad_enabled():
        raise RuntimeError("the tiled losses have no second derivative: take their gradient without create_graph=True")


class Context(Protocol):
    """torch's, of one call: what its forward pass leaves for its backward pass."""

    needs_input_grad: tuple[bool, ...]
    saved_tensors: tuple[Tensor, ...]  # and None where that was saved

    def save_for_backward(self, *tensors: Tensor | None) -> object: ...


class Mask(Protocol):
    """Which cells of a score matrix are left out."""

    def fill(self, tile: Tensor, rows: slice, columns: slice, value: float) -> None:
        """Writes ``value`` into the cells of ``tile [rows, columns]`` that are left out."""


class Nothing:
    """No cell is left out."""

    def fill(self, tile: Tensor, rows: slice, columns: slice, value: float) -> None:
        """Does nothing."""


def tile_sides(rows: int, columns: int, device: torch.device) -> tuple[int, int]:
    """Rows and columns of a tile: square, or as long as the matrix has few rows or columns.

    Example:
        >>> tile_sides(16384, 16384, torch.device("cpu")), tile_sides(64, 100_000, torch.device("cpu"))
        ((1024, 1024), (64, 16384))
    """
    cells = TILE["cpu" if device.type == "cpu" else "accelerator"]
    high = max(1, min(rows, max(math.isqrt(cells), cells // max(columns, 1))))
    return high, max(1, min(columns, cells // high))


def cut(length: int, side: int) -> Iterator[slice]:
    """Slices of at most ``side`` that cover ``length``."""
    return (slice(start, min(start + side, length)) for start in range(0, length, side))


class Strip:
    """Some rows of a score matrix; makes their tiles, each in the place of the last."""

    def __init__(self, inputs: Inputs, rows: slice) -> None:
        rows_RD, columns_CD, scale, bias = inputs
        self.rows, self.vectors = rows, rows_RD[rows]
        self.scaled, self.columns_CD, self.bias = self.vectors * scale, columns_CD, bias

    def tile(self, columns: slice, room: Tensor | None = None) -> Tensor:
        """The scores of ``columns``, in ``room`` (a flat tensor, long enough) if there is one."""
        others = self.columns_CD[columns]
        shape = (len(self.vectors), len(others))
        out = self.scaled.new_empty(shape) if room is None else room[: shape[0] * shape[1]].view(shape)
        torch.mm(self.scaled, others.T, out=out)
        return out if self.bias is None else out.add_(self.bias)


class ProductGradient:
    """Gradients of :class:`Logits`' inputs, gathered tile by tile from the gradients of the scores.

    Args:
        inputs: the vectors, the scale and the bias.
        needed: for which of the four a gradient is asked for.
    """

    def __init__(self, inputs: Inputs, needed: tuple[bool, ...]) -> None:
        self.rows_RD, self.columns_CD, self.scale, self.bias = inputs
        to_rows, to_columns, to_scale, self.to_bias = needed
        self.by_rows = torch.zeros_like(self.rows_RD) if to_rows or (to_scale and not to_columns) else None
        self.by_columns = torch.zeros_like(self.columns_CD) if to_columns else None
        self.needed, self.by_bias = needed, self.scale.new_zeros(())

    def add(self, rows: slice, columns: slice, gradient: Tensor) -> None:
        """``gradient`` is that of the scores of one tile."""
        if self.by_rows is not None:
            self.by_rows[rows].addmm_(gradient, self.columns_CD[columns])
        if self.by_columns is not None:
            self.by_columns[columns].addmm_(gradient.T, self.rows_RD[rows])
        if self.to_bias:
            self.by_bias += gradient.sum()

    def result(self) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        """The gradients of rows, columns, scale and bias; ``None`` where not needed."""
        to_rows, _, to_scale, to_bias = self.needed
        by_scale = None
        if to_scale:  # sum of gradient * cosine, without another pass over the tiles
            product, vectors = (self.by_rows, self.rows_RD) if self.by_rows is not None else (self.by_columns, self.columns_CD)
            assert product is not None
            sums = [torch.einsum("nd,nd->n", product[part], vectors[part]).sum() for part in cut(len(vectors), 1024)]
            by_scale = torch.stack(sums).sum() if sums else torch.zeros_like(self.scale)
        for product in (self.by_rows, self.by_columns):
            if product is not None:
                product.mul_(self.scale)
        return self.by_rows if to_rows else None, self.by_columns, by_scale, self.by_bias if to_bias else None
