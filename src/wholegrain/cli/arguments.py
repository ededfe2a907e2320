"""The words behind a command's name: parsed by tyro, or one sentence about what is wrong with them."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Annotated, get_args, get_origin

from wholegrain.errors import UserError
from wholegrain.suggest import closest, nearest

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def bind(function: Callable[..., object], program: str, arguments: Sequence[str]) -> partial[object]:
    """The call of a command's function that its arguments ask for; nothing of it has run yet.

    Args:
        program: the words before the arguments, such as ``wholegrain train``.

    Raises:
        UserError: an unknown option, a wrong or missing value.
        SystemExit: ``--help`` was printed.
    """
    import tyro

    options = _options_type(function)
    makes = options or function
    rest, overrides = list(arguments), {}
    if "overrides" in inspect.signature(makes).parameters:
        rest, dotted = split_overrides(arguments)
        overrides = {"overrides": tuple(dotted)}
    parameters = _described(options_of(function))
    terminal = sys.stdout is not None and sys.stdout.isatty()
    said, shown = _Output(), _Output(getattr(sys.stdout, "encoding", None), terminal)
    try:
        with redirect_stderr(said), redirect_stdout(shown):
            return tyro.cli(_parsed(function, parameters, overrides), args=rest, prog=program)
    except SystemExit as stop:
        if not stop.code:
            print(_wrapped(shown.getvalue()), end="")
            raise
    raise UserError(f"{_what_is_wrong(said.getvalue(), program, parameters, rest)} (see: {program} --help)")


def options_of(function: Callable[..., object]) -> list[inspect.Parameter]:
    """A command's words and options, without its dotted ones; annotations are types, not their names."""
    parameters = inspect.signature(_options_type(function) or function, eval_str=True).parameters.values()
    return [parameter for parameter in parameters if parameter.name != "overrides"]


def _options_type(function: Callable[..., object]) -> type | None:
    """The dataclass whose fields are a command's words and options; ``None`` for one that takes them as parameters."""
    parameters = list(inspect.signature(function, eval_str=True).parameters.values())
    alone = parameters[0].annotation if len(parameters) == 1 else None
    return alone if isinstance(alone, type) and dataclasses.is_dataclass(alone) else None


def _help(function: Callable[..., object]) -> str:
    """The docstring of a command, with that of its options."""
    text, options = inspect.cleandoc(function.__doc__ or ""), _options_type(function)
    if options is None:
        return text
    said = [kind.__dict__.get("__doc__") or "" for kind in options.__mro__ if dataclasses.is_dataclass(kind)]  # its own options first
    return f"{text}\n\nArgs:\n" + "\n".join(inspect.cleandoc(doc).partition("Attributes:\n")[2] for doc in said)


def _parsed(
    function: Callable[..., object], parameters: Sequence[inspect.Parameter], overrides: Mapping[str, object]
) -> Callable[..., partial[object]]:
    """What tyro calls in the place of the function."""

    options = _options_type(function)

    def called(*args: object, **kwargs: object) -> partial[object]:
        if options is not None:
            return partial(function, options(*args, **kwargs, **overrides))
        return partial(function, *args, **kwargs, **overrides)

    called.__dict__["__signature__"] = inspect.Signature(list(parameters))
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    called.__doc__ = re.sub(r"\n {8,}(?=\S)", " ", _help(function))  # tyro would break the line there
    called.__name__ = function.__name__
    return called


class _Output(StringIO):
    """Keeps what tyro prints, drawn as for a terminal or file of that encoding."""

    def __init__(self, encoding: str | None = "utf-8", terminal: bool = False) -> None:
        super().__init__()
        self._encoding, self._terminal = encoding, terminal

    @property
    def encoding(self) -> str:
        return self._encoding or "utf-8"

    def isatty(self) -> bool:
        return self._terminal


def _wrapped(shown: str, width: int = 80) -> str:
    """A help text whose long lines, which are those above tyro's boxes, are wrapped; examples of commands stay commands."""
    lines = []
    for line in shown.splitlines():
        if len(line) <= width or "│" in line:
            lines.append(line)
            continue
        example = line.startswith(("wholegrain ", "python -m ", "PYTHONPATH="))
        parts = textwrap.wrap(
            line, width - 2, subsequent_indent="    " if example else "", break_long_words=False, break_on_hyphens=False
        )
        lines.append((" \\\n" if example else "\n").join(parts))
    return "\n".join(lines) + "\n"


def _described(parameters: Sequence[inspect.Parameter]) -> list[inspect.Parameter]:
    """As tyro is to show them: words without a dash are called by their name, and nothing is said of a default that is nothing."""
    import tyro

    found = []
    for parameter in parameters:
        kind: object = parameter.annotation
        alone = [part for part in get_args(kind) if part is not type(None)]
        if is_word(parameter):
            several = Ellipsis in get_args(get_args(kind)[0])
            optional = several or parameter.default is not parameter.empty
            word = f"{shown(parameter)} ..." if several else shown(parameter)
            kind = Annotated[kind, tyro.conf.arg(metavar=f"[{word}]" if optional else word)]
            if optional:
                kind = Annotated[kind, tyro.conf.arg(help_behavior_hint="")]
        elif type(None) in get_args(kind) and alone[0] in (int, float, str, Path):
            kind = Annotated[kind, tyro.conf.arg(metavar=alone[0].__name__.upper())]
        if parameter.default in (None, (), "") or parameter.default is False:
            kind = Annotated[kind, tyro.conf.arg(help_behavior_hint="")]
        found.append(parameter.replace(annotation=kind))
    return found


def is_word(parameter: inspect.Parameter) -> bool:
    """Whether it is given without an option's dashes."""
    import tyro

    marks = get_args(parameter.annotation)[1:] if get_origin(parameter.annotation) is Annotated else ()
    return get_args(tyro.conf.Positional[int])[1] in marks


def shown(parameter: inspect.Parameter) -> str:
    """How it is written: ``RECIPE``, or ``--data``."""
    return parameter.name.upper() if is_word(parameter) else "--" + parameter.name.replace("_", "-")


def _what_is_wrong(said: str, program: str, parameters: Sequence[inspect.Parameter], arguments: Sequence[str]) -> str:
    """The sentence, without its end, out of the box that tyro drew."""
    drawn = [line for line in said.splitlines() if not re.search("─|-{8}", line)]
    lines = [" ".join(_COLOUR.sub("", line).replace("│", " ").split()) for line in drawn]
    text = " ".join(filter(None, lines))
    options = [option for parameter in parameters if not is_word(parameter) for option in _spellings(parameter)]
    if "nrecognized" in said:
        unknown = next((word for word in arguments if word.startswith("--") and _plain(word) not in options), "")
        if unknown:
            wrong = unknown.partition("=")[0]
            near = nearest(wrong, options)
            return f"{program} has no option {wrong}" + (f"; did you mean {near[0]}?" if near else "")
        surplus = re.search(r"Unrecognized options: (.*?)(?:,| For full|$)", text)
        if surplus:
            takes = " ".join(shown(parameter) for parameter in parameters if is_word(parameter)) or "no word"
            return f'"{surplus[1]}" is one word too many: {program} takes {takes}, and options'
    missing = [shown(p) for p in parameters if p.default is p.empty and any(_begins(line, shown(p)) for line in lines)]
    if "Missing from" in text and missing:
        return f"{program} needs {' and '.join(missing)}"
    wrong = next((p for p in parameters if not is_word(p) and re.search(rf"{shown(p)}(?![\w-])", text)), None)
    if wrong is not None:
        given = re.search(r"from \[(.*?)\]|choice '(.*?)' for", text)
        return f"{shown(wrong)} {_misfit(wrong, '' if given is None else given[1] or given[2] or '')}"
    return text.partition(" For full helptext")[0].rstrip(".")


def _misfit(parameter: inspect.Parameter, given: str) -> str:
    kind = parameter.annotation
    choices = [str(choice) for choice in get_args(kind) if isinstance(choice, str)]
    value = given.strip("'")
    if choices and value:
        return f'is not "{value}": {closest(value, choices).rstrip(".")}'
    wanted = " or ".join(choices) or _words(kind)
    return f"needs {wanted}" + (f", not {given}" if given else "")


def _words(kind: object) -> str:
    """A type in plain words."""
    simple = {int: "a whole number", float: "a number", bool: "True or False"}
    if kind in simple:
        return simple[kind]
    inner = [part for part in get_args(kind) if part is not type(None) and part is not Ellipsis]
    if get_origin(kind) is tuple and Ellipsis not in get_args(kind):
        return f"{len(inner)} values"
    numbers = [simple[part] for part in inner if part in simple]
    return numbers[0] if numbers else _words(inner[0]) if inner and get_args(inner[0]) else "a value"


def _begins(line: str, word: str) -> bool:
    return line == word or line.startswith(f"{word} ") or line.startswith(f"[{word}")


def _spellings(parameter: inspect.Parameter) -> list[str]:
    own = shown(parameter)
    return [own, f"--no-{own[2:]}"] if parameter.annotation is bool else [own]


def _plain(option: str) -> str:
    return option.partition("=")[0].replace("_", "-")


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
