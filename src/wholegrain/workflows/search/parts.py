"""The files of an index: at most :data:`MOST_ROWS` pictures each, with what their vectors were made of; a damaged file is no file.

A part is a safetensors file: ``vectors_ND`` float32, and in its metadata ``rows`` (JSON, one list a picture) and ``digest`` of both. It is written
aside and renamed, so that a killed process leaves the parts that it had written.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from wholegrain.errors import MachineError, UserError
from wholegrain.files import aside, disk_errors, parse_json, shown
from wholegrain.structure import StructureError
from wholegrain.towers.tensor_files import read_header, read_tensors, tensors_digest

MOST_ROWS = 4096
_AGAIN = "delete it"


class Row(NamedTuple):
    """What an index knows of a picture.

    Attributes:
        name, size, changed: as :class:`~wholegrain.data.listing.ListedPicture` had them.
        seen: when its file was read, in nanoseconds.
        content: :func:`~wholegrain.data.record.content_key` of its file.
        problem: why it has no vector; empty if it has one.
    """

    name: str
    size: int
    changed: int
    seen: int
    content: str
    problem: str = ""


_Values = tuple[str, int, int, int, str, str]


@dataclass(frozen=True)
class Part:
    """Rows and their vectors, float32 ``[N, D]``; that of a picture with a problem is zero."""

    rows: tuple[Row, ...]
    vectors_ND: Tensor

    def without(self, names: set[str]) -> Part:
        """The pictures that are not among these."""
        kept = [n for n, row in enumerate(self.rows) if row.name not in names]
        return self if len(kept) == len(self.rows) else Part(tuple(self.rows[n] for n in kept), self.vectors_ND[kept])

    def with_rows(self, rows: dict[str, Row]) -> Part:
        """The same vectors, with these rows in the place of those of the same names."""
        return Part(tuple(rows.get(row.name, row) for row in self.rows), self.vectors_ND)

    def rows_of(self, start: int, stop: int) -> Part:
        """The pictures from ``start`` to ``stop``."""
        return Part(self.rows[start:stop], self.vectors_ND[start:stop])


def join_parts(parts: Sequence[Part]) -> Part:
    """All of them, one behind the other."""
    full = [part for part in parts if part.rows]
    if not full:
        return Part((), torch.zeros(0, 0))
    return full[0] if len(full) == 1 else Part(tuple(r for p in full for r in p.rows), torch.cat([p.vectors_ND for p in full]))


def read_parts(folder: Path) -> tuple[dict[Path, Part], list[Path]]:
    """The parts of a folder by file, in order, and the files that are damaged, or hold vectors of another width than the first."""
    whole: dict[Path, Part] = {}
    damaged: list[Path] = []
    for path in sorted(folder.glob("part-*.safetensors")):
        part = _read(path)
        width = next((known.vectors_ND.shape[1] for known in whole.values()), None)
        if part is None or width not in (None, part.vectors_ND.shape[1]):
            if os.path.lexists(path):  # another process may have taken it away
                damaged.append(path)
        else:
            whole[path] = part
    return whole, damaged


def _read(path: Path) -> Part | None:
    try:
        header, tensors = read_header(path, _AGAIN), read_tensors(path, _AGAIN)
        text = header.metadata.get("rows", "")
        if header.metadata.get("digest") != _digest(text, tensors):
            return None
        rows, vectors_ND = [Row(*values) for values in parse_json(text, list[_Values])], tensors["vectors_ND"]
    except (UserError, StructureError, KeyError):
        return None
    fits = vectors_ND.dtype == torch.float32 and vectors_ND.ndim == 2 and len(vectors_ND) == len(rows)
    return Part(tuple(rows), vectors_ND) if fits else None


def write_part(path: Path, part: Part) -> None:
    """Writes a part, or takes its file away where it has become empty.

    Raises:
        MachineError: the disk is full.
        UserError: the folder may not be written to.
    """
    if not part.rows:
        with suppress(FileNotFoundError), disk_errors(path.parent):
            path.unlink()
        return
    text, tensors = json.dumps(part.rows), {"vectors_ND": part.vectors_ND.contiguous()}
    with disk_errors(path.parent), aside(path) as place:
        try:
            save_file(tensors, place, {"rows": text, "digest": _digest(text, tensors)})
        except SafetensorError as error:
            raise MachineError(
                f"the index could not be kept in {shown(path.parent)} ({error}); make room there, or name another --index"
            ) from error


def _digest(rows: str, tensors: dict[str, Tensor]) -> str:
    return hashlib.sha256(f"{tensors_digest(tensors)}{rows}".encode()).hexdigest()


def next_path(folder: Path, parts: dict[Path, Part]) -> Path:
    """The part that further rows go to: the first that has room, or a new one."""
    for path, part in parts.items():
        if len(part.rows) < MOST_ROWS:
            return path
    numbers = [int(path.stem.removeprefix("part-")) for path in folder.glob("part-*.safetensors") if path.stem[5:].isdecimal()]
    return folder / f"part-{max(numbers, default=0) + 1:06d}.safetensors"
