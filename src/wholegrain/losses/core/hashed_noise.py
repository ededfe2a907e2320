"""Random numbers that belong to a pair of things, not to a place in a batch: the same in any order and in any process.

A generator gives its numbers in the order in which they are asked for, so two processes, or two orders of a batch, get others. Here the
number of row r and column c is a hash of both ids and a key (the finaliser of splitmix64, Steele et al., OOPSLA 2014).
"""

from __future__ import annotations

from torch import Tensor

_FIRST, _SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64


def mixed(x: Tensor) -> Tensor:
    """Every bit of the answer depends on every bit of ``x`` (int64; a bijection).

    Example:
        >>> import torch
        >>> mixed(torch.tensor([0, 1])).tolist()
        [0, 6238072747940578789]
    """
    x = (x ^ _shifted(x, 30)) * _FIRST
    x = (x ^ _shifted(x, 27)) * _SECOND
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """To the right, zeros from the left."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def gumbel(key: Tensor, row_R: Tensor, column_C: Tensor) -> Tensor:
    """Standard Gumbel numbers ``[R, C]``, float64: the row-wise argmax of logits + these is a draw from the softmax of the logits.

    Args:
        key: int64 scalar; another key, other numbers.
        row_R, column_C: int64 ids.
    """
    cell_RC = mixed(mixed(row_R + mixed(key))[:, None] + mixed(column_C)[None])
    uniform_RC = (_shifted(cell_RC, 11).double() + 0.5) * 2.0**-53
    return -(-uniform_RC.log()).log()
