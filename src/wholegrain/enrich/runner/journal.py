"""A journal of answers that were paid for: one line a call, on the disk before the answer is used.

A call is known by a hash of all that its answer depends on (model, prompt, picture, settings), so the same question is never paid for
twice: not after a kill, not by another command on the same data.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NotRequired, TypedDict, cast

from wholegrain.files import disk_errors, open_file, parse_json


def call_id(question: Mapping[str, object]) -> str:
    """32 hex digits of the SHA-256 of a question, which is plain JSON values."""
    return hashlib.sha256(json.dumps(question, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Answer:
    """What a call gave.

    Attributes:
        text: as it came.
        finish: why it ended: ``stop``, ``length``, ``content_filter``, …
        tokens_in, tokens_out: what the endpoint counted, or the most that it may have been where it does not count.
    """

    text: str
    finish: str
    tokens_in: int = 0
    tokens_out: int = 0


class _Entry(TypedDict):
    call: str
    tokens_in: int
    tokens_out: int
    text: NotRequired[str]
    finish: NotRequired[str]


class Journal:
    """Answers by call, in a file that only grows.

    Args:
        path: the file; ``None`` keeps nothing.

    Attributes:
        tokens_in, tokens_out: of all calls in the journal, failed ones that may have cost something among them.
        largest_in: the most tokens that a question had.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path, self._lock, self._file = path, threading.Lock(), -1
        self._places: dict[
            bytes, tuple[int, int]
        ] = {}  # where an answer's line is in the file, and its length: millions need little room
        self._held: dict[bytes, Answer] = {}
        self.tokens_in = self.tokens_out = self.largest_in = 0
        if path is not None:
            with disk_errors(path.parent):
                path.parent.mkdir(parents=True, exist_ok=True)
                if os.path.lexists(path):
                    os.close(open_file(path, "remove it"))
                self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
                self._read(path)

    def _read(self, path: Path) -> None:
        place = 0
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):  # a kill in the midst of a line; what it said was not used yet
                    os.ftruncate(self._file, place)
                    return
                with suppress(ValueError):  # a damaged line costs its own answer alone
                    self._take(parse_json(line, _Entry), place, len(line))
                place += len(line)

    def _take(self, entry: _Entry, place: int, length: int) -> None:
        tokens_in, name = entry["tokens_in"], bytes.fromhex(entry["call"])
        self.tokens_in += tokens_in
        self.tokens_out += entry["tokens_out"]
        if "text" in entry and "finish" in entry:
            self.largest_in = max(self.largest_in, tokens_in)
            if self._file < 0:
                self._held[name] = _answer(entry)
            else:
                self._places[name] = place, length

    def get(self, call: str) -> Answer | None:
        """The answer to a call that was made before."""
        name = bytes.fromhex(call)
        with self._lock:
            if name in self._places:
                place, length = self._places[name]
                return _answer(json.loads(os.pread(self._file, length, place)))
            return self._held.get(name)

    def __len__(self) -> int:
        """Number of answers."""
        return len(self._places) + len(self._held)

    def keep(self, call: str, answer: Answer, note: Mapping[str, object]) -> None:
        """Writes an answer down, with a note for people; on the disk when this returns."""
        self._write(cast(_Entry, {"call": call, **asdict(answer), **note}))

    def lost(self, call: str, tokens_in: int, tokens_out: int, reason: str) -> None:
        """Writes down what a failed call may have cost."""
        self._write(cast(_Entry, {"call": call, "tokens_in": tokens_in, "tokens_out": tokens_out, "failed": reason}))

    def _write(self, entry: _Entry) -> None:
        line = (json.dumps(entry, ensure_ascii=False) + "\n").encode("utf-8", "replace")
        with self._lock:
            place = self._append(line) if self._file >= 0 else 0
            self._take(entry, place, len(line))

    def _append(self, line: bytes) -> int:
        """Writes a line to the disk; where it begins."""
        before = os.fstat(self._file).st_size
        with disk_errors(self.path or "."):
            try:
                while line:
                    line = line[os.write(self._file, line) :]
                os.fsync(self._file)
            except OSError:
                os.ftruncate(self._file, before)  # no half line before the next one
                raise
        return before

    def close(self) -> None:
        """Nothing can be kept afterwards."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def __getstate__(self) -> dict[str, object]:
        raise TypeError("a journal belongs to one process")


def _answer(entry: _Entry) -> Answer:
    return Answer(entry.get("text", ""), entry.get("finish", ""), entry["tokens_in"], entry["tokens_out"])
