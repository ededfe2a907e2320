"""The global batch: rows of all processes, with gradients, when each process has its own number of rows.

``torch.distributed.all_gather`` returns constants: a loss built on it drops the gradient that other processes' losses send to
this process's features. Here the backward pass sums the gradients of all processes, which is the gradient of the summed loss.

``group=None`` means the default group if ``torch.distributed`` is initialised, else this process alone; then nothing is sent.

Cost: forward one all-gather of the rows (padded to the largest count), backward one reduce-scatter (an all-reduce on gloo).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from wholegrain.features import Pairing
from wholegrain.losses.core.typed_torch import reduce_scatter_tensor, table


def world(group: dist.ProcessGroup | None = None) -> tuple[int, int]:
    """This process's rank in ``group`` and the number of processes in it; (0, 1) without ``torch.distributed``.

    Example:
        >>> world()
        (0, 1)
    """
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(group), dist.get_world_size(group)


def sum_over(x: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """The sum of ``x`` over the processes, without gradient: for denominators, counts and carried state."""
    return _reduced(x, dist.ReduceOp.SUM, group)


def max_over(x: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """The element-wise maximum of ``x`` over the processes, without gradient."""
    return _reduced(x, dist.ReduceOp.MAX, group)


def add_over(x: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """The sum of ``x`` over the processes; the backward pass sums the gradients of all processes."""
    return x if world(group)[1] == 1 else _AddOver.apply(x, group)  # pyright: ignore[reportReturnType]


def row_counts(*rows: int, device: torch.device, group: dist.ProcessGroup | None = None) -> list[tuple[int, ...]]:
    """For each number given, the numbers of all processes in rank order.

    Example:
        >>> row_counts(3, 5, device=torch.device("cpu"))
        [(3,), (5,)]
    """
    rank, size = world(group)
    if size == 1:
        return [(n,) for n in rows]
    counts = torch.zeros(size, len(rows), dtype=torch.int64, device=device)
    counts[rank] = torch.tensor(rows, dtype=torch.int64, device=device)
    return [tuple(column) for column in table(sum_over(counts, group).T)]


def gather_rows(x: Tensor, counts: tuple[int, ...], group: dist.ProcessGroup | None = None) -> Tensor:
    """The rows of all processes in rank order, ``[sum(counts), ...]``; the backward pass sums the gradients of all processes.

    Args:
        x: ``[counts[rank], ...]``, this process's rows; the other sizes and the type are the same in every process.
        counts: how many rows each process has, the same tuple in every process (:func:`row_counts`).
    """
    if world(group)[1] == 1:
        return x
    return _GatherRows.apply(x, counts, group)  # pyright: ignore[reportReturnType]


@dataclass(frozen=True)
class GlobalTexts:
    """The texts of the global batch, and where this process's own lie among them.

    Attributes:
        vectors_CD: the texts of all processes in rank order, with gradients; C is the global number of texts.
        pairing: their pairing; owners and negatives are counted in the global batch. Sides of images are not sent.
        images_before, texts_before: images and texts of the processes of lower rank: global index = local index + this.
        group: the processes.
    """

    vectors_CD: Tensor
    pairing: Pairing
    images_before: int
    texts_before: int
    group: dist.ProcessGroup | None


def gather_texts(vectors_ND: Tensor, pairing: Pairing, group: dist.ProcessGroup | None = None) -> GlobalTexts:
    """The texts of all processes; ``vectors_ND`` and ``pairing`` are this process's."""
    device = vectors_ND.device
    rank, size = world(group)
    if size == 1:
        return GlobalTexts(vectors_ND, pairing, 0, 0, group)
    images, texts = row_counts(len(pairing.image_id_B), len(pairing.owner_N), device=device, group=group)
    before_images, before_texts = sum(images[:rank]), sum(texts[:rank])
    negative_of = torch.where(pairing.true_N, pairing.negative_of_N, pairing.negative_of_N + before_texts)
    columns = (pairing.owner_N + before_images, negative_of, pairing.role_N, pairing.kind_N, pairing.text_id_N)
    gathered = gather_rows(torch.stack(columns, 1), texts, group)
    names = ("owner_N", "negative_of_N", "role_N", "kind_N", "text_id_N")
    fields = {name: gathered[:, i].contiguous() for i, name in enumerate(names)}
    whole = replace(pairing, image_id_B=gather_rows(pairing.image_id_B, images, group), side_B=None, **fields)
    return GlobalTexts(gather_rows(vectors_ND, texts, group), whole, before_images, before_texts, group)


def _reduced(x: Tensor, operation: dist.ReduceOp.RedOpType, group: dist.ProcessGroup | None) -> Tensor:
    x = x.detach()
    if world(group)[1] == 1:
        return x
    x = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(x, operation, group)
    return x


class _Context(Protocol):
    """What a forward pass leaves for its backward pass."""

    group: dist.ProcessGroup | None
    counts: tuple[int, ...]


class _AddOver(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        return _reduced(x, dist.ReduceOp.SUM, group)

    @staticmethod
    def backward(ctx: _Context, *grads: Tensor) -> tuple[Tensor, None]:
        return _reduced(grads[0], dist.ReduceOp.SUM, ctx.group), None


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, x: Tensor, counts: tuple[int, ...], group: dist.ProcessGroup | None) -> Tensor:
        ctx.counts, ctx.group = counts, group
        most = max(counts)
        padded = x.new_zeros(most, *x.shape[1:])
        padded[: len(x)] = x
        all_rows = x.new_empty(len(counts), most, *x.shape[1:])
        dist.all_gather(list(all_rows.unbind(0)), padded, group)
        return torch.cat([rows[:n] for rows, n in zip(all_rows, counts, strict=True)])

    @staticmethod
    def backward(ctx: _Context, *grads: Tensor) -> tuple[Tensor, None, None]:
        scatter = all_reduce_rows if dist.get_backend(ctx.group) == "gloo" else reduce_scatter_rows
        return scatter(grads[0], ctx.counts, ctx.group), None, None


def all_reduce_rows(grad: Tensor, counts: tuple[int, ...], group: dist.ProcessGroup | None) -> Tensor:
    """The sum over processes of ``grad [sum(counts), ...]``, this process's rows of it: for backends without reduce-scatter."""
    rank, total = dist.get_rank(group), grad.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, dist.ReduceOp.SUM, group)
    return torch.split(total, list(counts))[rank]


def reduce_scatter_rows(grad: Tensor, counts: tuple[int, ...], group: dist.ProcessGroup | None) -> Tensor:
    """As :func:`all_reduce_rows`, but every process receives its own rows alone."""
    rank, most = dist.get_rank(group), max(counts)
    padded = grad.new_zeros(len(counts), most, *grad.shape[1:])
    for cell, rows in zip(padded, torch.split(grad, list(counts)), strict=True):
        cell[: len(rows)] = rows
    own = grad.new_empty(most, *grad.shape[1:])
    reduce_scatter_tensor(own, padded.flatten(0, 1), dist.ReduceOp.SUM, group)
    return own[: counts[rank]]
