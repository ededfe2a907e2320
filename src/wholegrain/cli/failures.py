"""What is said, and which exit code, when a command fails: foreseen or not, it is one sentence."""

from __future__ import annotations

import errno
import os
import re
import shlex
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from wholegrain.errors import one_line

UNFORESEEN = 70  # EX_SOFTWARE of sysexits.h
_PLACES = {
    errno.EROFS: "is on a disk that can only be read; choose another folder",
    errno.EACCES: "may not be read or written; change its permissions, or choose another one",
    errno.EPERM: "may not be read or written; change its permissions, or choose another one",
    errno.ENAMETOOLONG: "has a name that is too long; choose a shorter one",
}
_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory|CUBLAS_STATUS_ALLOC_FAILED", re.I)


def foreseen(error: BaseException, batch: Callable[[], int]) -> tuple[str, int] | None:
    """A sentence and an exit code for what a user, or the machine's owner, can mend; ``None`` for everything else.

    Args:
        error: what ended the command.
        batch: gives the number of images that the command took at once; 0 if it has no such number.
    """
    if no_memory(error):
        what = "The machine's" if isinstance(error, MemoryError) else "The device's"
        return f"{what} memory is full ({_first(error)}); {_less(batch())}.", 1
    if not isinstance(error, OSError):
        return None
    where = one_line(str(error.filename)) if error.filename is not None else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk is full ({where or 'while writing'}); make room and run the same command again.", 1
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"Too many files are open at once ({_open_files()}); allow more, such as: ulimit -n 65536.", 1
    if error.errno == errno.EIO:
        return f"The disk failed while {where or 'a file'} was read or written; copy the data to another disk.", 1
    if error.errno in _PLACES and where:
        return f"{where} {_PLACES[error.errno]}.", 2
    return None


def no_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the machine or on a device."""
    if isinstance(error, MemoryError):
        return True
    torch = sys.modules.get("torch")
    out_of_memory = getattr(torch, "OutOfMemoryError", ())
    return isinstance(error, out_of_memory) or (isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error))))


def _less(batch: int) -> str:
    if batch > 1:
        return f"choose a smaller --batch, now {batch}, such as {batch // 2}"
    return "choose a smaller model or smaller pictures" if batch == 1 else "close other programs, or use a larger machine"


def unforeseen(error: BaseException, words: Sequence[str]) -> str:
    """A sentence about an error that nobody thought of; its trace goes into a file, as it would only hide what happened.

    ``WHOLEGRAIN_DEBUG=1`` prints the trace instead.

    Args:
        words: of the command, its program's name first.
    """
    command = shlex.join(words)
    trace = "".join(traceback.format_exception(error))
    if os.environ.get("WHOLEGRAIN_DEBUG", "0") not in ("", "0"):
        print(trace, file=sys.stderr, end="")
        return f"{command} failed."
    said = f"An error that was not foreseen ended {one_line(command)} ({type(error).__name__}: {_first(error)})"
    try:
        file = _kept(f"{command}\nin {os.getcwd()}\n{_versions()}\n\n{trace}")
    except Exception as problem:
        return f"{said}; its trace could not be written ({_first(problem)}): WHOLEGRAIN_DEBUG=1 prints it."
    return f"{said}; its trace is in {file}, please report it."


def _kept(trace: str) -> Path:
    """Writes a trace into the state folder of the user, or else a temporary one; whole or not at all."""
    stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    name = f"trace-{stamp}{'' if (number := rank(os.environ)) is None else f'-rank{number}'}.txt"
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "wholegrain"
    for folder in (lambda: state, lambda: Path(tempfile.mkdtemp(prefix="wholegrain-"))):
        with suppress(OSError):
            return _written(folder(), name, trace)
    return _written(Path.cwd(), name, trace)


def _written(folder: Path, name: str, text: str) -> Path:
    from wholegrain.files import write_text

    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / name, text)
    return folder / name


def rank(environment: Mapping[str, str]) -> int | None:
    """This process's number among those that a launcher (torchrun, srun) started; ``None`` for one alone."""
    for number, count in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS")):
        told, of = environment.get(number, ""), environment.get(count, "")
        if told.isdecimal() and of.isdecimal() and int(of) > 1:
            return int(told)
    return None


def _versions() -> str:
    from importlib.metadata import PackageNotFoundError, version

    found = [f"Python {sys.version.split()[0]}", sys.platform]
    for package in ("wholegrain", "torch", "open_clip_torch", "transformers"):
        with suppress(PackageNotFoundError):
            found.append(f"{package} {version(package)}")
    return ", ".join(found)


def _open_files() -> str:
    try:
        import resource

        return f"now {resource.getrlimit(resource.RLIMIT_NOFILE)[0]:,} are allowed"
    except (ImportError, OSError):
        return "as many as are allowed"


def _first(error: BaseException) -> str:
    """The first line of what an error says, in its first 200 letters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = one_line(lines[0] if lines else "it says nothing").rstrip(".")
    return said if len(said) <= 200 else f"{said[:200]}…"


def batch_of(given: Mapping[str, Any]) -> int:
    """Images that a command takes at once: as told, else by the recipe or the run; 0 where nobody knows."""
    if given.get("batch"):
        return int(given["batch"])
    with suppress(Exception):
        from wholegrain.objectives.recipe import load_recipe
        from wholegrain.training.checkpoints.run_folder import read_recipe

        if given.get("resume") is not None:
            return read_recipe(given["resume"]).optimiser.batch
        recipe = given.get("recipe") or (given.get("recipes") or ("",))[0]
        if recipe:
            return load_recipe(recipe, given.get("overrides", ())).optimiser.batch
    return 0
