"""What is done already: one file for each unit of work, whole and checked, or not there.

A part is a parquet file ``NUMBER-DIGEST.parquet``: rows of a sidecar, and in its metadata the failures. It is written aside, brought to
the disk and renamed, and its name has the SHA-256 of its bytes, so a part that a broken machine damaged is seen and made again.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from wholegrain.data.sidecars import SIDECARS
from wholegrain.enrich.runner.stage import Failure
from wholegrain.errors import UserError
from wholegrain.files import UnreadableError, aside, disk_errors, open_file, parse_json, read_bytes, read_parquet
from wholegrain.structure import StructureError

_NAME = re.compile(r"(\d{7})-([0-9a-f]{16})\.parquet")
_FAILURES = b"failures"
_ADVICE = "remove it, and the same command makes it again"


class Parts:
    """The parts of one stage.

    Args:
        folder: of these parts alone; is made when the first one comes.
        table: the name of the sidecar whose rows they are.
    """

    def __init__(self, folder: Path, table: str) -> None:
        self.folder, self.schema = folder, SIDECARS[table]
        self._files: dict[int, Path] = {}
        if folder.is_dir():
            for path in sorted(folder.iterdir()):
                found = _NAME.fullmatch(path.name)
                if found and _digest(path) == found.group(2):
                    self._files[int(found.group(1))] = path
                elif path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)

    def __contains__(self, number: int) -> bool:
        return number in self._files

    def write(self, number: int, table: pa.Table, failures: Sequence[Failure]) -> None:
        """Keeps what a unit gave."""
        stated = json.dumps([[failure.key, failure.reason] for failure in failures], ensure_ascii=False).encode()
        buffer = io.BytesIO()
        pq.write_table(table.replace_schema_metadata({_FAILURES: stated}), buffer, compression="zstd")
        data = buffer.getvalue()
        before, target = self._files.get(number), self.folder / _name(number, data)
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with aside(target) as part:
                part.write_bytes(data)
            if before is not None and before != target:
                before.unlink(missing_ok=True)
        self._files[number] = target

    def read(self, number: int) -> tuple[pa.Table, list[Failure]]:
        """Rows and failures of a unit."""
        path = self._files[number]
        table = read_parquet(path, self.schema, _ADVICE)
        return table.replace_schema_metadata(None), _failures(path, table.schema.metadata)

    def counts(self, number: int) -> tuple[int, list[Failure]]:
        """Number of rows, and the failures, of a unit."""
        path = self._files[number]
        try:
            with os.fdopen(open_file(path, _ADVICE), "rb") as file, pq.ParquetFile(file) as part:
                rows, stated = part.metadata.num_rows, part.metadata.metadata
        except (pa.ArrowException, OSError) as error:
            raise UnreadableError(path, f"is no part ({str(error).splitlines()[0][:200]})", _ADVICE) from None
        return rows, _failures(path, stated)


def _failures(path: Path, metadata: Mapping[bytes, bytes] | None) -> list[Failure]:
    try:
        stated = parse_json((metadata or {}).get(_FAILURES, b"[]"), list[tuple[str, str]])
    except StructureError as error:
        raise UnreadableError(path, f"{error}, in its failures", _ADVICE) from None
    return [Failure(key, reason) for key, reason in stated]


def _digest(path: Path) -> str:
    """The first half of the SHA-256 of a file; empty for what cannot be read."""
    try:
        return hashlib.sha256(read_bytes(path, _ADVICE)).hexdigest()[:16]
    except UserError:
        return ""


def _name(number: int, data: bytes) -> str:
    return f"{number:07d}-{hashlib.sha256(data).hexdigest()[:16]}.parquet"
