"""The command ``wholegrain``: finds the module of a subcommand, calls it, and turns errors into one sentence and an exit code.

A subcommand is the function in ``wholegrain.cli.NAME`` that is named like the module; its parameters, or the fields of
the dataclass that it takes, are its options. Modules are imported when they are called, so ``wholegrain --help`` is quick. A subcommand with a
parameter ``overrides`` also takes dotted options such as ``--optimiser.lr 1e-5``.

Exit codes: 0 done, 1 the machine failed, 2 the input cannot be used, 70 an error that was not foreseen (its trace is in a file), 130, 141
and 143 interrupted.
"""

from __future__ import annotations

import importlib
import logging
import os
import select
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import is_dataclass
from functools import partial
from inspect import signature
from io import TextIOWrapper

from wholegrain.cli.arguments import bind
from wholegrain.cli.failures import UNFORESEEN, batch_of, foreseen, one_line, rank, unforeseen
from wholegrain.errors import MachineError, UserError
from wholegrain.suggest import closest

GROUPS = {
    "look": {
        "demo": "see a model fail, see why, see it repaired",
        "search": "find pictures by words or by a picture, in any folder",
        "explain": "where in a picture a model sees each word of a caption",
        "explore": "ask models about pictures in a browser",
        "classify": "the most probable of some labels for each picture",
        "inspect": "show what is in a data set or a model",
        "report": "a self-contained HTML report of results and failures",
    },
    "train": {
        "prepare": "turn any image-text source into one checked data set",
        "enrich": "captions in roles and hard negatives for a data set",
        "scenes": "make pictures with known truth: objects, relations, twins",
        "methods": "list the packaged recipes",
        "train": "train or fine-tune a model by a recipe",
        "compete": "train several methods under equal conditions; one table",
        "interpolate": "a model between two: before and after fine-tuning",
        "new": "a recipe, loss or benchmark of your own, with its test",
    },
    "measure": {
        "evaluate": "measure a model: retrieval, composition, with controls",
        "dense": "class names against pixels and boxes: segmentation, pointing",
        "detect": "boxes of any names: a head trained on a model's patches",
        "segment": "a class for every pixel: heads trained on a model's patches",
        "caption": "captions through a model's patches, counted word by word",
        "ask": "questions about pictures: a small language model on a model's tokens",
        "audit": "what a model misses on your own photos, without training",
        "compare": "models on the same items: paired differences, p values",
    },
    "share": {
        "embed": "vectors of pictures or texts, in a file",
        "export": "a model for open_clip, transformers, onnxruntime or the Hub",
    },
    "check": {
        "doctor": "find what would ruin a run, before the first step",
        "verify": "is this loss right? ours, or your own",
        "completion": "commands and options at a press of Tab",
    },
}
"""What one wants -> command -> what it does."""
COMMANDS = {name: said for group in GROUPS.values() for name, said in group.items()}
MOVED = {  # commands of version 0.1 that are for developers -> what to run in a checkout of the source; gone in 0.3
    "bench": "python -m benchmarks.losses (or benchmarks.loading, benchmarks.step)",
    "bench losses": "python -m benchmarks.losses",
    "bench data": "python -m benchmarks.loading DATA",
    "bench step": "python -m benchmarks.step",
    "gates": "PYTHONPATH=tools python -m base_model gates",
    "base": "PYTHONPATH=tools python -m base_model OUT",
}


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command line and ends the process with its exit code."""
    _run_and_exit(_parse, "wholegrain", args)


def main_of(function: Callable[..., object], program: str) -> None:
    """:func:`main` for a program of ``benchmarks/`` or ``tools/``: one function, with the options, messages and exit codes of a command.

    Args:
        function: its annotations are the options.
        program: what is typed to run it, such as ``python -m benchmarks.losses``.
    """
    _run_and_exit(partial(bind, function, program), program, None)


def _run_and_exit(parse: Callable[[list[str]], partial[object]], program: str, args: Sequence[str] | None) -> None:
    arguments = list(sys.argv[1:] if args is None else args)
    if args is None:
        _quiet_libraries()
    call: partial[object] | None = None
    try:
        call = parse(arguments)
        code = _run(call)
        if sys.stdout is not None:  # as with >&-
            sys.stdout.flush()
    except BaseException as error:
        code = _failed(error, [*program.split(), *arguments], call)
    sys.exit(code)


def _failed(error: BaseException, command: Sequence[str], call: partial[object] | None) -> int:
    """Says in one sentence what ended the command; gives the exit code."""
    if isinstance(error, BrokenPipeError) and _reader_left():
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python complains once more at its end
        return 141
    if isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError):  # rich's own way of doing that
        return 141
    if isinstance(error, SystemExit) and (call is None or (isinstance(error.code, int) and error.code)):
        return error.code if isinstance(error.code, int) else 0  # --help, or a signal that training obeyed
    if isinstance(error, UserError | MachineError):
        return _tell(error, 2 if isinstance(error, UserError) else 1)
    if isinstance(error, KeyboardInterrupt):
        return _tell("Interrupted.", 130)
    found = foreseen(error, lambda: 0 if call is None else batch_of(_given(call)))
    return _tell(*found) if found is not None else _tell(unforeseen(error, command), UNFORESEEN)


def _reader_left() -> bool:
    """Whether nobody reads our output any more, as with ``| head``."""
    with suppress(OSError, ValueError, AttributeError):
        poll = select.poll()
        poll.register(1, 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    return False


def _given(call: partial[object]) -> dict[str, object]:
    """The command's arguments by name."""
    bound = signature(call.func).bind(*call.args, **call.keywords)
    bound.apply_defaults()
    values = list(bound.arguments.values())
    return vars(values[0]) if len(values) == 1 and is_dataclass(values[0]) else bound.arguments


def _quiet_libraries() -> None:
    """Warnings of libraries are for their programmers; with ``WHOLEGRAIN_DEBUG`` or ``-W`` they are shown."""
    if os.environ.get("WHOLEGRAIN_DEBUG", "0") not in ("", "0") or sys.warnoptions:
        return
    warnings.simplefilter("ignore")
    logging.getLogger().addHandler(logging.NullHandler())  # else what open_clip logs goes to standard error
    for name, value in {"PYTHONWARNINGS": "ignore", "TORCH_CPP_LOG_LEVEL": "ERROR", "TRANSFORMERS_VERBOSITY": "error"}.items():
        os.environ.setdefault(name, value)
    for stream in (sys.stdout, sys.stderr):
        with suppress(ValueError):
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")


def _parse(arguments: list[str]) -> partial[object]:
    """The call that the command line asks for."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        return partial(print, _overview())
    if arguments[0] in ("-V", "--version"):
        from importlib.metadata import version

        return partial(print, f"wholegrain {version('wholegrain')}")
    name, *rest = arguments
    if name.startswith("-"):
        raise UserError(f"There is no option {name} before a command; write: wholegrain COMMAND {name} ...")
    if name in MOVED:
        old = next(old for old in (" ".join(arguments[:2]), name) if old in MOVED)
        raise UserError(f"wholegrain {old} is for developers and has left the package; in a checkout of its source: {MOVED[old]}")
    if name not in COMMANDS:
        raise UserError(f'There is no command "{name}"; {closest(name, COMMANDS)}')
    return bind(function_of(name), f"wholegrain {name}", rest)


def _run(call: partial[object]) -> int:
    from wholegrain.training.memory.malloc import keep_freed_memory

    keep_freed_memory()
    result = call()
    return result if isinstance(result, int) else 0


def function_of(name: str) -> Callable[..., object]:
    """The function of a command."""
    return getattr(importlib.import_module(f"wholegrain.cli.{name}"), name)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    groups = ([f"{group}:", *(f"  {name:{width}}  {said}" for name, said in its.items()), ""] for group, its in GROUPS.items())
    return "\n".join(
        [
            "Wholegrain trains, tests and explains CLIP models that see the whole and the grain.",
            "",
            "usage: wholegrain COMMAND ...        (wholegrain COMMAND --help says more)",
            "",
            *(line for lines in groups for line in lines),
            "Begin with: wholegrain demo",
        ]
    )


def _tell(said: object, code: int) -> int:
    number = rank(os.environ)
    with suppress(OSError, ValueError):  # nobody reads
        print(f"wholegrain{'' if number is None else f' (rank {number})'}: {one_line(str(said))}", file=sys.stderr, flush=True)
    return code
