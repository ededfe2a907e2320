"""From the name of a loss and its settings to the loss itself."""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal, cast, get_args, get_origin, get_type_hints

import wholegrain.losses
from wholegrain.errors import UserError
from wholegrain.losses.core.contract import NEEDS, Loss
from wholegrain.objectives.schema import Term
from wholegrain.structure import StructureError, structure
from wholegrain.suggest import closest


def resolve_loss(term: Term) -> Loss:
    """The loss that a term names, built with the term's settings.

    ``own_negatives`` is ``OwnNegativesLoss`` of ``wholegrain.losses.own_negatives``. ``module:attribute`` is imported, with the current folder on
    the path, and ``file.py:attribute`` is read from that file; either **runs that code**.

    Raises:
        UserError: no such loss, an unknown or impossible setting, or something that does not keep the contract.
    """
    kind = _outside(term) if ":" in term.loss else _packaged(term)
    names = _settings(kind)
    for key in term.settings:
        if names is not None and key not in names:
            raise UserError(f'The loss "{term.loss}" of term "{term.name}" has no setting "{key}": {closest(key, names)}')
    try:
        loss = kind(**_typed(kind, term.settings))
        needs = getattr(loss, "needs", None)
    except (TypeError, ValueError) as problem:
        raise UserError(f'The settings of term "{term.name}" do not fit the loss "{term.loss}": {_in_a_line(problem)}.') from None
    except KeyboardInterrupt:
        raise
    except BaseException as problem:  # SystemExit, too: a file of the user's does not end the command
        where = _where(problem, term.loss.rpartition(":")[0])
        raise UserError(f'The loss "{term.loss}" of term "{term.name}" cannot be made: {where} {_raised(problem)}.') from None
    fine = callable(loss) and isinstance(needs, (frozenset, set)) and needs <= NEEDS
    if not fine:
        raise UserError(
            f'"{term.loss}" of term "{term.name}" is not a loss: it must be callable and have "needs", a set out of '
            f"{', '.join(sorted(NEEDS))}; see wholegrain.losses.core.contract."
        )
    return cast(Loss, loss)


def _settings(kind: Callable[..., object]) -> list[str] | None:
    """The settings that a loss has; ``None`` if it is no dataclass, and then cannot be asked."""
    return [f.name for f in fields(kind)] if is_dataclass(kind) else None


def _typed(kind: Callable[..., object], settings: Mapping[str, object]) -> dict[str, object]:
    """Settings in the types of a loss's dataclass, as far as these are plain ones, and within its ``ranges``.

    Raises:
        StructureError: names the first setting that is not of its type, or out of its range.
    """
    try:
        hints = get_type_hints(kind) if is_dataclass(kind) else {}
    except (NameError, TypeError):  # of a user's own loss
        hints = {}
    typed: dict[str, object] = {}
    ranges: Mapping[str, tuple[float, float]] = getattr(kind, "ranges", {})
    for name, value in settings.items():
        if name in hints and _plain(hints[name]):
            typed[name] = structure({name: _as_list(value)}, dict[str, hints[name]])[name]
        else:
            typed[name] = tuple(cast(list[object], value)) if isinstance(value, list) else value
        least, most = ranges.get(name, (-math.inf, math.inf))
        if isinstance(value, int | float) and not least <= value <= most:
            raise StructureError(f"{name} is {value}; it must be from {least} to {most:,}")
    return typed


def _as_list(value: object) -> object:
    """Tuples as TOML has them, so that terms may be written in Python, too."""
    return [_as_list(item) for item in cast(Sequence[object], value)] if isinstance(value, tuple | list) else value


def _plain(hint: object) -> bool:
    inner = get_args(hint)
    return hint in (int, float, bool, str, type(None), Ellipsis) or get_origin(hint) is Literal or (bool(inner) and all(map(_plain, inner)))


def packaged() -> list[str]:
    """The names of all losses of the package, in the alphabet's order: the files of ``losses/``."""
    return sorted(file.stem for file in Path(wholegrain.losses.__path__[0]).glob("[a-z]*.py"))


def class_name(name: str) -> str:
    """``own_negatives`` -> ``OwnNegativesLoss``."""
    return "".join(part.capitalize() for part in name.split("_")) + "Loss"


def _packaged(term: Term) -> Callable[..., object]:
    if term.loss not in packaged():
        raise UserError(f'There is no loss "{term.loss}" (term "{term.name}"): {closest(term.loss, packaged())}')
    return getattr(importlib.import_module(f"wholegrain.losses.{term.loss}"), class_name(term.loss))


def _outside(term: Term) -> Callable[..., object]:
    source, _, attribute = term.loss.rpartition(":")
    is_file = source.endswith(".py")
    if is_file and not Path(source).is_file():
        raise UserError(f'There is no file "{source}" (term "{term.name}"); check the name and the folder.')
    try:
        module = _from_file(Path(source)) if is_file else _from_path(source)
    except KeyboardInterrupt:
        raise
    except BaseException as problem:
        if isinstance(problem, ModuleNotFoundError) and not is_file and f"{source}.".startswith(f"{problem.name}."):
            raise UserError(f'There is no module "{source}" (term "{term.name}"); check the name and the folder.') from None
        where = _where(problem, source)
        raise UserError(
            f'"{source}" of term "{term.name}" cannot be imported: {where} {_raised(problem)}; mend it there.'
        ) from None
    if not hasattr(module, attribute):
        here = [name for name, x in vars(module).items() if isinstance(x, type) and x.__module__ == module.__name__]
        hint = closest(attribute, here) if here else "it defines no class; write one there, or name another file."
        raise UserError(f'"{source}" has no "{attribute}" (term "{term.name}"): {hint}')
    return getattr(module, attribute)


def _where(problem: BaseException, source: str) -> str:
    """``my.py line 7``: the innermost line of the user's own file, or of what could not be read."""
    if isinstance(problem, SyntaxError) and problem.filename:
        return f"{problem.filename} line {problem.lineno or 1}"
    own = source.endswith(".py") and Path(source).resolve()
    lines = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(problem.__traceback__)]
    inside = [(name, line) for name, line in lines if own and Path(name).resolve() == own]
    outside = [(name, line) for name, line in lines if name != __file__ and "importlib" not in name]
    found = inside or outside
    return f"{found[-1][0]} line {found[-1][1]}" if found else source


def _raised(problem: BaseException) -> str:
    if isinstance(problem, SystemExit):
        return f"calls exit({_in_a_line(problem)})"
    if isinstance(problem, SyntaxError):
        return f"is not Python ({problem.msg})"
    said = _in_a_line(problem)
    return f"raises {type(problem).__name__}" + (f" ({said})" if said else "")


def _in_a_line(problem: BaseException) -> str:
    return " ".join(str(problem).split()).rstrip(".")


def _from_path(name: str) -> ModuleType:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(here)


def _from_file(path: Path) -> ModuleType:
    name = f"wholegrain_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError("not a Python file")
    module, before = importlib.util.module_from_spec(spec), sys.modules.get(name)
    sys.modules[name] = module  # dataclasses look their module up by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
        raise
    return module
