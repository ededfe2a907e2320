"""Damage: to bytes, to plain values, to tables, to what lies at a path."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

DEEP = "\ue000deep\ue000"
"""Stands in plain values for a list in a list, a hundred thousand times, which ``json.dumps`` cannot write."""
NUMBERS: tuple[Any, ...] = (0, -1, 1, 2, 7, 255, 10**6, 2**31, 2**63, -(2**63), 10**30, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"))
TEXTS: tuple[str, ...] = (
    "",
    " ",
    "x",
    "../../../etc/passwd",
    "/dev/zero",
    "/etc/passwd",
    "a\0b",
    "half \ud800 a pair",
    "\u202eright to left",
    "n" * 300,
    "n" * 100_000,
    "line\nbreak\r\n",
    "[red]markup[/blue]",
    "%s %n {0} ${HOME}",
    "nan",
    "Infinity",
    "true",
)


def bytes_of(rng: random.Random, data: bytes) -> bytes:
    """A damaged copy."""
    if not data:
        return rng.randbytes(rng.choice((1, 100)))
    kind, start = rng.randrange(9), rng.randrange(len(data))
    some = bytearray(data)
    size = min(len(data) - start, rng.choice((1, 2, 4, 16, 100)))
    if kind == 0:
        for _ in range(rng.randint(1, 8)):
            some[rng.randrange(len(some))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        some[start : start + size] = rng.randbytes(size)
    elif kind == 2:
        some[start : start + size] = rng.choice((b"\0", b"\xff")) * size
    elif kind == 3:
        del some[start:]
    elif kind == 4:
        del some[start : start + size]
    elif kind == 5:
        some[start:start] = some[start : start + size] * rng.randint(1, 50)
    elif kind == 6:
        number = rng.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1))
        width = rng.choice((2, 4, 8))
        some[start : start + width] = (number % 256**width).to_bytes(width, rng.choice(("little", "big")))
    elif kind == 7:
        some[start:start] = rng.choice((b"\0", b'"', b"\n", b"{", b"\xef\xbb\xbf", b"\xff\xfe", rng.randbytes(20)))
    else:
        return rng.choice((b"", bytes(len(data)), rng.randbytes(len(data)), data[::-1], data + data))
    return bytes(some)


def odd(rng: random.Random) -> Any:
    """A value that is rarely meant."""
    choices: tuple[Callable[[], Any], ...] = (
        lambda: None,
        lambda: rng.choice((True, False)),
        lambda: rng.choice(NUMBERS),
        lambda: rng.choice(TEXTS),
        lambda: rng.choice(([], {}, [None], [[]], {"": None}, {"x": {"x": 1}}, [0] * 1000)),
        lambda: DEEP,
    )
    return rng.choice(choices)()


def value_of(rng: random.Random, value: Any) -> Any:
    """A copy of plain values with one thing, or a few, changed."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        value = _changed(rng, value)
    return value


def _changed(rng: random.Random, value: Any) -> Any:
    places = list(_places(value))
    if not places or rng.random() < 0.03:
        return odd(rng)
    inside, key = rng.choice(places)
    kind = rng.randrange(6)
    if kind == 0:
        del inside[key]
    elif kind == 1 and isinstance(inside, dict):
        inside[rng.choice(TEXTS)] = inside.pop(key)
    elif kind == 2:
        other, at = rng.choice(places)
        taken = _at(other, at)
        inside[key] = copy.deepcopy(taken)
    elif kind == 3:
        inside[key] = [inside[key]]
    else:
        inside[key] = odd(rng)
    return value


def _at(inside: Any, key: Any) -> Any:
    try:
        return inside[key]
    except (KeyError, IndexError):
        return None


def _places(value: Any) -> Any:
    for key, inner in list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(inner)


def json_text(value: Any) -> bytes:
    """Plain values as JSON, :data:`DEEP` written out, half surrogates and NaN as Python writes them."""
    text = json.dumps(value)
    return text.replace(json.dumps(DEEP), "[" * 100_000 + "]" * 100_000).encode()


def table_of(rng: random.Random, table: pa.Table) -> pa.Table:
    """A copy of a table with a column, a type, a cell or the rows changed."""
    kind, names = rng.randrange(7), table.column_names
    name = rng.choice(names)
    if kind == 0:
        return table.drop_columns([name])
    if kind == 1:
        return table.rename_columns([rng.choice((*TEXTS[:3], "y")) if n == name else n for n in names])
    if kind == 2:
        return table.slice(0, 0)
    rows = table.to_pylist()
    if kind == 3:
        rows = rows * 2 if rng.random() < 0.5 else rng.sample(rows, len(rows))
        return pa.Table.from_pylist(rows, table.schema)
    if kind == 4:  # another type for the whole column
        made: Any = rng.choice((str, lambda _: None, lambda v: [v], lambda v: {"a": v}, lambda _: 0.5, lambda _: b"\xff"))
        column = pa.array([made(row[name]) for row in rows])
        return table.set_column(names.index(name), name, column)
    for row in rng.sample(rows, min(len(rows), rng.choice((1, 3)))):
        row[name] = rng.choice((None, -1, 0, 2**31 - 1, 2**62, "", "../x", "x" * 1000, "/dev/zero", rng.choice(rows)[name]))
    try:
        return pa.Table.from_pylist(rows, table.schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return table_of(rng, table)


def put_odd(rng: random.Random, path: Path) -> str:
    """Something that is no file of its kind takes the place of a file; returns what."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    kind = rng.choice(("nothing", "loop", "folder", "pipe", "socket", "device", "dangling", "empty"))
    if kind == "loop":
        path.symlink_to(path.name)
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        here = os.getcwd()
        os.chdir(path.parent)  # the name of a socket is short
        try:
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind(path.name)
        finally:
            os.chdir(here)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "dangling":
        path.symlink_to("/nonexistent/file")
    elif kind == "empty":
        path.touch()
    return kind
