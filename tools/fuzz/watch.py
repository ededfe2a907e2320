"""One case: run with a clock, an eye on memory, on programs and connections that are started, and on files outside its folder."""

from __future__ import annotations

import io
import os
import random
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wholegrain.errors import MachineError, UserError

SECONDS = 10
"""Of processor time; six times as many by the clock."""
MEGABYTES = 1000
"""Of memory that a case may take more than all before it."""
LONGEST = 1100
"""Characters of a sentence."""
_STARTS = ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "os.spawn", "socket.connect", "pty.spawn")
_CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link")


@dataclass(frozen=True)
class Verdict:
    """How a case was met: ``served``, ``refused``, or what was bad about it."""

    met: str
    detail: str = ""

    @property
    def bad(self) -> bool:
        return self.met not in ("served", "refused")


@dataclass
class _Eye:
    """What the audit hook sees while a case runs."""

    folders: tuple[str, ...] = ()
    seen: list[str] = field(default_factory=list)

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.folders:
            return
        if event in _STARTS and not (event == "socket.connect" and not isinstance(args[1], tuple)):
            self.seen.append(f"started: {event} {str(args[:2])[:200]}")
        elif (event == "open" and isinstance(args[0], str) and _writes(args[1], args[2])) or event in _CHANGES:
            place = args[1] if event in ("os.symlink", "os.link", "os.rename") else args[0]
            path = os.path.abspath(os.fsdecode(place)) if isinstance(place, (str, bytes)) else ""
            inside = not os.path.isabs(os.fsdecode(place)) and any(isinstance(x, int) and x >= 0 for x in args[1:])  # of an open folder
            if path and not inside and not path.startswith((*self.folders, "/dev/null", "/proc/self")):
                self.seen.append(f"wrote outside: {event} {path[:200]}")


def _writes(mode: Any, flags: Any) -> bool:
    return (isinstance(mode, str) and any(c in mode for c in "wax+")) or (isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR)))


_EYE = _Eye()
_HOOKED: list[bool] = []


class _TooSlow(BaseException):
    pass


@contextmanager
def _clock(seconds: float) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise _TooSlow

    before = signal.signal(signal.SIGPROF, ring), signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, 6 * seconds)
    try:
        yield
    finally:
        for timer in (signal.ITIMER_PROF, signal.ITIMER_REAL):
            signal.setitimer(timer, 0)
        for number, handler in zip((signal.SIGPROF, signal.SIGALRM), before, strict=True):
            signal.signal(number, handler)


def command(*words: str | Path) -> None:
    """The command line in this process; a refusal must be one line."""
    from wholegrain.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main([str(word) for word in words])
    except SystemExit as end:
        code, said = end.code or 0, err.getvalue()
        lines = [line for line in said.splitlines() if line.startswith("wholegrain:")]
        if code == 0:
            return
        if code not in (1, 2) or len(lines) != 1 or "Traceback" in said or len(lines[0]) > LONGEST:
            traces = sorted(Path(os.environ["XDG_STATE_HOME"]).rglob("*.txt"))
            raise RuntimeError(f"exit code {code}, said: {said[-1500:]}\n{traces[-1].read_text() if traces else ''}") from None
        raise UserError(lines[0]) from None


def watched(case: Callable[[random.Random, Path], None], seed: str) -> tuple[Verdict, str]:
    """Runs a case in a folder of its own; the second is its traceback, if it was badly met."""
    if not _HOOKED:
        sys.addaudithook(_EYE)
        _HOOKED.append(True)
    top = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        _EYE.seen = []
        _EYE.folders = (os.path.realpath(place), place)
        trace = ""
        os.environ["XDG_STATE_HOME"] = place  # where the command line leaves traces
        try:
            with _clock(SECONDS):
                case(random.Random(seed), Path(place))
            verdict = Verdict("served")
        except (UserError, MachineError) as error:
            text = str(error)
            fine = "\n" not in text and 10 < len(text) <= LONGEST
            verdict = Verdict("refused", text) if fine else Verdict("no sentence", text[:300])
        except _TooSlow:
            verdict, trace = Verdict("too slow", f"over {SECONDS} s"), traceback.format_exc()
        except Exception as error:
            trace = traceback.format_exc()
            verdict = Verdict("traceback", f"{type(error).__name__}: {str(error)[:300]}")
        finally:
            _EYE.folders = ()
        if _EYE.seen:
            verdict = Verdict("side effect", _EYE.seen[0])
        more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - top) // 1024
        if more > MEGABYTES and not verdict.bad:
            verdict = Verdict("memory", f"{more} MB more")
        return verdict, trace
