"""A folder that one process works in at a time."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wholegrain.errors import UserError
from wholegrain.files import disk_errors, shown


@contextmanager
def locked(folder: Path, doing: str) -> Iterator[None]:
    """Keeps other processes out of a folder that exists, by ``.lock`` in it, until the block ends or the process dies.

    Args:
        doing: what the holder is doing, for the sentence that another process prints, such as ``"training"``.

    Raises:
        UserError: another process has it (the sentence names its number), or ``.lock`` is not an ordinary file.
    """
    import fcntl

    path = folder / ".lock"
    flags = (getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK"))
    with disk_errors(folder):
        try:
            handle = os.open(path, sum(flags, os.O_RDWR | os.O_CREAT), 0o644)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):  # a link, a folder, a pipe or a socket
                raise _not_a_lock(path) from None
            raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _not_a_lock(path)
    _LOCKS.add(handle)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 200, 0).decode("utf-8", "replace").strip() or "another process"
            raise UserError(f"{shown(folder)} is in use ({holder}); wait for it, stop it, or choose another folder.") from None
        except OSError:
            pass  # a file system without locks
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()}, {doing}".encode(), 0)
        yield
    finally:
        if handle in _LOCKS:
            _LOCKS.remove(handle)
            os.close(handle)


def _not_a_lock(path: Path) -> UserError:
    return UserError(f"{shown(path)} is not an ordinary file, and so no lock; delete it.")


_LOCKS: set[int] = set()
"""Descriptors of the locks that this process holds."""


def _let_go() -> None:
    """In a forked process: a lock lasts as long as any descriptor of it, and a child may outlive its parent for a while."""
    while _LOCKS:
        os.close(_LOCKS.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
