"""One process or many: which one this is, what only the main one does, and what holds when one of them fails.

Several are started by ``torchrun`` or SLURM's ``srun`` (:mod:`wholegrain.training.distributed.launch`). They speak through gloo, on CUDA devices
through NCCL; what lies on the CPU goes through gloo there, too.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import PrefixStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.rendezvous import rendezvous

from wholegrain.errors import MachineError, UserError
from wholegrain.training.distributed.launch import Launch, launch

TIMEOUT = 600.0
"""Seconds for which a process waits for another one that should be doing the same, before it takes it for lost."""
_LOST = ("gloo", "nccl", "connection", "timed out", "timeout", "tcpstore", "broken pipe", "rendezvous", "socket")
Made = TypeVar("Made")


@dataclass(frozen=True)
class DistributedContext:
    """This process among all.

    Attributes:
        device: what it computes on.
        rank, world_size: its number and how many there are.
        group: all of them, or ``None`` for one alone.
        store: what they meet at.
        main_group: in the main process a group of itself, for what it computes while the others do not.
    """

    device: torch.device
    rank: int = 0
    world_size: int = 1
    group: dist.ProcessGroup | None = None
    store: Store | None = None
    main_group: dist.ProcessGroup | None = None
    _calls: Counter[str] = field(default_factory=Counter, repr=False, compare=False)

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """DistributedDataParallel of the module where there are several processes."""
        if self.group is None:
            return module
        ids = [self.device.index] if self.device.type == "cuda" else None
        wrapped = nn.parallel.DistributedDataParallel(module, device_ids=ids, process_group=self.group)
        _settle_buckets(wrapped)
        return wrapped

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Of each flag, whether it is set in any process."""
        if self.group is None:
            return flags
        votes = torch.tensor([float(flag) for flag in flags], device=self.device)
        dist.all_reduce(votes, group=self.group)
        return tuple(vote > 0 for vote in votes.tolist())

    def barrier(self) -> None:
        """Waits for all processes."""
        if self.group is not None:
            dist.barrier(group=self.group)

    def all_gather(self, value: Made) -> list[Made]:
        """What each process gave, in the order of their ranks."""
        if self.group is None:
            return [value]
        found = [value] * self.world_size
        dist.all_gather_object(found, value, group=self.group)
        return found

    def on_all_processes(self, make: Callable[[], Made]) -> Made:
        """Every process makes something; where any fails with a sentence for the user, all end with that sentence.

        Raises:
            UserError, MachineError: the first process's that failed.
        """
        if self.group is None:
            return make()
        made: list[Made] = []
        failed: UserError | MachineError | None = None
        try:
            made.append(make())
        except (UserError, MachineError) as error:
            failed = error
        failures = self.all_gather(None if failed is None else (isinstance(failed, UserError), str(failed)))
        for rank, failure in enumerate(failures):
            if failure is not None:
                users, sentence = failure
                whose = "" if all(other == failure for other in failures) else f"Process {rank}: "
                raise (UserError if users else MachineError)(whose + sentence) from failed
        return made[0]

    def on_main_process(self, do: Callable[[], Made]) -> Made | None:
        """The main process does something that may take hours; the others wait without a limit, but not for a dead one.

        Returns:
            what it gave, in the main process; elsewhere ``None``.

        Raises:
            UserError, MachineError: in all processes, if it failed with a sentence for the user.
        """
        store = self.store
        if self.group is None or store is None:
            return self.on_all_processes(lambda: do() if self.is_main_process else None)
        self._calls["main"] += 1
        key = f"wholegrain/main/{self._calls['main']}"

        def act() -> Made | None:
            if self.is_main_process:
                try:
                    return do()
                finally:
                    store.set(key, "done")
            pause = 0.005
            while not store.check([key]):
                time.sleep(pause)
                pause = min(1.0, 1.5 * pause)
            return None

        return self.on_all_processes(act)

    def agree(self, facts: Mapping[str, str]) -> None:
        """Refuses to go on unless these facts are the same in all processes.

        Raises:
            UserError: in every process alike; the first fact that differs, and in which processes.
        """
        everyone = self.all_gather(dict(facts))
        for name in facts:
            values = [other.get(name, "unknown") for other in everyone]
            if len(set(values)) > 1:
                usual = Counter(values).most_common(1)[0][0]
                odd = [rank for rank, value in enumerate(values) if value != usual]
                most = values.index(usual)
                raise UserError(
                    f"The processes do not agree on the {name}: {values[odd[0]]} in process {_listed(odd)}, {usual} in process {most}"
                    f"{' and the others' if self.world_size > len(odd) + 1 else ''}; start all of them alike."
                )


def _settle_buckets(wrapped: nn.parallel.DistributedDataParallel) -> None:
    """Has DDP arrange its buckets of gradients now, always alike.

    It does so after its first backward pass, in the order in which gradients came. Then the first step after a resume would sum in
    another order than the same step of a run that was never interrupted.
    """
    trained = [parameter for parameter in wrapped.module.parameters() if parameter.requires_grad]
    wrapped.module.forward = lambda: torch.stack([parameter.flatten()[0] for parameter in trained]).sum()
    try:
        wrapped().backward()
        wrapped().backward()  # arranges them; a forward pass alone would await a backward pass, also where none is to be shared
    finally:
        del wrapped.module.forward  # the class's own is there again
    wrapped.zero_grad(set_to_none=True)


def _listed(ranks: list[int]) -> str:
    return ", ".join(map(str, ranks[:8])) + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")


def choose_device(device: str | None = None, local_rank: int = 0, world_size: int = 1) -> torch.device:
    """The device that was asked for; for "auto" and ``None`` CUDA where there is one, else MPS for a process alone, else the CPU.

    Raises:
        UserError: it is not there, or there are more processes than devices, or several for MPS.
    """
    mps = torch.backends.mps.is_available()
    automatic = "cuda" if torch.cuda.is_available() else "mps" if mps and world_size == 1 else "cpu"
    try:
        chosen = torch.device(automatic if device in (None, "auto") else device)
    except RuntimeError:
        raise UserError(f"There is no device {device!r}; use cpu, cuda, cuda:1 or mps.") from None
    if chosen.type == "mps" and (world_size > 1 or not mps):
        why = "serves one process alone" if mps else "is not there"
        raise UserError(f"The device mps {why}; use --device cpu.")
    if chosen.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError(f"There is no device {chosen} (torch sees no CUDA device here); use --device cpu.")
        index = local_rank if chosen.index is None else chosen.index
        if index >= torch.cuda.device_count():
            raise UserError(
                f"Process {local_rank} of this machine has no CUDA device of its own; start {torch.cuda.device_count()} processes, as many as "
                f"there are devices."
            )
        chosen = torch.device("cuda", index)
        torch.cuda.set_device(chosen)
    return chosen


@contextmanager
def init_distributed(device: str | None = None, timeout: float = TIMEOUT) -> Iterator[DistributedContext]:
    """This process among all; joins and leaves the others if ``torchrun`` or ``srun`` started several.

    Args:
        device: see :func:`choose_device`.
        timeout: seconds to wait for another process before it is taken for lost.

    Raises:
        MachineError: the processes did not meet, or one was lost on the way.
    """
    launched = launch()
    chosen = choose_device(device, launched.local_rank, launched.world_size)
    if launched.world_size == 1:
        yield DistributedContext(chosen)
        return
    ours = not dist.is_initialized()
    with _naming_lost_processes(launched, met=False):
        store = _join(launched, chosen, timeout) if ours else None
    with _naming_lost_processes(launched, met=True):
        main = dist.new_group([0])
        main_group = main if isinstance(main, dist.ProcessGroup) else None  # in the other processes it is none
        try:
            yield DistributedContext(chosen, dist.get_rank(), dist.get_world_size(), dist.group.WORLD, store, main_group)
        finally:
            if ours:
                dist.destroy_process_group()


def _join(launched: Launch, device: torch.device, timeout: float) -> Store:
    limit = timedelta(seconds=timeout)
    if launched.launcher == "torchrun":  # it has a store already, or says where to open one
        store, _, _ = next(rendezvous("env://", launched.rank, launched.world_size, timeout=limit))
    else:
        store = TCPStore(launched.address, launched.port, launched.world_size, is_master=launched.rank == 0, timeout=limit)
    store.set_timeout(limit)
    store = PrefixStore(_attempt_name(store, launched.rank, launched.world_size, timeout), store)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=PrefixStore("group", store), rank=launched.rank, world_size=launched.world_size, timeout=limit)
    return store


def _attempt_name(store: Store, rank: int, world_size: int, timeout: float) -> str:
    """A name that the processes of this attempt share and no earlier one had.

    torchrun's store outlives its processes: those that it starts anew would find the addresses of the dead ones there. The first
    process draws a name; the others answer to it, and go on once it has their very answer. (The count of restarts is no such name: torchrun
    counts on each node by itself.)
    """
    deadline, own = time.monotonic() + timeout, uuid.uuid4().hex

    def pause() -> None:
        if time.monotonic() > deadline:
            raise MachineError(f"Process {rank} of {world_size} timed out waiting for the others to start; start all of them again.")
        time.sleep(0.02)

    if rank == 0:
        store.set("wholegrain/attempt", own)
        answers = [f"wholegrain/{own}/{other}" for other in range(1, world_size)]
        while not store.check(answers):
            pause()
        store.set(f"wholegrain/{own}/met", ",".join(store.get(answer).decode() for answer in answers))
        return own
    while True:
        if store.check(["wholegrain/attempt"]):
            name = store.get("wholegrain/attempt").decode()
            store.set(f"wholegrain/{name}/{rank}", own)
            met = f"wholegrain/{name}/met"
            if store.check([met]) and own in store.get(met).decode().split(","):
                return name
        pause()


@contextmanager
def _naming_lost_processes(launched: Launch, met: bool) -> Iterator[None]:
    """Says in one sentence, a :class:`MachineError`, that another process was lost, where torch says it in many."""
    try:
        yield
    except (dist.DistError, RuntimeError) as problem:
        text = str(problem).lower()
        if not (isinstance(problem, dist.DistError) or any(word in text for word in _LOST)):
            raise
        first = str(problem).strip().splitlines()[0][:160]
        what = (
            "lost another one, which ended or did not answer"
            if met
            else f"did not meet the others at {launched.address}:{launched.port}"
        )
        hint = "" if met or launched.launcher != "srun" else " (in a batch script, start the command with srun)"
        raise MachineError(
            f"Process {launched.rank} of {launched.world_size} {what}{hint}: {first}; look at what the others said, then go on with --resume."
        ) from problem
