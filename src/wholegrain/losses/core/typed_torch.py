"""Functions of torch that state no types, under the types that they have here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    Made = TypeVar("Made")
    Call = TypeVar("Call", bound=Callable[..., object])

    def vector_norm(x: Tensor, *, dim: int, keepdim: bool = False) -> Tensor: ...
    def eigh(x: Tensor) -> tuple[Tensor, Tensor]: ...
    def checkpoint(
        function: Callable[..., Made], *arguments: object, use_reentrant: bool, preserve_rng_state: bool
    ) -> Made: ...
    def disable(function: Call) -> Call: ...
    def manual_seed(seed: int) -> object: ...
    def integers(x: Tensor) -> list[int]: ...
    def numbers(x: Tensor) -> list[float]: ...
    def table(x: Tensor) -> list[list[int]]: ...
    def distinct(x: Tensor) -> Tensor: ...
    def groups(x: Tensor, *, dim: int | None = None) -> tuple[Tensor, Tensor, Tensor]: ...
    def run_lengths(x: Tensor) -> Tensor: ...
    def reduce_scatter_tensor(
        output: Tensor, input: Tensor, op: dist.ReduceOp.RedOpType, group: dist.ProcessGroup | None
    ) -> object: ...
else:
    from torch.utils.checkpoint import checkpoint

    vector_norm, eigh, disable = torch.linalg.vector_norm, torch.linalg.eigh, torch.compiler.disable
    manual_seed = torch.manual_seed
    integers = numbers = table = Tensor.tolist
    distinct = torch.unique

    def groups(x, *, dim=None):
        """The distinct values (or rows), the place of each of ``x`` among them, and how often each occurs."""
        return torch.unique(x, return_inverse=True, return_counts=True, dim=dim)

    def run_lengths(x):
        """The lengths of runs of equal values."""
        return torch.unique_consecutive(x, return_counts=True)[1]

    def reduce_scatter_tensor(output, input, op, group):
        """As torch's, which not every build has."""
        dist.reduce_scatter_tensor(output, input, op, group)


__all__ = [
    "checkpoint", "disable", "distinct", "eigh", "groups", "integers", "manual_seed", "numbers", "reduce_scatter_tensor", "run_lengths", "table",
    "vector_norm",
]  # fmt: skip
