"""SIGKILL before each file operation of a command; then the command again, to its end, and what is there.

A command is a function of a folder. It runs in forked processes, in which whatever makes, opens for writing, renames, removes or syncs a
file inside that folder is counted; number n is never carried out, and nothing after it. Native code (a parquet writer) opens its files
uncounted, but what Python does before and after is counted, so a kill leaves its files half there as well.

Example, of a test::

    def command(place):
        prepare(source, place / "out", options=QUIET)

    for outcome in outcomes(command, tmp_path):
        outcome.check()
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CHANGES = {"os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.truncate", "os.symlink", "os.link", "os.chmod"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Outcome:
    """What is there after a kill and a second, undisturbed run.

    Attributes:
        number: of the operation before which the first run was killed, from 1.
        operation: what it was, as ``event name``.
        left: what was found directly after the kill.
        found: what was found in the end.
        whole: what a run that nobody touched leaves.
    """

    number: int
    operation: str
    left: Any
    found: Any
    whole: Any

    def check(self) -> None:
        """Asserts that the kill made no difference, and names what differs."""
        if isinstance(self.found, dict) and isinstance(self.whole, dict):
            names = sorted(n for n in self.found.keys() | self.whole.keys() if self.found.get(n, ()) != self.whole.get(n, ()))
            assert not names, f"killed before operation {self.number} ({self.operation}): other bytes in {names}"
        assert self.found == self.whole, f"killed before operation {self.number} ({self.operation})"


def tree(folder: Path) -> dict[str, bytes | str | None]:
    """Everything below a folder: bytes of files, targets of links, ``None`` for folders."""
    found: dict[str, bytes | str | None] = {}
    for path in sorted(folder.rglob("*")):
        kept = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(folder))] = kept
    return found


def outcomes(
    command: Callable[[Path], object],
    folder: Path,
    *,
    begin: Callable[[Path], object] | None = None,
    read: Callable[[Path], Any] = tree,
    points: int | str | Sequence[str] | None = None,
    context: Any = FORK,
) -> Iterator[Outcome]:
    """Kills the command before each of its file operations, one a time, and runs it again.

    Args:
        command: given a folder of its own, in which it works. The folder has the same path each time, so paths may be written down.
        folder: an empty place, such as ``tmp_path``; the command's own lies below.
        begin: makes what is in that folder before the command starts (in this process); it is empty otherwise.
        read: what is compared, of that folder; by default every byte in it.
        points: ``"kinds"``: the first and the last of each kind of operation (function and name, but for numbers in it), and the last of all;
            or the kinds named, the first of each and the last of all; a number: so many, spread evenly with the first and the last among them;
            all of them by default.
        context: of ``multiprocessing``; with another than ``fork``, the command must be picklable.
    """
    place = folder / "place"

    def fresh() -> None:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        if begin is not None:
            begin(place)

    fresh()
    assert run(command, place, context=context) == 0, "the command fails without any kill"
    whole, operations = read(place), json.loads(_list_of(place).read_text())
    assert operations, "the command changes no file"
    for number in _chosen(operations, points):
        fresh()
        code = run(command, place, kill_at=number, context=context)
        assert code in (0, -signal.SIGKILL), f"killed before operation {number}: exit code {code}"
        left = read_or_none(read, place)
        assert run(command, place, context=context) == 0, f"not continued after a kill before {number}, {operations[number - 1]}"
        yield Outcome(number, operations[number - 1], left, read(place), whole)
    shutil.rmtree(place)
    _list_of(place).unlink()


def _chosen(operations: list[str], points: int | str | Sequence[str] | None) -> list[int]:
    last = len(operations)
    if points is None:
        return list(range(1, last + 1))
    if isinstance(points, int):
        return sorted({1 + round(i * (last - 1) / max(1, points - 1)) for i in range(points)})
    numbers: dict[str, list[int]] = {}
    for number, operation in enumerate(operations, 1):
        numbers.setdefault(re.sub(r"[0-9a-f]*\d[0-9a-f]*", "#", operation), []).append(number)
    if points == "kinds":
        return sorted({last} | {at for found in numbers.values() for at in (found[0], found[-1])})
    return sorted({last} | {numbers[kind][0] for kind in points})


def read_or_none(read: Callable[[Path], Any], place: Path) -> Any:
    """What is there half done need not be readable."""
    try:
        return read(place)
    except Exception:
        return None


def run(command: Callable[[Path], object], place: Path, *, kill_at: int = 0, context: Any = FORK) -> int:
    """Runs the command in a process of its own; its exit code (-9 if it was killed). 0 for ``kill_at`` kills never."""
    process = context.Process(target=_watched, args=(command, place, kill_at))
    process.start()
    process.join()
    return process.exitcode


def _list_of(place: Path) -> Path:
    return place.with_name(f"{place.name}.operations")


def _watched(command: Callable[[Path], object], place: Path, kill_at: int) -> None:
    seen: list[str] = []
    turn = threading.Lock()
    root, sync = str(place), os.fsync

    def count(operation: str) -> None:
        with turn:
            seen.append(operation)
            if len(seen) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            writes = any(c in mode for c in "wax+") if isinstance(mode, str) else bool((flags or 0) & _WRITES)
            if writes and isinstance(path, str | bytes | os.PathLike) and os.fsdecode(path).startswith(root):
                count(f"open {os.path.basename(os.fsdecode(path))}")
        elif event in _CHANGES:
            path = arguments[0]
            name = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else str(path)
            if name.startswith(root) or (not os.path.isabs(name) and any(isinstance(a, int) and a >= 0 for a in arguments[1:])):
                count(f"{event} {os.path.basename(name)}")

    def counted_sync(descriptor: int) -> None:
        count("fsync")
        sync(descriptor)

    os.fsync = counted_sync
    sys.addaudithook(watch)
    command(place)
    kill_at = 0
    _list_of(place).write_text(json.dumps(seen))
