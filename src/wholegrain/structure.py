"""Plain values (of JSON, TOML) as values of stated types, or one sentence that says which value is wrong and why.

cattrs converts by calling: ``int(1.5)`` is 1 and ``bool("false")`` is True. Here a file means what it says, so types must match; a whole
number may stand where a number is asked for. Unknown keys of a dataclass are refused, those of a ``TypedDict`` are left in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import partial
from types import UnionType
from typing import Any, Literal, NotRequired, Required, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

import cattrs

from wholegrain.suggest import nearest

Kind = TypeVar("Kind")
JsonTable = dict[str, Any]
"""A table of JSON or TOML whose keys only its reader knows."""


class StructureError(ValueError):
    """Values are not of the stated type. The text is the middle of a sentence, such as ``has no key "step"``."""


def structure(value: object, kind: type[Kind], converter: cattrs.Converter | None = None) -> Kind:
    """A plain value as a value of a type.

    Args:
        value: as ``json.loads`` or ``tomllib.loads`` gives it.
        kind: a dataclass, a ``TypedDict``, ``dict[str, int]``, ``list[float]``, ``int | None``, ...

    Raises:
        StructureError: names the first key that is wrong, and what is wrong there.

    Example:
        >>> structure({"a": [1, 2]}, dict[str, list[int]])
        {'a': [1, 2]}
        >>> structure({"a": [1, "2"]}, dict[str, list[int]])
        Traceback (most recent call last):
        wholegrain.structure.StructureError: has a wrong value at "a.1": '2' is not a whole number
    """
    try:
        return (converter or CONVERTER).structure(value, kind)
    except RecursionError:
        raise StructureError("is nested too deeply") from None
    except Exception as problem:  # cattrs lets through whatever a constructor raises
        raise StructureError(_sentence(problem)) from None


def _strict(kind: type, accepted: tuple[type, ...], called: str) -> Callable[[object, object], object]:
    def structure_hook(value: object, _: object) -> object:
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            raise TypeError(f"{_short(value)} is not {called}")
        try:
            return kind(value)
        except OverflowError:
            raise TypeError(f"{_short(value)} is too large") from None

    return structure_hook


def make_converter() -> cattrs.Converter:
    """A converter that takes types at their word, for :func:`structure` and for readers with hooks of their own."""
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)
    converter.register_structure_hook(int, _strict(int, (int,), "a whole number"))
    converter.register_structure_hook(float, _strict(float, (int, float), "a number"))
    converter.register_structure_hook(bool, _strict(bool, (bool,), "true or false"))
    converter.register_structure_hook(str, _strict(str, (str,), "a text"))
    converter.register_structure_hook_func(lambda kind: get_origin(kind) is Literal, _of_choice)
    converter.register_structure_hook_func(_of_several, partial(_of_union, converter))
    converter.register_structure_hook_func(lambda kind: get_origin(kind) in (tuple, list), partial(_of_list, converter))
    converter.register_structure_hook_func(lambda kind: kind is dict or get_origin(kind) is dict, partial(_of_table, converter))
    converter.register_structure_hook_func(is_typeddict, partial(_of_typed_dict, converter))
    converter.register_structure_hook_func(lambda kind: kind in (Any, object), lambda value, _: value)
    factory = cattrs.gen.make_dict_structure_fn

    def of_dataclass(kind: type) -> Callable[[object, object], object]:
        made = factory(kind, converter, _cattrs_forbid_extra_keys=True, _cattrs_detailed_validation=True)

        def of_object(value: object, _: object) -> object:
            if not isinstance(value, dict):
                raise TypeError(f"{_short(value)} is not a table")
            return made(value, kind)

        return of_object

    converter.register_structure_hook_factory(lambda kind: isinstance(kind, type) and is_dataclass(kind), of_dataclass)
    return converter


def _of_list(converter: cattrs.Converter, value: object, kind: type) -> object:
    if not isinstance(value, list):
        raise TypeError(f"{_short(value)} is not a list")
    inner = get_args(kind)
    fixed = get_origin(kind) is tuple and inner[-1] is not Ellipsis
    if fixed and len(value) != len(inner):
        raise TypeError(f"{_short(value)} does not have {len(inner)} items")
    kinds = inner if fixed else (inner[0],) * len(value)
    made = _each(enumerate(value), kinds, converter)
    return tuple(made) if get_origin(kind) is tuple else made


def _of_table(converter: cattrs.Converter, value: object, kind: type) -> object:
    if not isinstance(value, dict):
        raise TypeError(f"{_short(value)} is not a table")
    if kind is dict:
        return value
    key, inner = get_args(kind)
    if key is str and (odd := next((name for name in value if not isinstance(name, str)), None)) is not None:
        raise TypeError(f"the key {odd!r} is not a text")
    return dict(zip(value, _each(value.items(), (inner,) * len(value), converter), strict=True))


def _of_typed_dict(converter: cattrs.Converter, value: object, kind: type) -> object:
    if not isinstance(value, dict):
        raise TypeError(f"{_short(value)} is not a table")
    hints = get_type_hints(kind, include_extras=True)
    for name in sorted(vars(kind)["__required_keys__"] - value.keys()):
        if get_origin(hints[name]) is not NotRequired:  # annotations that are texts do not tell the class itself
            raise _MissingError(name)
    known = {name: _bare(hint) for name, hint in hints.items() if name in value}
    return {**value, **dict(zip(known, _each(((n, value[n]) for n in known), tuple(known.values()), converter), strict=True))}


def _of_choice(value: object, kind: type) -> object:
    if not any(value == choice and type(value) is type(choice) for choice in get_args(kind)):
        near = nearest(str(value), [str(choice) for choice in get_args(kind)])
        meant = f' (did you mean "{near[0]}"?)' if near else ""
        raise TypeError(f"{_short(value)} is not one of {', '.join(map(str, get_args(kind)))}{meant}")
    return value


def _of_union(converter: cattrs.Converter, value: object, kind: type) -> object:
    if value is None and type(None) in get_args(kind):
        return None
    for one in get_args(kind):
        with suppress(Exception):
            return converter.structure(value, one)
    raise TypeError(f"{_short(value)} is none of {', '.join(getattr(one, '__name__', str(one)) for one in get_args(kind))}")


class _AtError(Exception):
    """Something is wrong at a key or place of a table or list."""

    def __init__(self, at: str, problem: Exception) -> None:
        self.at, self.problem = at, problem


class _MissingError(Exception):
    """A key is missing."""


def _each(items: Iterable[tuple[object, object]], kinds: Sequence[type], converter: cattrs.Converter) -> list[object]:
    made = []
    for (at, item), kind in zip(items, kinds, strict=True):
        try:
            made.append(converter.structure(item, kind))
        except Exception as problem:
            raise _AtError(str(at), problem) from None
    return made


def _of_several(kind: object) -> bool:
    """A union of more than one type and ``None``, which cattrs serves itself."""
    return get_origin(kind) in (Union, UnionType) and len(set(get_args(kind)) - {type(None)}) > 1


def _bare(hint: type) -> type:
    return get_args(hint)[0] if get_origin(hint) in (NotRequired, Required) else hint


def _sentence(problem: BaseException) -> str:
    """The first problem, as the middle of a sentence."""
    path: list[str] = []
    while True:
        if isinstance(problem, _AtError):
            path.append(problem.at)
            problem = problem.problem
        elif isinstance(problem, BaseExceptionGroup):
            problem = problem.exceptions[0]
            path += [note.name for note in getattr(problem, "__notes__", []) if isinstance(note, cattrs.AttributeValidationNote)]
        else:
            break
    dotted = ".".join(path)
    within = f' at "{dotted}"' if dotted else ""
    if isinstance(problem, cattrs.ForbiddenExtraKeysError):
        wrong = sorted(map(str, problem.extra_fields))[0]
        near = nearest(wrong, [f.name for f in fields(problem.cl)])
        known = sorted(f.name for f in fields(problem.cl))
        meant = f' (did you mean "{near[0]}"?)' if near else f" (there {'is' if len(known) == 1 else 'are'} {', '.join(known)})"
        return f'has an unknown key "{".".join([*path, wrong])}"{meant}'
    if isinstance(problem, _MissingError):
        return f'has no key "{".".join([*path, str(problem)])}"'
    if isinstance(problem, KeyError) and path:  # cattrs' own: the path ends with the missing key already
        return f'has no key "{dotted}"'
    text = str(problem).rstrip(".") or type(problem).__name__
    return f"has a wrong value{within}: {text}"


def _short(value: object) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


CONVERTER = make_converter()
