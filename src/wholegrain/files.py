"""Files: read with bounds and checked by types, written aside and renamed, one writer at a time.

Whatever a program did not write a moment ago may be cut short, of another kind, or made to do harm. So every file that says what
something is (JSON, TOML, parquet) is read here: it must be a regular file of a stated size, hold what it should, and have values of
the types that the caller names. What is wrong becomes one :class:`UserError`; ``advice`` ends its sentence.

What is written appears under its name whole or not at all: :func:`aside` for a file, :func:`folder_aside` for a folder.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import shutil
import stat
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from wholegrain.errors import MachineError, UserError
from wholegrain.structure import JsonTable, StructureError, structure

if TYPE_CHECKING:
    import pyarrow as pa

Kind = TypeVar("Kind")
_FORBIDDEN = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
)
MOST_BYTES = 256 * 2**20
"""Of a JSON or TOML file, unless the caller says otherwise."""
_KINDS = (
    (stat.S_ISDIR, "is a folder, not a file"),
    (stat.S_ISFIFO, "is a pipe, not a file"),
    (stat.S_ISSOCK, "is a socket, not a file"),
    (stat.S_ISCHR, "is a device, not a file"),
    (stat.S_ISBLK, "is a device, not a file"),
)
_PROBLEMS = {
    errno.ENOENT: "does not exist",
    errno.ENOTDIR: "does not exist",
    errno.ELOOP: "is a link that leads to itself",
    errno.ENAMETOOLONG: "has a name that is too long",
    errno.ENXIO: "is a socket, not a file",
}


class UnreadableError(UserError):
    """A file that cannot be read as what it should be. ``missing``: there is none."""

    def __init__(self, path: Path | str, problem: str, advice: str, *, missing: bool = False) -> None:
        problem = _printable(problem)  # it may quote the file
        super().__init__(f"{shown(path)} {problem}; {advice}.")
        self.problem, self.missing = problem, missing

    def __reduce__(self) -> tuple[type[UserError], tuple[str]]:  # from a worker's process
        return UserError, (str(self),)


def shown(path: Path | str) -> str:
    """A path as it can be printed: control characters and what is no text are escaped, a very long one is cut."""
    text = _printable(os.fspath(path))
    return text if len(text) <= 300 else f"{text[:120]}…{text[-120:]}"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


# ---- reading ----------------------------------------------------------------------------------------------------------------


def open_file(path: Path | str, advice: str) -> int:
    """A descriptor of a regular file, to read. A pipe or a device is refused without waiting for it.

    Raises:
        UnreadableError: it is missing, of another kind, or may not be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        problem = _PROBLEMS.get(error.errno or 0, f"cannot be read ({error.strerror})")
        raise UnreadableError(path, problem, advice, missing=error.errno in (errno.ENOENT, errno.ENOTDIR)) from None
    except ValueError:  # a NUL byte, or half a surrogate pair
        raise UnreadableError(path, "cannot be the name of a file", advice) from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise UnreadableError(path, next((problem for is_kind, problem in _KINDS if is_kind(mode)), "is not a file"), advice)
    return descriptor


def read_bytes(path: Path | str, advice: str, *, most: int = MOST_BYTES) -> bytes:
    """The whole file, if it is a regular one of at most ``most`` bytes."""
    with os.fdopen(open_file(path, advice), "rb") as file:
        try:
            size = min(os.fstat(file.fileno()).st_size, most)
            data = file.read(size + 1)  # room for ``most`` bytes would be taken at once
            while size < len(data) <= most:  # it grows, or is of a kind without a size
                size = len(data)
                data += file.read(min(2**20, most + 1 - size))
        except OSError as error:
            raise UnreadableError(path, f"cannot be read ({error.strerror})", advice) from None
    if len(data) > most:
        raise UnreadableError(path, f"is longer than {most:,} bytes, the most that is read of such a file", advice)
    return data


def read_text(path: Path | str, advice: str, *, most: int = MOST_BYTES) -> str:
    """The whole file as UTF-8 text; a byte-order mark is dropped."""
    try:
        return read_bytes(path, advice, most=most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableError(path, f"is not UTF-8 text (byte {error.start:,})", advice) from None


def parse_json(text: str | bytes, kind: type[Kind]) -> Kind:
    """JSON text as a value of a type (:func:`wholegrain.structure.structure`).

    Raises:
        StructureError: it is not JSON, or holds something else; the sentence's middle, without the file.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise StructureError("is nested too deeply") from None
    except ValueError as error:  # also UnicodeDecodeError, and numbers of thousands of digits
        raise StructureError(f"is not JSON ({error})") from None
    return structure(value, kind)


def read_json(path: Path | str, kind: type[Kind], advice: str, *, most: int = MOST_BYTES) -> Kind:
    """A JSON file as a value of a type: a dataclass, a ``TypedDict``, ``dict[str, int]``, ...

    Example::

        facts = read_json(run / "run.json", RunFacts, "give the folder of a run, such as runs/latest")
    """
    text = read_text(path, advice, most=most)
    try:
        return parse_json(text, kind)
    except StructureError as error:
        raise UnreadableError(path, str(error), advice) from None


def read_toml(path: Path | str, advice: str, *, most: int = 2**24) -> JsonTable:
    """A TOML file as it stands; its reader checks the types."""
    text = read_text(path, advice, most=most)
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise UnreadableError(path, "is nested too deeply", advice) from None
    except ValueError as error:
        raise UnreadableError(path, f"is not valid TOML ({error})", advice) from None


def read_parquet(path: Path | str, schema: pa.Schema, advice: str) -> pa.Table:
    """The columns of ``schema`` in its types, with the file's metadata; further columns are left out.

    Values are checked, text included; a field that is not nullable has no null.

    Raises:
        UnreadableError: it is no parquet file, is damaged, lacks a column, has other types, or says that it unpacks to more than this
            machine's memory.
    """
    return _in_types(path, _columns(path, schema.names, advice), schema, advice)


def read_whole_parquet(path: Path | str, advice: str) -> pa.Table:
    """All columns, values checked, with the file's metadata; its reader checks the types.

    Raises:
        UnreadableError: as :func:`read_parquet`.
    """
    return _columns(path, None, advice)


def _columns(path: Path | str, wanted: list[str] | None, advice: str) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with os.fdopen(open_file(path, advice), "rb") as file, pq.ParquetFile(file) as opened:
            size = sum(opened.metadata.row_group(number).total_byte_size for number in range(opened.metadata.num_row_groups))
            if not 0 <= size <= memory_bytes():
                raise UnreadableError(path, f"says that it unpacks to {size:,} bytes, more than this machine has", advice)
            names = opened.schema_arrow.names if wanted is None else wanted
            missing = [name for name in names if name not in opened.schema_arrow.names]
            if missing:
                raise UnreadableError(path, f"has no column {missing[0]!r}", advice)
            table = opened.read(columns=names).select(names)
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise _not_a_table(path, error, advice) from None
    return table


def _in_types(path: Path | str, table: pa.Table, schema: pa.Schema, advice: str) -> pa.Table:
    import pyarrow as pa

    try:
        metadata = table.schema.metadata
        table = table.cast(pa.schema([field.with_nullable(True) for field in schema])).replace_schema_metadata(metadata)
    except (pa.ArrowException, ValueError, TypeError, OverflowError, MemoryError) as error:
        raise _not_a_table(path, error, advice) from None
    for field in schema:
        if not field.nullable and table[field.name].null_count:
            raise UnreadableError(path, f"has no value in some row of the column {field.name!r}", advice)
    return table


def _not_a_table(path: Path | str, error: Exception, advice: str) -> UnreadableError:
    first = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
    return UnreadableError(path, f"is not a table of the right kind ({first})", advice)


def memory_bytes() -> int:
    """Physical memory of this machine."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 2**40


# ---- writing ----------------------------------------------------------------------------------------------------------------


@contextmanager
def disk_errors(place: Path | str) -> Iterator[None]:
    """Turns the operating system's words about a full disk or a forbidden place into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            sentence = f"the disk that holds {shown(place)} is full; free some space and run the same command again"
            raise MachineError(sentence) from error
        if error.errno in _FORBIDDEN:
            raise UserError(f"{shown(place)} cannot be written ({error.strerror}); choose another folder") from error
        raise


def keepable(place: Path | str) -> None:
    """Refuses to make files where the system's own are and nothing is kept: below ``/dev``, ``/proc`` and ``/sys``."""
    try:
        real = os.path.realpath(place)
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            os.stat(real)
    except (OSError, ValueError):  # too long, a NUL byte, a link to itself
        raise UserError(f"{shown(place)} cannot be the name of a folder; choose another one") from None
    for top in ("/dev", "/proc", "/sys"):
        if real == top or (real.startswith(f"{top}/") and not real.startswith("/dev/shm/")):
            raise UserError(f"{shown(place)} lies in {top}, where nothing can be kept; choose another folder")


@contextmanager
def aside(path: Path | str) -> Iterator[Path]:
    """A file to write beside ``path``, which takes its place when the block ends well and vanishes when it does not.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with aside(Path(folder) / "note.txt") as part:
        ...         _ = part.write_text("whole")
        ...     [(file.name, file.read_text()) for file in Path(folder).iterdir()]
        [('note.txt', 'whole')]
    """
    path = Path(path)
    part = path.with_name(f"{_stem(path)}{os.getpid()}.part")
    _sweep(path)
    try:
        yield part
        sync(part)
        os.replace(part, path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _stem(path: Path) -> str:
    """How this machine's parts of a file begin: on a disk that machines share, only a machine of its own knows which process is alive."""
    return f".{path.name}.{hashlib.sha256(platform.node().encode()).hexdigest()[:8]}-"


def _sweep(path: Path) -> None:
    """Removes what killed processes of this machine left of earlier writing."""
    stem = _stem(path)
    with suppress(OSError):
        for name in os.listdir(path.parent):
            process = name.removeprefix(stem).removesuffix(".part")
            if name == f"{stem}{process}.part" and process.isdecimal() and not _alive(int(process)):
                path.with_name(name).unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except PermissionError:
        return True  # somebody else's
    except (OSError, OverflowError):
        return False
    return True


def write_text(path: Path | str, text: str) -> None:
    """Writes UTF-8 text aside and renames it into place."""
    with aside(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: object, *, indent: int | None = 1) -> None:
    """Writes JSON aside and renames it into place. ``ValueError`` for a number that is not finite."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False) + "\n")


@contextmanager
def folder_aside(final: Path) -> Iterator[Path]:
    """A folder to fill beside ``final`` that takes its place, whole, when the block ends well, and vanishes when it does not.

    A kill between the two renames leaves what was there before at :func:`replaced`.
    """
    part = final.with_name(f".{final.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        yield part
        for file in part.rglob("*"):
            if file.is_file():
                sync(file)
        rename_folder(part, final)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def rename_folder(part: Path, final: Path) -> None:
    """Gives a finished folder its name; a folder that had it goes only when the new one is there."""
    old = replaced(final)
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        os.replace(final, old)
    os.replace(part, final)
    sync(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def replaced(final: Path) -> Path:
    """Where a folder lies while another takes its name: ``.NAME.old`` beside it."""
    return final.absolute().with_name(f".{final.absolute().name}.old")


def sync(path: Path) -> None:
    """Has the operating system put a file or a folder's names on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# ---- identity ---------------------------------------------------------------------------------------------------------------


def sha256(path: Path, advice: str = "make it again") -> str:
    """SHA-256 (hex) of a regular file. Raises :class:`UnreadableError`."""
    with os.fdopen(open_file(path, advice), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: object) -> str:
    """SHA-256 (hex) of plain values: the same values, the same digest, whatever the order of keys.

    Example:
        >>> digest({"a": 1, "b": (2,)}) == digest({"b": [2], "a": 1})
        True
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()  # half surrogates can stand in JSON
