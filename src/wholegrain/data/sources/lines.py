"""Lines of a file, one at a time and each of a bounded length."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from wholegrain.data.sources.sample import MOST_TEXT
from wholegrain.errors import UserError
from wholegrain.files import open_file, shown

_ADVICE = "give a table, a folder, tar shards or hf:NAME"


def byte_lines(path: Path) -> Iterator[bytes]:
    """The lines of a regular file, with their ends.

    Raises:
        UserError: it is no file, cannot be read, or a line is longer than 16 MiB.
    """
    with os.fdopen(open_file(path, _ADVICE), "rb") as file:
        number = 0
        while True:
            try:
                line = file.readline(MOST_TEXT + 1)
            except OSError as error:
                raise UserError(f"{shown(path)} cannot be read behind line {number} ({error.strerror}); fetch it again") from None
            if not line:
                return
            number += 1
            if len(line) > MOST_TEXT:
                raise UserError(f"{shown(path)}, line {number} is longer than {MOST_TEXT:,} bytes; is it a table?")
            yield line


def text_lines(path: Path) -> Iterator[str]:
    """The same as UTF-8 text, without a byte-order mark.

    Raises:
        UserError: it is not UTF-8, too.
    """
    before = 0
    for line in byte_lines(path):
        try:
            yield line.decode("utf-8") if before else line.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{shown(path)} is not UTF-8 text ({error.reason} at byte {before + error.start}); save it as UTF-8"
            ) from error
        before += len(line)
