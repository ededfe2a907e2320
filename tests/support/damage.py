"""Damaged copies of folders and JSON values, for tests of what reads them: each gives a sentence or a right result, and soon."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wholegrain.errors import MachineError, UserError

DEEP = "@deeply nested@"
"""Stands for a list nested 100,000 times, which ``json.dumps`` cannot write; :func:`json_text` can."""
WRONG = {
    "null": None,
    "a list": [],
    "a nested list": DEEP,
    "a huge number": 10**400,
    "a text": "wrong",
    "a table": {},
    "a negative number": -1,
    "a large number": 10**9,
    "a broken number": float("nan"),
    "true": True,
}
"""What stands in the place of a value, by its name."""


def damaged_files(folder: Path, chosen: Callable[[Path], bool] = lambda path: True, every: int = 1) -> Iterator[tuple[str, Path]]:
    """(what is wrong, a copy of the folder in which that is wrong), one file at a time; a copy is gone when the next is asked for.

    Each file is flipped, filled, cut, emptied, lengthened, taken away, and replaced by what is no file.

    Args:
        chosen: which files, by their path inside the folder.
        every: only one case out of so many.
    """
    names = sorted(path.relative_to(folder) for path in Path(folder).rglob("*") if path.is_file())
    count = 0
    for name in filter(chosen, names):
        whole = (Path(folder) / name).read_bytes()
        for said, harm in _harms(whole):
            count += 1
            if count % every:
                continue
            with _copied(folder) as copy:
                (copy / name).unlink()
                harm(copy / name)
                yield f"{name} {said}", copy


def damaged_json_files(
    folder: Path, chosen: Callable[[Path], bool] = lambda path: True, every: int = 1
) -> Iterator[tuple[str, Path]]:
    """As :func:`damaged_files`, one value of one JSON file at a time (:func:`damaged_json`)."""
    names = sorted(path.relative_to(folder) for path in Path(folder).rglob("*.json") if path.is_file())
    count = 0
    for name in filter(chosen, names):
        for where, value in damaged_json(json.loads((Path(folder) / name).read_text(encoding="utf-8"))):
            count += 1
            if count % every:
                continue
            with _copied(folder) as copy:
                (copy / name).write_text(json_text(value), encoding="utf-8")
                yield f"{name} {where}", copy


def damaged_json(value: Any, most: int = 8) -> Iterator[tuple[str, Any]]:
    """(where and what, the value with one part replaced or left out), for every part of it; of a list, only the first and last items.

    A nested list is :data:`DEEP`; write it with :func:`json_text`.

    Args:
        most: levels that are gone into.

    Example:
        >>> dict(damaged_json({"a": 1}))["a: left out"]
        {}
    """
    for name, wrong in WRONG.items():
        yield f"the whole: {name}", wrong
    yield from _inside(value, "", most)


def json_text(value: Any) -> str:
    """JSON text of a value, also of one with :data:`DEEP` in it."""
    return json.dumps(value).replace(f'"{DEEP}"', "[" * 100_000 + "]" * 100_000)


@contextmanager
def soon(seconds: float) -> Iterator[None]:
    """Fails a block that takes longer, hangs included."""

    def late(*_: Any) -> None:
        raise AssertionError(f"took over {seconds} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def met_badly(what: str, read: Callable[..., Any], *given: Any, seconds: float = 2.0) -> str | None:
    """What is bad about how a reader meets damage, or ``None``: it gave a result, or one sentence.

    Args:
        what: the damage, for the answer.
        read: reads the damaged thing and checks what it gave; is called with ``given``.
    """
    try:
        with soon(seconds):
            read(*given)
    except (UserError, MachineError):
        return None
    except BaseException as error:  # a SystemExit or a panic of a library counts, too
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{what}: {type(error).__name__}: {str(error)[:200]}"
    return None


def _inside(value: Any, path: str, most: int) -> Iterator[tuple[str, Any]]:
    places = list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    if isinstance(value, list) and len(places) > 2:
        places = [places[0], places[-1]]
    for at, inner in places if most else []:
        here = f"{path}.{at}" if path else str(at)
        for name, wrong in WRONG.items():
            yield f"{here}: {name}", _with(value, at, wrong)
        yield f"{here}: left out", _without(value, at)
        for said, changed in _inside(inner, here, most - 1):
            yield said, _with(value, at, changed)
    if isinstance(value, dict):
        yield f"{path or 'the whole'}: one more key", {**value, "unheard_of": 1}


def _with(value: Any, at: Any, inner: Any) -> Any:
    changed = value.copy()
    changed[at] = inner
    return changed


def _without(value: Any, at: Any) -> Any:
    return {k: v for k, v in value.items() if k != at} if isinstance(value, dict) else [*value[:at], *value[at + 1 :]]


def _harms(whole: bytes) -> Iterator[tuple[str, Callable[[Path], Any]]]:
    """(name, what puts the damage in the place of a file that is gone)."""
    chance, size = random.Random(0), len(whole)

    def flipped(few: int) -> bytes:
        changed = bytearray(whole)
        for _ in range(few if size else 0):
            changed[chance.randrange(size)] ^= 1 << chance.randrange(8)
        return bytes(changed)

    contents = {
        "of random bytes": chance.randbytes(max(size, 64)),
        "with one flipped bit": flipped(1),
        "with many flipped bits": flipped(max(8, size // 100)),
        "with a flipped first byte": bytes([whole[0] ^ 0xFF]) + whole[1:] if size else b"\xff",
        "emptied": b"",
        "of zeros": bytes(max(size, 64)),
        "with more behind it": whole + b"more\x00",
        "twice": whole * 2,
        **{f"cut to {place} bytes": whole[:place] for place in sorted({1, 7, 9, size // 3, size // 2, size - 1}) if 0 < place < size},
    }
    for said, content in contents.items():
        yield said, lambda path, content=content: path.write_bytes(content)
    yield "missing", lambda path: None
    yield "a link that leads to itself", lambda path: path.symlink_to(path.name)
    yield "a link to nothing", lambda path: path.symlink_to("nothing-here")
    yield "a folder", lambda path: path.mkdir()
    yield "a pipe", lambda path: os.mkfifo(path)
    yield "a device", lambda path: path.symlink_to("/dev/zero")


@contextmanager
def _copied(folder: Path) -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="damaged-"))
    try:
        copy = place / Path(folder).name
        shutil.copytree(folder, copy)
        yield copy
    finally:
        shutil.rmtree(place, ignore_errors=True)
