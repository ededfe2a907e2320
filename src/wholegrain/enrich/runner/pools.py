"""Units shared out over this machine: processes for rules, one process a GPU for models, threads for calls."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context, parent_process
from multiprocessing.queues import Queue
from typing import cast

from wholegrain.data.dataset import Dataset
from wholegrain.enrich.runner.stage import CallStage, Stage
from wholegrain.enrich.runner.units import Outcome, Unit, run_unit
from wholegrain.errors import MachineError

_AHEAD = 2  # units that wait for each worker, so that none has to wait for the next
_CALLING = 2  # units at a time whose calls are made: while the last calls of one are waited for, those of the next begin
_work: tuple[Stage, Dataset] | None = None


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_here(stage: Stage, dataset: Dataset, units: Sequence[Unit], workers: int = 0) -> Iterator[Outcome]:
    """The outcomes of all units, in any order.

    Args:
        stage: fitted.
        dataset, units: what is to be done.
        workers: processes for a stage that runs on cores; 0 is one a core.

    Raises:
        MachineError: a process was killed.
    """
    if stage.place == "calls":
        with ThreadPoolExecutor(_CALLING) as threads:
            try:
                yield from _shared(lambda unit: threads.submit(run_unit, stage, dataset, unit), units, _CALLING)
            finally:
                cast(CallStage, stage).stop()
        return
    count = min(workers or cores(), len(units)) if stage.place == "cores" else min(_gpus(), len(units))
    if count <= 1:
        for unit in units:
            yield run_unit(stage, dataset, unit)
        return
    # Clean processes: forking one that has threads, or has used a GPU, is asking for trouble.
    context = get_context("spawn")
    numbers = context.Queue()
    for number in range(count):
        numbers.put(number if stage.place == "device" else None)
    pool = ProcessPoolExecutor(count, context, _begin, (stage, dataset, numbers))
    try:
        yield from _shared(lambda unit: pool.submit(_do, unit), units, count * _AHEAD)
    except BrokenProcessPool:
        raise MachineError(
            f"A process of the pool was killed, most likely because memory ran out: set --workers to {max(1, count // 2)} (now {count}); the same "
            "command goes on."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _shared(submit: Callable[[Unit], Future[Outcome]], units: Sequence[Unit], window: int) -> Iterator[Outcome]:
    """Outcomes as they come, with no more than a window of units under way."""
    left = iter(units)
    waiting = {submit(unit) for unit in islice(left, window)}
    try:
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                outcome = future.result()
                waiting |= {submit(unit) for unit in islice(left, 1)}
                yield outcome
    finally:
        for future in waiting:
            future.cancel()


def _gpus() -> int:
    import torch

    return max(1, torch.cuda.device_count())


def _begin(stage: Stage, dataset: Dataset, numbers: Queue[int | None]) -> None:
    """In a new process of the pool."""
    global _work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process
    if (number := numbers.get()) is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = _visible(number)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    _work = (stage, dataset)


def _visible(number: int) -> str:
    """The name of the GPU with this number among those that may be used."""
    names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return names[number] if number < len(names) else str(number)


def _end_with(parent: int) -> None:
    """No process of the pool stays behind when the main one is killed."""
    from multiprocessing.connection import wait as wait_for

    wait_for([parent])
    os._exit(1)


def _do(unit: Unit) -> Outcome:
    assert _work is not None
    return run_unit(*_work, unit)
