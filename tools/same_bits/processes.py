"""Commands in processes of their own, forked from a server that has imported everything: a second each, not ten."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

FORK = multiprocessing.get_context("forkserver")
SECONDS = 240
"""The most that a command may take."""
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # sums are split by threads
    "MKL_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "TQDM_DISABLE": "1",
}


class FailedError(Exception):
    """A command came to no good end; what it said last."""


def start_server(work: Path) -> None:
    """Once, before the first command."""
    os.environ.update(ENVIRONMENT, XDG_STATE_HOME=str(work / "state"))  # where traces of errors that nobody foresaw go
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID"):
        os.environ.pop(name, None)
    FORK.set_forkserver_preload(["same_bits.warm"])


def forked(function: Callable[[Path], None], folder: Path) -> None:
    """A function in a process of its own."""
    process = FORK.Process(target=function, args=(folder,))
    process.start()
    process.join()
    if process.exitcode:
        raise FailedError(f"{function.__name__} ended with {process.exitcode}")


def call(folder: Path, arguments: Sequence[str], processes: int = 1) -> None:
    """``wholegrain ARGUMENTS`` in ``folder``, in as many processes as ``torchrun --standalone --nproc-per-node`` would start.

    Raises:
        FailedError: it ended with another exit code than 0, or not in time.
    """
    logs = [folder / f"{rank}.log" for rank in range(processes)]
    places = [{}] if processes == 1 else [_place(rank, processes, port) for port in [_free_port()] for rank in range(processes)]
    started = [
        FORK.Process(target=_command, args=(list(arguments), str(folder), place, str(log)))
        for place, log in zip(places, logs, strict=True)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(SECONDS)
    codes = [process.exitcode for process in started]
    for process in started:
        process.kill()
        process.join()
    if any(codes):
        raise FailedError(f"error {codes} of {arguments[0]}: {_last_line(logs[next(n for n, code in enumerate(codes) if code)])}")
    if None in codes:
        raise FailedError(f"error: {arguments[0]} took more than {SECONDS} s")


def stop(folder: Path, arguments: Sequence[str], run: Path, steps: int) -> None:
    """``wholegrain train``, asked to stop as soon as the log of its run has so many lines; three times, as it may end before it hears.

    Raises:
        FailedError: it was never stopped.
    """
    log = folder / "stopped.log"
    for _ in range(3):
        process = FORK.Process(target=_command, args=(list(arguments), str(folder), {}, str(log)))
        process.start()
        end = time.monotonic() + SECONDS
        while process.is_alive() and time.monotonic() < end and _lines(run / "metrics.jsonl") < steps:
            time.sleep(0.001)
        process.terminate()
        process.join(SECONDS)
        code = process.exitcode
        process.kill()
        process.join()
        if code == 128 + signal.SIGTERM:
            return
        shutil.rmtree(run, ignore_errors=True)
    raise FailedError(f"error {code} of a run that was to be stopped: {_last_line(log)}")


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _command(arguments: list[str], folder: str, place: dict[str, str], log: str) -> None:
    os.environ.update(place)
    os.chdir(folder)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(target, 1)
    os.dup2(target, 2)
    import torch

    from wholegrain.cli.main import main

    torch.set_num_threads(1)
    sys.argv = ["wholegrain", *arguments]
    main()


def _place(rank: int, world: int, port: int) -> dict[str, str]:
    """What torchrun tells a process of one machine."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1", **{name: str(number) for name, number in numbers.items()}}


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    return next((line for line in reversed(lines) if line.strip()), "it said nothing")
