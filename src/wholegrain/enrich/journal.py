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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wholegrain.data.shards import disk_errors


def call_id(question: Mapping[str, Any]) -> str:
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


class Journal:
    """Answers by call, in a file that only grows.

    Args:
        path: the file; ``None`` keeps nothing.

    Attributes:
        tokens_in, tokens_out: of all calls in the journal, failed ones that may have cost something among them.
        largest_in: the most tokens that a question had.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path, self._answers, self._lock, self._file = path, {}, threading.Lock(), -1
        self.tokens_in = self.tokens_out = self.largest_in = 0
        if path is not None:
            with disk_errors(path.parent):
                path.parent.mkdir(parents=True, exist_ok=True)
                self._read(path)
                self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def _read(self, path: Path) -> None:
        if not path.exists():
            return
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):  # a kill in the midst of a line; what it said was not used yet
            os.truncate(path, whole)
        for line in data[:whole].splitlines():
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError):
                continue  # a damaged line costs its own answer alone

    def _take(self, entry: dict[str, Any]) -> None:
        given, asked = int(entry["tokens_in"]), str(entry["call"])
        self.tokens_in += given
        self.tokens_out += int(entry["tokens_out"])
        if "text" in entry:
            self.largest_in = max(self.largest_in, given)
            self._answers[asked] = Answer(entry["text"], entry["finish"], given, int(entry["tokens_out"]))

    def get(self, call: str) -> Answer | None:
        """The answer to a call that was made before."""
        with self._lock:
            return self._answers.get(call)

    def __len__(self) -> int:
        """Number of answers."""
        return len(self._answers)

    def keep(self, call: str, answer: Answer, note: Mapping[str, Any]) -> None:
        """Writes an answer down, with a note for people; on the disk when this returns."""
        self._write({"call": call, **asdict(answer), **note})

    def lost(self, call: str, tokens_in: int, tokens_out: int, reason: str) -> None:
        """Writes down what a failed call may have cost."""
        self._write({"call": call, "tokens_in": tokens_in, "tokens_out": tokens_out, "failed": reason})

    def _write(self, entry: dict[str, Any]) -> None:
        line = (json.dumps(entry, ensure_ascii=False) + "\n").encode("utf-8", "replace")
        with self._lock:
            if self._file >= 0:
                self._append(line)
            self._take(entry)

    def _append(self, line: bytes) -> None:
        before = os.fstat(self._file).st_size
        with disk_errors(self.path or "."):
            try:
                while line:
                    line = line[os.write(self._file, line) :]
                os.fsync(self._file)
            except OSError:
                os.ftruncate(self._file, before)  # no half line before the next one
                raise

    def close(self) -> None:
        """Nothing can be kept afterwards."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError("a journal belongs to one process")
