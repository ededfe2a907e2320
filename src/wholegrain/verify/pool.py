"""A pool of processes joined by gloo, started once and used by everything that asks for several processes.

    from wholegrain.verify import pool
    results = pool.run(2, function, per_rank=[(a0, b0), (a1, b1)])      # function(rank, group, a, b) in two processes

``function`` must be importable (a module-level function); arguments and results are pickled by value. A process that raises fails
the call with its traceback, and so does one that hangs in a collective that the others never joined; the pool is then replaced.
"""

from __future__ import annotations

import atexit
import faulthandler
import multiprocessing
import os
import pickle
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeAlias, TypeVar

MOST = 4  # processes of the pool; a smaller world is a group of the first ones
SECONDS = 90.0
STARTING = 300.0
PRELOADED = ["torch", "torch.distributed"]
"""What the server imports, once for all processes. A program has one server: one that forks other processes, too, adds what those need."""
_CAUSES = "gloo aborts when calls do not fit together, the system kills (-9) when memory runs out"

Answer = TypeVar("Answer")
_Answers: TypeAlias = dict[int, tuple[str, Any]]
"""By rank: what went wrong, empty if nothing did, and what was found."""
_pool: list[tuple[BaseProcess, Connection]] = []
_folders: list[str] = []


def run(
    size: int, function: Callable[..., Answer], per_rank: Sequence[Sequence[object]] | None = None, seconds: float = SECONDS
) -> list[Answer]:
    """``function(rank, group, *per_rank[rank])`` in ``size`` processes at once; their results by rank.

    Raises:
        RuntimeError: a process raised, or gave no answer in ``seconds``; says which, and what.
    """
    if not 1 <= size <= MOST:
        raise ValueError(f"the pool has {MOST} processes, {size} were asked for")
    if not all(process.is_alive() for process, _ in _pool):
        stop()
    if not _pool:
        _start()
    arguments = per_rank if per_rank is not None else [()] * size
    for (_, pipe), given in zip(_pool[:size], arguments, strict=True):
        pipe.send_bytes(pickle.dumps((size, function, tuple(given))))
    answers = _answers(size, seconds)
    failed = [f"process {rank} of {size}: {error}" for rank, (error, _) in answers.items() if error]
    missing = [rank for rank in range(size) if rank not in answers]
    if missing:
        failed.append(f"no answer from processes {missing} of {size}")
    if failed and not _alike([error for error, _ in answers.values()], size):
        stop()  # after a call that only some took part in, their connections are of no use
    if failed:
        raise RuntimeError("\n".join(failed))
    return [answers[rank][1] for rank in range(size)]


def stop() -> None:
    """Ends the processes of the pool; the next :func:`run` starts new ones."""
    for process, pipe in _pool:
        pipe.close()
        process.terminate()
    for process, _ in _pool:
        process.join(5)
    _pool.clear()
    while _folders:
        shutil.rmtree(_folders.pop(), ignore_errors=True)


def _alike(errors: list[str], size: int) -> bool:
    """Whether all processes raised the same error, and none of a lost connection."""
    last = {error.strip().rpartition("\n")[2] for error in errors}
    return len(errors) == size and len(last) == 1 and not any("gloo" in error for error in errors)


def _answers(size: int, seconds: float) -> _Answers:
    answers: _Answers = {}
    deadline = time.monotonic() + seconds
    rank_of = {pipe: rank for rank, (_, pipe) in enumerate(_pool[:size])}
    while rank_of and (left := deadline - time.monotonic()) > 0:
        ready = wait(list(rank_of), left)
        for pipe in [pipe for pipe in rank_of if pipe in ready]:
            rank = rank_of.pop(pipe)
            try:
                answers[rank] = pickle.loads(pipe.recv_bytes())
            except (EOFError, ConnectionError):
                process = _pool[rank][0]
                process.join(5)
                answers[rank] = (f"the process died with exit status {process.exitcode}; {_CAUSES}", None)
            if answers[rank][0]:
                deadline = min(deadline, time.monotonic() + 5)  # the others may wait for this one for ever
    return answers


def _start() -> None:
    context = multiprocessing.get_context("forkserver")  # clean processes that share one import of torch
    context.set_forkserver_preload(PRELOADED)
    _folders.append(tempfile.mkdtemp(prefix="gloo-"))
    meeting = os.path.join(_folders[-1], "meeting")
    for rank in range(MOST):
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(rank, meeting, there), daemon=True)
        process.start()
        there.close()
        _pool.append((process, here))
    atexit.register(stop)
    for rank, (_, pipe) in enumerate(_pool):  # a busy machine takes long to start them; what a call may take is another matter
        if not pipe.poll(STARTING):
            stop()
            raise RuntimeError(f"process {rank} did not start in {STARTING:.0f} s")
        pipe.recv_bytes()


def _serve(rank: int, meeting: str, pipe: Connection) -> None:
    import torch
    import torch.distributed as dist

    faulthandler.enable()  # where it was, should it break
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=MOST)
    groups = {size: dist.new_group(list(range(size))) for size in range(1, MOST)} | {MOST: None}
    pipe.send_bytes(b"ready")
    while True:
        try:
            size, function, arguments = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        try:
            answer = ("", function(rank, groups[size], *arguments))
        except BaseException:
            answer = (traceback.format_exc(), None)
        pipe.send_bytes(pickle.dumps(answer))
