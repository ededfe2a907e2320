"""Prepared data that lie far away: a mirror on this machine that fills itself shard by shard.

``https://`` is read with the standard library; any other address (``s3://``, ``gs://``, ``hf://``, ``memory://``, ...) through fsspec, whose
package for that kind must be installed. The mirror is an ordinary data set whose shards may still be missing. A shard comes whole:
it is written aside, its SHA-256 compared with the manifest's, then renamed; a lock on a file lets one process of the machine fetch it
while the others wait. When the shards of all mirrors together grow beyond the limit, those that were opened longest ago go.

The mirrors lie in ``$WHOLEGRAIN_CACHE`` (``~/.cache/wholegrain``), and hold ``$WHOLEGRAIN_CACHE_GB`` (50) of shards at most. A mirror's name
has a hash of the manifest, so another data set at the same address begins another one.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Protocol, TypeVar

from wholegrain.data.manifest import parse_manifest
from wholegrain.errors import MachineError, UserError
from wholegrain.files import MOST_BYTES, aside, disk_errors

WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds between attempts; one more attempt than there are waits."""
TIMEOUT = 60.0
"""Seconds without a byte, after which an attempt has failed."""
_PART = 2**20
_OF_THIS_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.EISDIR, errno.ENOTDIR)
Result = TypeVar("Result")


_ADDRESS = re.compile(r"([a-z][a-z0-9+.]+):/{1,2}(?=[^/])")  # a Path has lost one of the two; a drive has one letter


def address(folder: Path | str) -> str | None:
    """The address that this is, or ``None`` for a folder.

    Example:
        >>> address("s3://bucket/photos"), address(Path("https://example.org/photos")), address("data/photos:3")
        ('s3://bucket/photos', 'https://example.org/photos', None)
    """
    found = _ADDRESS.match(str(folder))
    return f"{found.group(1)}://{str(folder)[found.end() :]}" if found else None


class _AnswerError(OSError):
    """What came is not what was asked for; another attempt may do better."""


class _Store(Protocol):
    def open(self, name: str) -> IO[bytes]: ...
    def facts(self, name: str) -> dict[str, object]:
        """Size, and what else tells one version of a file from another. Raises FileNotFoundError."""
        ...


class _Web:
    def __init__(self, url: str) -> None:
        self.url = url

    def _ask(self, name: str, method: str) -> http.client.HTTPResponse:
        request = urllib.request.Request(f"{self.url}/{name}", method=method, headers={"User-Agent": "wholegrain"})
        try:
            return urllib.request.urlopen(request, timeout=TIMEOUT)
        except urllib.error.HTTPError as answer:
            answer.close()
            if answer.code in (404, 410):
                raise FileNotFoundError(f"{answer.code} {answer.reason}") from None
            if answer.code in (401, 403):
                raise PermissionError(f"{answer.code} {answer.reason}") from None
            raise _AnswerError(f"{answer.code} {answer.reason}") from None

    def open(self, name: str) -> IO[bytes]:
        return self._ask(name, "GET")

    def facts(self, name: str) -> dict[str, object]:
        with self._ask(name, "HEAD") as answer:
            return {field: answer.headers.get(field) for field in ("Content-Length", "ETag", "Last-Modified")}


class _Fsspec:
    def __init__(self, url: str) -> None:
        import fsspec

        try:
            self.files, self.root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as problem:
            raise UserError(f"{url} cannot be opened: {problem}.") from None

    def open(self, name: str) -> IO[bytes]:
        return self.files.open(f"{self.root}/{name}", "rb", block_size=8 * _PART)

    def facts(self, name: str) -> dict[str, object]:
        found = self.files.info(f"{self.root}/{name}")
        return {
            field: str(found.get(field)) for field in ("size", "ETag", "etag", "LastModified", "mtime", "generation", "created")
        }


class Remote:
    """One address and its mirror.

    Args:
        url: of a prepared data set.
        cache: where mirrors lie.
        limit: bytes of shards that all mirrors there may hold.

    Attributes:
        folder: the mirror, with the manifest in it.

    Raises:
        UserError: there is no data set at the address, or it may not be read.
        MachineError: it cannot be reached.
    """

    def __init__(self, url: str, cache: Path | None = None, limit: int | None = None) -> None:
        home = os.environ.get("WHOLEGRAIN_CACHE") or Path.home() / ".cache" / "wholegrain"
        self.url, self.cache = url.rstrip("/"), Path(cache or home)
        self.limit = int(float(os.environ.get("WHOLEGRAIN_CACHE_GB", "50")) * 2**30) if limit is None else limit
        self._store: tuple[int, _Store] | None = None
        try:
            manifest = self._tried("manifest.json", lambda store: _whole(store, "manifest.json"))
        except FileNotFoundError:
            raise UserError(f"{self.url} is no prepared data set: it has no manifest.json; look at the address.") from None
        self.hashes: dict[str, str] = parse_manifest(manifest, f"{self.url}/manifest.json", "look at the address").get("shards", {})
        name = f"{self.name}-{hashlib.sha256(self.url.encode()).hexdigest()[:8]}-{hashlib.sha256(manifest).hexdigest()[:12]}"
        self.folder = self.cache / "data" / name
        with disk_errors(self.cache):
            (self.folder / "shards").mkdir(parents=True, exist_ok=True)
            with self._locked("manifest.json"), aside(self.folder / "manifest.json") as part:
                part.write_bytes(manifest)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_store": None}

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.url.rpartition("/")[2] or "data"

    def refresh(self, name: str) -> bool:
        """Brings a file beside the shards up to date; whether there is one."""
        target, note = self.folder / name, self.folder / f"{name}.facts"
        with disk_errors(self.cache), self._locked(name):
            try:
                facts = json.dumps(self._tried(name, lambda store: store.facts(name)))
                if target.exists() and note.exists() and note.read_text(encoding="utf-8") == facts:
                    return True
                self._fetch(name, target, "")
            except FileNotFoundError:
                target.unlink(missing_ok=True)
                return False
            note.write_text(facts, encoding="utf-8")
        return True

    def shard(self, name: str) -> Path:
        """The local file of a shard, fetched if it is missing.

        Raises:
            UserError: there is no such shard, or what comes is never what the manifest says.
            MachineError: it does not come at all, or the disk is full.
        """
        target = self.folder / "shards" / name
        with suppress(FileNotFoundError):
            os.utime(target)  # what is used last goes last
            return target
        with disk_errors(self.cache), self._locked(name):
            if not target.exists():
                try:
                    self._fetch(f"shards/{name}", target, self.hashes.get(name, ""))
                except FileNotFoundError:
                    sentence = f"{self.url}/shards/{name} is missing, though the index names it; upload the data set again."
                    raise UserError(sentence) from None
                self._make_room(target)
        return target

    def _fetch(self, name: str, target: Path, expected: str) -> None:
        with aside(target) as part:

            def copy(store: _Store) -> None:
                digest = hashlib.sha256()
                with store.open(name) as source, part.open("wb") as file:
                    while piece := source.read(_PART):
                        digest.update(piece)
                        file.write(piece)
                    if getattr(source, "length", None):  # http.client counts down what the server promised
                        raise _AnswerError("the connection ended too soon")
                if expected and digest.hexdigest() != expected:
                    raise _AnswerError(f"{part.stat().st_size:,} bytes came that are not those of the manifest")

            self._tried(name, copy)

    def _tried(self, name: str, act: Callable[[_Store], Result]) -> Result:
        """Tries again after a while what a slow or disturbed connection did not allow."""
        for wait in (*WAITS, None):
            try:
                return act(self._opened())
            except (FileNotFoundError, UserError):
                raise
            except PermissionError as problem:
                raise UserError(f"{self.url}/{name} may not be read ({problem}); look at your credentials.") from None
            except Exception as problem:  # fsspec's packages have errors of their own
                if isinstance(problem, OSError) and problem.errno in _OF_THIS_MACHINE:
                    raise
                if wait is None:
                    raise self._given_up(name, problem) from None
                time.sleep(wait)
        raise AssertionError

    def _given_up(self, name: str, problem: Exception) -> UserError | MachineError:
        sentence = f"{self.url}/{name} could not be read, {len(WAITS) + 1} times ({str(problem) or type(problem).__name__})"
        if isinstance(problem, _AnswerError) and "manifest" in str(problem):
            return UserError(f"{sentence}; it was cut short or changed: upload the data set again.")
        return MachineError(f"{sentence}; look at the connection, and go on with --resume.")

    def _opened(self) -> _Store:
        """This process's own connection: most do not survive a fork."""
        if self._store is None or self._store[0] != os.getpid():
            web = self.url.startswith(("http://", "https://"))
            self._store = (os.getpid(), _Web(self.url) if web else _Fsspec(self.url))
        return self._store[1]

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        file = self.folder / f".{Path(name).name}.lock"
        with file.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _make_room(self, newest: Path) -> None:
        """Removes shards until all are within the limit; open ones stay readable to those who have them open."""
        found = []
        for file in self.cache.glob("data/*/shards/*.tar"):
            with suppress(FileNotFoundError):
                status = file.stat()
                found.append((status.st_mtime_ns, status.st_size, file))
        held = sum(size for _, size, _ in found)
        for _, size, file in sorted(found):
            if held <= self.limit:
                return
            if file != newest:
                file.unlink(missing_ok=True)
                held -= size


def _whole(store: _Store, name: str) -> bytes:
    with store.open(name) as source:
        data = source.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise UserError(f"{name} there is longer than {MOST_BYTES:,} bytes; look at the address.")
    return data
