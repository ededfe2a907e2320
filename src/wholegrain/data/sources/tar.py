"""Members of a tar file, read with bounds: a header is believed only as far as the file goes.

``tarfile`` takes headers at their word: it asks for as many bytes as an extended header claims, goes backwards by a negative size, fills the
holes of a sparse member with zeros, and unpacks without end. Here the headers are walked one by one; what no picture needs (sparse
members, chains of long names) is refused by name.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from wholegrain.errors import UserError
from wholegrain.files import open_file, shown

_BLOCK = tarfile.BLOCKSIZE
_MOST_EXTENDED = 2**20
"""Bytes of one extended header: a long name, or pax records."""
_MOST_CHAINED = 4
"""Extended headers before one member."""
MOST_RATIO = 200
"""Times its own size that a compressed file may unpack to. Pictures do not shrink, and text by ten times at most."""
_LEAST_UNPACKED = 64 * 2**20
_UNPACKERS: dict[bytes, Callable[[IO[bytes]], IO[bytes]]] = {
    b"\x1f\x8b": gzip.open,  # pyright: ignore[reportAssignmentType] (a file in, a file out)
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
}
_EXTENDED = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)


_DAMAGED = (EOFError, OSError, zlib.error, lzma.LZMAError, tarfile.HeaderError, ValueError)


@dataclass(frozen=True)
class TarMember:
    """An ordinary file in a tar file.

    Attributes:
        name: as stated.
        offset, size: of its bytes; the offset counts unpacked bytes.
        read: gives its bytes, until the next member is asked for.
    """

    name: str
    offset: int
    size: int
    read: Callable[[], bytes]


def members(path: Path) -> Iterator[tuple[TarMember, bool]]:
    """All ordinary files of a tar file, plain or compressed (gzip, bzip2, xz), and whether they are compressed.

    Raises:
        UserError: it is no whole tar file, or a header says what cannot be.
    """
    try:
        with _unpacked(path) as (file, packed, most):
            for member in _walk(path, file, most):
                yield member, packed
    except _DAMAGED as error:
        problem = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise UserError(f"{shown(path)} is not a whole tar file ({problem}); fetch it again") from error


@contextmanager
def _unpacked(path: Path) -> Iterator[tuple[IO[bytes], bool, int]]:
    """The file's bytes as they were before compression, whether they were compressed, and how many they may be."""
    with os.fdopen(open_file(path, "correct the pattern or fetch the shard"), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(6)
        file.seek(0)
        for mark, unpack in _UNPACKERS.items():
            if start.startswith(mark):
                with unpack(file) as inner:
                    yield inner, True, max(MOST_RATIO * size, _LEAST_UNPACKED)
                return
        yield file, False, size


def _walk(path: Path, file: IO[bytes], most: int) -> Iterator[TarMember]:
    everywhere: dict[str, str] = {}  # pax records for all later members
    pax: dict[str, str] = {}  # those, and what extended headers say of the next member
    chained = 0
    while block := file.read(_BLOCK):
        if not block.strip(b"\0"):
            return
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        name, place = pax.get("path", header.name), file.tell()
        refuse = partial(_refusal, path, name)
        size = _size(header, pax, refuse)
        if size < 0 or place + size > most:
            raise EOFError(f"member {shown(name)!r} claims {size:,} bytes, where {max(0, most - place):,} can be")
        if header.type in _EXTENDED:
            chained += 1
            if chained > _MOST_CHAINED or size > _MOST_EXTENDED:
                raise refuse("has extended headers without end")
            records = _pax_records(header, _take(file, size), refuse)
            pax |= records
            if header.type == tarfile.XGLTYPE:
                everywhere |= records
        else:
            if header.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse") for key in pax):
                raise refuse("is sparse, which is not read")
            if header.isreg():
                yield TarMember(name, place, size, partial(_read, file, size, refuse))
            chained, pax = 0, everywhere.copy()
        _skip(file, place + size + -size % _BLOCK)
    if not file.tell():
        raise EOFError("it is empty")


def _refusal(path: Path, name: str, why: str) -> UserError:
    return UserError(f"{shown(path)}, member {shown(name)!r} {why}; fetch it again, or pack it anew")


def _take(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise EOFError("unexpected end of data")
    return data


def _read(file: IO[bytes], size: int, refuse: Callable[[str], UserError]) -> bytes:
    """A member's bytes, for its reader, who is outside :func:`members`."""
    try:
        return _take(file, size)
    except _DAMAGED:
        raise refuse("is cut short or damaged") from None


def _skip(file: IO[bytes], end: int) -> None:
    while (gap := end - file.tell()) > 0 and file.read(min(gap, 2**20)):
        pass


def _size(header: tarfile.TarInfo, pax: dict[str, str], refuse: Callable[[str], UserError]) -> int:
    """Of what follows a header. Links and folders have nothing behind them, whatever they claim."""
    if header.size >= 0 and header.type in tarfile.SUPPORTED_TYPES and not header.isreg() and header.type not in _EXTENDED:
        return 0
    size = pax.get("size", "")
    if header.type in _EXTENDED or not size:
        return header.size
    if not (size.isascii() and size.isdecimal() and len(size) < 20):
        raise refuse(f"has the size {size[:40]!r}")
    return int(size)


def _pax_records(header: tarfile.TarInfo, data: bytes, refuse: Callable[[str], UserError]) -> dict[str, str]:
    """What an extended header says: a long name, or pax records ``LENGTH KEY=VALUE\\n``."""
    if header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
        text = data.rstrip(b"\0").decode("utf-8", "surrogateescape")
        return {"path": text} if header.type == tarfile.GNUTYPE_LONGNAME else {}
    found: dict[str, str] = {}
    place = 0
    while place < len(data) and data[place]:
        length = data[place : place + 12].partition(b" ")[0]
        end = place + (int(length) if length.isdigit() else 0)
        key, equals, value = data[place + len(length) + 1 : max(0, end - 1)].partition(b"=")
        if not equals or end > len(data):
            raise refuse("has a damaged extended header")
        found[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        place = end
    return found
