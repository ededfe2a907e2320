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
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from wholegrain.enrich.runner.stage import Failure
from wholegrain.files import disk_errors

_NAME = re.compile(r"(\d{7})-([0-9a-f]{16})\.parquet")
_FAILURES = b"failures"


class Parts:
    """The parts of one stage.

    Args:
        folder: of these parts alone; is made when the first one comes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[int, Path] = {}
        if folder.is_dir():
            for path in sorted(folder.iterdir()):
                found = _NAME.fullmatch(path.name)
                if found and hashlib.sha256(path.read_bytes()).hexdigest()[:16] == found.group(2):
                    self._files[int(found.group(1))] = path
                else:
                    path.unlink(missing_ok=True)

    def __contains__(self, number: int) -> bool:
        return number in self._files

    def write(self, number: int, table: pa.Table, failures: Sequence[Failure]) -> None:
        """Keeps what a unit gave."""
        said = json.dumps([[failure.key, failure.reason] for failure in failures], ensure_ascii=False).encode()
        buffer = io.BytesIO()
        pq.write_table(table.replace_schema_metadata({_FAILURES: said}), buffer, compression="zstd")
        data = buffer.getvalue()
        before, target = self._files.get(number), self.folder / _name(number, data)
        part = target.with_suffix(".part")
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, target)
            if before is not None and before != target:
                before.unlink(missing_ok=True)
        self._files[number] = target

    def read(self, number: int) -> tuple[pa.Table, list[Failure]]:
        """Rows and failures of a unit."""
        table = pq.read_table(self._files[number])
        said = json.loads((table.schema.metadata or {}).get(_FAILURES, b"[]"))
        return table.replace_schema_metadata(None), [Failure(key, reason) for key, reason in said]

    def counts(self, number: int) -> tuple[int, list[Failure]]:
        """Number of rows, and the failures, of a unit."""
        facts = pq.read_metadata(self._files[number])
        said = json.loads((facts.metadata or {}).get(_FAILURES, b"[]"))
        return facts.num_rows, [Failure(key, reason) for key, reason in said]


def _name(number: int, data: bytes) -> str:
    return f"{number:07d}-{hashlib.sha256(data).hexdigest()[:16]}.parquet"
