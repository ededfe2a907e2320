"""One process or many: who this one is, and what only the first does. Several are started by ``torchrun``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn


@dataclass(frozen=True)
class Place:
    """This process among all.

    Attributes:
        device: what it computes on.
        rank, world: its number and how many there are.
        group: all of them, or ``None`` for one alone.
    """

    device: torch.device
    rank: int = 0
    world: int = 1
    group: dist.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """DistributedDataParallel of the module where there are several processes."""
        if self.group is None:
            return module
        ids = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(module, device_ids=ids, process_group=self.group)

    def any(self, asked: bool) -> bool:
        """Whether any process says yes."""
        if self.group is None:
            return asked
        votes = torch.tensor([float(asked)], device=self.device)
        dist.all_reduce(votes, group=self.group)
        return bool(votes.item())

    def wait(self) -> None:
        """Waits for all processes."""
        if self.group is not None:
            dist.barrier(group=self.group)


@contextmanager
def processes(device: str | None = None) -> Iterator[Place]:
    """This process's place; joins and leaves the others if ``torchrun`` started it (``WORLD_SIZE`` says so)."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if chosen.type == "cuda" and chosen.index is None:
        chosen = torch.device("cuda", local)
        torch.cuda.set_device(chosen)
    if world == 1:
        yield Place(chosen)
        return
    ours = not dist.is_initialized()
    if ours:
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Place(chosen, dist.get_rank(), dist.get_world_size(), dist.group.WORLD)
    finally:
        if ours:
            dist.destroy_process_group()
