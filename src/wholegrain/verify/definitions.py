"""The losses of the package: which there are, their variants, and what ``verify/losses`` knows of each.

``verify/losses/NAME.py`` belongs to ``losses/NAME.py`` and is found by its name. It has::

    VARIANTS: dict[str, NameLoss]                     # the settings under which the loss is verified, so that every setting is met
    def reference(loss, x: Samples) -> Tensor         # the loss of the whole batch in loops; or (Tensor, next state)
    def closed_forms(loss) -> Iterator[ClosedForm]    # problems that can be solved on paper
    def known_breaks(loss) -> dict[str, str]          # optional: check -> why it cannot hold: variants kept to reproduce what others
                                                      # released, and what is so by design. Exactly these checks must fail
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

from torch import Tensor

import wholegrain.verify.losses
from wholegrain.losses.core.contract import Loss, State
from wholegrain.objectives.resolve import class_name
from wholegrain.verify.cases import Batch
from wholegrain.verify.closed_form import ClosedForm
from wholegrain.verify.reference import Samples


def _no_breaks(loss: object) -> dict[str, str]:
    return {}


@dataclass(frozen=True)
class Definition:
    """What a file of ``verify/losses`` says of its loss; see the module docstring."""

    variants: Mapping[str, Loss]
    reference: Callable[[object, Samples], Tensor | tuple[Tensor, State]]
    closed_forms: Callable[[object], Iterable[ClosedForm]]
    known_breaks: Callable[[object], dict[str, str]] = _no_breaks


def defined() -> list[str]:
    """The packaged losses that have a definition."""
    return sorted(file.stem for file in Path(wholegrain.verify.losses.__path__[0]).glob("[a-z]*.py"))


def definition_named(name: str) -> Definition:
    """The definition of a packaged loss.

    Example:
        >>> list(definition_named("diversity").variants)
        ['diversity', 'diversity-idle']
    """
    module = importlib.import_module(f"wholegrain.verify.losses.{name}")
    return Definition(module.VARIANTS, module.reference, module.closed_forms, getattr(module, "known_breaks", _no_breaks))


def definition_of(loss: object) -> Definition | None:
    """The definition of a loss, or of a class of losses, if it is a packaged one; not of what derives from it."""
    kind = loss if isinstance(loss, type) else type(loss)
    room, _, name = kind.__module__.rpartition(".")
    fits = room == "wholegrain.losses" and name in defined() and kind.__name__ == class_name(name)
    return definition_named(name) if fits else None


def reference_value(loss: object, batch: Batch, scale: Tensor, bias: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
    """A packaged loss of a whole batch by its loops, and the next state."""
    known = definition_of(loss)
    assert known is not None
    found = known.reference(loss, Samples(batch, scale, bias, state))
    return found if isinstance(found, tuple) else (found, None)


def settings_of(loss: object) -> dict[str, object]:
    """The fewest settings that make this loss: those that are not their defaults and do not follow from the others."""
    if not is_dataclass(loss):
        return {}
    kind: object = type(loss)
    found = {f.name: value for f in fields(loss) if (value := getattr(loss, f.name)) != _default(f)}
    for name in list(found):
        fewer = {key: value for key, value in found.items() if key != name}
        found = fewer if kind(**fewer) == loss else found
    return found


def label(name: str, settings: Mapping[str, object]) -> str:
    """``imc variant=released``."""

    def short(value: object) -> str:
        return ",".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value).lower()

    return " ".join([name, *(f"{key}={short(value)}" for key, value in settings.items())])


def variant_settings(kind: type) -> list[dict[str, object]]:
    """The settings under which losses of a class are verified; the defaults come first.

    Chosen by hand where there is a definition, so that every setting is met; else every choice (a ``Literal`` or bool) is changed once.
    """
    known = definition_of(kind)
    chosen = [settings_of(loss) for loss in known.variants.values()] if known else list(_one_at_a_time(kind))
    return [{}, *(settings for settings in chosen if settings)]


def _one_at_a_time(kind: type) -> Iterator[dict[str, object]]:
    if not is_dataclass(kind):
        return
    hints = get_type_hints(kind)
    for f in fields(kind):
        hint = hints[f.name]
        choices = get_args(hint) if get_origin(hint) is Literal else (True, False) if hint is bool else ()
        for choice in choices:
            if choice != _default(f) and _default(f) is not MISSING:
                yield {f.name: choice}


def _default(f: Field[object]) -> object:
    return f.default_factory() if f.default is MISSING and f.default_factory is not MISSING else f.default
