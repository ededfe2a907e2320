"""From the name of a loss and its settings to the loss itself."""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

from wholegrain.errors import UserError
from wholegrain.losses.contract import NEEDS, Loss
from wholegrain.objectives.ranges import SETTING_RANGES
from wholegrain.objectives.schema import Term, closest
from wholegrain.structure import StructureError, structure


def resolve_loss(term: Term) -> Loss:
    """The loss that a term names, built with the term's settings.

    ``ce_rank`` is ``CeRankLoss`` of ``wholegrain.losses.ce_rank``. ``module:attribute`` is imported, with the current folder on
    the path, and ``file.py:attribute`` is read from that file; either **runs that code**.

    Raises:
        UserError: no such loss, an unknown or impossible setting, or something that does not keep the contract.
    """
    kind: Any = _outside(term) if ":" in term.loss else _packaged(term)
    names = _settings(kind)
    for key in term.settings:
        if names is not None and key not in names:
            raise UserError(f'The loss "{term.loss}" of term "{term.name}" has no setting "{key}": {closest(key, names)}')
    try:
        loss: Any = kind(**_typed(kind, term.settings))
    except (TypeError, ValueError) as problem:
        raise UserError(f'The settings of term "{term.name}" do not fit the loss "{term.loss}": {problem}.') from None
    needs = getattr(loss, "needs", None)
    fine = callable(loss) and isinstance(needs, (frozenset, set)) and needs <= NEEDS
    if not fine:
        raise UserError(
            f'"{term.loss}" of term "{term.name}" is not a loss: it must be callable and have "needs", a set out of '
            f"{', '.join(sorted(NEEDS))}; see wholegrain.losses.contract."
        )
    return cast(Loss, loss)


def _settings(kind: Any) -> list[str] | None:
    """The settings that a loss has; ``None`` if it is no dataclass, and then cannot be asked."""
    return [f.name for f in fields(kind)] if is_dataclass(kind) else None


def _typed(kind: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in the types of a loss's dataclass, as far as these are plain ones.

    Raises:
        StructureError: names the first setting that is not of its type.
    """
    try:
        hints = get_type_hints(kind) if is_dataclass(kind) else {}
    except (NameError, TypeError):  # of a user's own loss
        hints = {}
    typed, ours = {}, str(getattr(kind, "__module__", "")).startswith("wholegrain.losses.")
    for name, value in settings.items():
        if name in hints and _plain(hints[name]):
            typed[name] = structure({name: value}, dict[str, hints[name]])[name]
        else:
            typed[name] = tuple(value) if isinstance(value, list) else value
        least, most = SETTING_RANGES.get(name, (-math.inf, math.inf))
        if ours and isinstance(value, int | float) and not least <= value <= most:
            raise StructureError(f"{name} is {value}; it must be from {least} to {most:,}")
    return typed


def _plain(hint: Any) -> bool:
    inner = get_args(hint)
    return hint in (int, float, bool, str, type(None), Ellipsis) or get_origin(hint) is Literal or (bool(inner) and all(map(_plain, inner)))


def _packaged(term: Term) -> Any:
    folder = Path(importlib.import_module("wholegrain.losses").__path__[0])
    known = sorted(file.stem for file in folder.glob("[a-z]*.py") if _class_name(file.stem) in file.read_text(encoding="utf-8"))
    if term.loss not in known:
        raise UserError(f'There is no loss "{term.loss}" (term "{term.name}"): {closest(term.loss, known)}')
    return getattr(importlib.import_module(f"wholegrain.losses.{term.loss}"), _class_name(term.loss))


def _class_name(stem: str) -> str:
    return "".join(part.capitalize() for part in stem.split("_")) + "Loss"


def _outside(term: Term) -> Any:
    place, _, attribute = term.loss.rpartition(":")
    try:
        module = _from_file(Path(place)) if place.endswith(".py") else _from_path(place)
    except (ImportError, OSError) as problem:
        raise UserError(
            f'"{place}" of term "{term.name}" cannot be imported ({problem}); check the name and the folder.'
        ) from None
    if not hasattr(module, attribute):
        raise UserError(f'"{place}" has no "{attribute}" (term "{term.name}"); name a class that it defines.')
    return getattr(module, attribute)


def _from_path(name: str) -> Any:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(here)


def _from_file(path: Path) -> Any:
    name = f"wholegrain_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError("not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module
