"""The command ``wholegrain``: finds the module of a subcommand, calls it, and turns errors into one sentence and an exit code.

A subcommand is the function in ``wholegrain.cli.NAME`` that is named like the module; its annotations are its options. Modules
are imported when they are called, so ``wholegrain --help`` is quick. A subcommand with a parameter ``overrides`` also takes
dotted options such as ``--optimiser.lr 1e-5``.

Exit codes: 0 done, 1 the machine failed, 2 the input cannot be used, 130 and 143 interrupted.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from wholegrain.errors import MachineError, UserError

COMMANDS = {
    "prepare": "turn any image-text source into one checked data set",
    "inspect": "show what is in a data set or a model",
    "enrich": "captions in roles and hard negatives for a data set",
    "doctor": "find what would ruin a run, before the first step",
    "scenes": "make pictures with known truth: objects, relations, negatives, twins",
    "train": "train or fine-tune a model by a recipe",
    "compete": "train several methods under equal conditions; one table",
    "interpolate": "a model between two: before and after fine-tuning",
    "export": "a model for open_clip, transformers, onnxruntime or the Hub",
    "evaluate": "measure a model: retrieval, composition, dense, with controls",
    "dense": "class names against pixels and boxes: segmentation, boxes, pointing",
    "audit": "what a model misses on your own photos and captions, without training",
    "compare": "models on the same items: paired differences, corrected p values",
    "report": "a self-contained HTML report of results and failures",
    "demo": "see a model fail, see why, see it repaired",
    "methods": "list the packaged recipes",
    "gates": "check that the scenes are what the comparison needs them to be",
    "verify": "is this loss right? ours, or your own",
    "bench": "measure what losses and loading cost on this machine",
    "base": "make the demo's base model anew",
}
GROUPS = {  # commands of two words: "bench data" is the function bench_data in cli/bench_data.py
    "bench": {
        "losses": "time and memory of the losses, against dense autograd and against CLIP's",
        "step": "a training step, beside open_clip's own trainer",
        "data": "images a second of the loader, beside bare decoding and open_clip's loaders",
    },
}


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command line and ends the process with its exit code."""
    arguments = list(sys.argv[1:] if args is None else args)
    try:
        code = _run(arguments)
    except UserError as error:
        code = _tell(error, 2)
    except MachineError as error:
        code = _tell(error, 1)
    except KeyboardInterrupt:
        code = _tell("Interrupted.", 130)
    except BrokenPipeError:  # the reader of our output has gone, as with "| head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        code = _tell(f"The disk is full ({error.filename or 'while writing'}); make room and start again.", 1)
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if arguments[0] in ("-V", "--version"):
        from importlib.metadata import version

        print(f"wholegrain {version('wholegrain')}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        kind = "option" if name.startswith("-") else "command"
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f'did you mean "{near[0]}"?' if near else f"there are {', '.join(COMMANDS)}."
        raise UserError(f'There is no {kind} "{name}"; {hint}')
    if name in GROUPS:
        if not rest or rest[0] not in GROUPS[name]:
            return _ask(name, rest)
        name, rest = f"{name}_{rest[0]}", rest[1:]
    from wholegrain.app.memory import keep_freed_memory

    keep_freed_memory()
    result = _call(_function(name), name.replace("_", " "), rest)
    return result if isinstance(result, int) else 0


def _ask(group: str, rest: list[str]) -> int:
    """The second word of a command is missing, or wrong."""
    if rest and rest[0] not in ("-h", "--help"):
        raise UserError(f'There is no "{group} {rest[0]}"; there are {", ".join(f"{group} {word}" for word in GROUPS[group])}.')
    print("\n".join(f"  wholegrain {group} {word:8}  {said}" for word, said in GROUPS[group].items()))
    return 0


def _function(name: str) -> Callable[..., Any]:
    """The function of a command."""
    return getattr(importlib.import_module(f"wholegrain.cli.{name}"), name)


def _call(function: Callable[..., Any], name: str, rest: list[str]) -> Any:
    import tyro

    if "overrides" in inspect.signature(function).parameters:
        rest, overrides = split_overrides(rest)
        return tyro.cli(_with(function, tuple(overrides)), args=rest, prog=f"wholegrain {name}")
    return tyro.cli(function, args=rest, prog=f"wholegrain {name}")


def _with(function: Callable[..., Any], overrides: tuple[str, ...]) -> Callable[..., Any]:
    """The function without its parameter ``overrides``, which is given."""
    signature = inspect.signature(function, eval_str=True)
    kept = [parameter for parameter in signature.parameters.values() if parameter.name != "overrides"]

    def called(*args: Any, **kwargs: Any) -> Any:
        return function(*args, overrides=overrides, **kwargs)

    called.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in kept}
    called.__doc__, called.__name__ = function.__doc__, function.__name__
    return called


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Takes dotted options and their values out of the arguments; one without a value, before another option or at the end, is true.

    Example:
        >>> split_overrides(["clip", "--optimiser.lr", "1e-5", "--data", "photos", "--data.crop_scale=[0.5, 1.0]"])
        (['clip', '--data', 'photos'], ['--optimiser.lr', '1e-5', '--data.crop_scale=[0.5, 1.0]'])
        >>> split_overrides(["--optimiser.recompute", "--data", "photos"])
        (['--data', 'photos'], ['--optimiser.recompute', 'true'])
    """
    rest: list[str] = []
    dotted: list[str] = []
    waiting = False
    for argument in arguments:
        if waiting and not argument.startswith("--"):
            dotted.append(argument)
            waiting = False
            continue
        if waiting:
            dotted.append("true")
            waiting = False
        if argument.startswith("--") and "." in argument.partition("=")[0]:
            dotted.append(argument)
            waiting = "=" not in argument
        else:
            rest.append(argument)
    return rest, [*dotted, "true"] if waiting else dotted


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {said}" for name, said in COMMANDS.items()]
    return "\n".join(
        [
            "Wholegrain trains, tests and explains CLIP models that see the whole and the grain.",
            "",
            "usage: wholegrain COMMAND ...        (wholegrain COMMAND --help says more)",
            "",
            *lines,
        ]
    )


def _tell(said: object, code: int) -> int:
    print(f"wholegrain: {said}", file=sys.stderr)
    return code
