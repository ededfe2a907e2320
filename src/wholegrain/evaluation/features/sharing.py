"""Several processes encode together: each its share of the batches, and all of them get all features.

Batches are those of one process, so the features are, too: bit for bit on the same kind of device with as many threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch.distributed as dist

from wholegrain.errors import MachineError, UserError
from wholegrain.evaluation.result import NotSupportedError

_GROUP: ContextVar[dist.ProcessGroup | None] = ContextVar("processes that encode together", default=None)
Item = TypeVar("Item")


@contextmanager
def sharing(group: dist.ProcessGroup | None) -> Iterator[None]:
    """While this context is open, the processes of the group share what is to be encoded; all of them ask for the same in the same order.

    ``None`` is this process alone.
    """
    token = _GROUP.set(group)
    try:
        yield
    finally:
        _GROUP.reset(token)


def is_main_process() -> bool:
    """Whether this process is the one that writes: the first of those that share, or alone."""
    group = _GROUP.get()
    return group is None or dist.get_rank(group) == 0


def all_gather(value: Item) -> list[Item]:
    """What each process of those that share gave, in the order of their ranks."""
    group = _GROUP.get()
    if group is None:
        return [value]
    found = [value] * dist.get_world_size(group)
    dist.all_gather_object(found, value, group=group)
    return found


def rank_shard(batches: Sequence[Item]) -> list[Item]:
    """This process's share of the batches: every W-th."""
    group = _GROUP.get()
    return list(batches if group is None else batches[dist.get_rank(group) :: dist.get_world_size(group)])


def gather_in_order(results: Iterator[Item], batches: int) -> Iterator[Item]:
    """The results of all batches in their order, where ``results`` are those of this process's :func:`rank_shard`.

    Raises:
        UserError, MachineError, NotSupportedError: in all processes, where one of them met it.
    """
    group = _GROUP.get()
    if group is None:
        yield from results
        return
    for _ in range(-(-batches // dist.get_world_size(group))):
        result, problem = None, None
        try:
            result = next(results, None)
        except (UserError, MachineError, NotSupportedError) as error:
            problem = error
        gathered = all_gather((result, problem))
        for _, failure in gathered:
            if failure is not None:
                raise failure
        yield from (found for found, _ in gathered if found is not None)
