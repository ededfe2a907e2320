"""A method as data: reading, checking, overriding and writing recipes; their fields are in :mod:`wholegrain.objectives.schema`.

A recipe comes from the package (``load_recipe("ce_clip")``), from a TOML file, or from a dict. Unknown keys and wrong types are
refused with the file, the key and the closest valid key; the command line overrides by the same dotted names::

    load_recipe("ce_clip", ["--optimiser.lr", "1e-5", "--data.negatives.count", "2", "--terms.cmr.weight", "0.3"])
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import cattrs
import tomli_w

from wholegrain.errors import UserError
from wholegrain.objectives.schema import (
    CaptionDraw,
    DataRecipe,
    ModelRecipe,
    NegativeDraw,
    Optimiser,
    Recipe,
    Saving,
    TeacherRecipe,
    Term,
    ViewDraw,
    closest,
    selects,
)

__all__ = [
    "CaptionDraw",
    "DataRecipe",
    "ModelRecipe",
    "NegativeDraw",
    "Optimiser",
    "Recipe",
    "Saving",
    "TeacherRecipe",
    "Term",
    "ViewDraw",
    "closest",
    "load_recipe",
    "recipe_names",
    "selects",
    "to_table",
    "to_toml",
]


def load_recipe(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from the package, a TOML file or a dict, with overrides.

    Args:
        source: the name of a packaged recipe (``scenes/NAME`` for one that names roles which only scenes have), the path of a ``.toml``
            file, or nested dicts.
        overrides: ``--dotted.key value`` as two items or ``--dotted.key=value`` as one. Values are TOML, or else plain text.

    Raises:
        UserError: no such recipe, a broken file, an unknown key, a value of the wrong type or out of range.

    Example:
        >>> load_recipe("clip", ["--optimiser.lr", "1e-5"]).optimiser.lr
        1e-05
    """
    table, place, name = _read(source)
    for key, value in _pairs(overrides):
        _override(table, key, value)
    try:
        recipe = _CONVERTER.structure(table, Recipe)
    except cattrs.BaseValidationError as problem:
        raise UserError(_sentence(problem, table, place)) from None
    return recipe if recipe.name else replace(recipe, name=name)


def recipe_names(folder: str = "") -> tuple[str, ...]:
    """The packaged recipes, sorted; with ``folder="scenes"`` those for scenes alone, as ``scenes/NAME``."""
    place = resources.files("wholegrain.recipes").joinpath(folder)
    names = [file.name.removesuffix(".toml") for file in place.iterdir() if file.name.endswith(".toml")]
    return tuple(sorted(f"{folder}/{name}" if folder else name for name in names))


def to_table(recipe: Recipe) -> dict[str, Any]:
    """The recipe as nested dicts and lists of plain values; ``load_recipe(to_table(recipe)) == recipe``."""
    return _CONVERTER.unstructure(recipe)


def to_toml(recipe: Recipe) -> str:
    """The resolved recipe, every default written out, as TOML that :func:`load_recipe` reads back."""
    return tomli_w.dumps(to_table(recipe))


# ---- reading ----------------------------------------------------------------------------------------------------------------


def _read(source: str | Path | Mapping[str, Any]) -> tuple[dict[str, Any], str, str]:
    """The raw table, where it comes from (for messages), and a name."""
    if isinstance(source, Mapping):
        return _copied(source), "the recipe", "recipe"
    text = str(source)
    path = Path(text)
    if not text.endswith(".toml"):
        known = recipe_names("scenes" if text.startswith("scenes/") else "")
        if text not in known:
            raise UserError(f'There is no packaged recipe "{text}"; {closest(text, known)} A file of your own ends in .toml.')
        path = Path(str(resources.files("wholegrain.recipes").joinpath(f"{text}.toml")))
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")), str(source), path.stem
    except OSError as problem:
        raise UserError(
            f"The recipe {path} cannot be read ({problem.strerror}); give a .toml file or a packaged recipe's name."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise UserError(f"The recipe {path} is not valid TOML: {problem}.") from None


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _pairs(overrides: Sequence[str]) -> list[tuple[str, str]]:
    pairs, rest = [], list(overrides)
    while rest:
        key, equals, value = rest.pop(0).partition("=")
        if not equals:
            if not rest:
                raise UserError(f"The override {key} has no value; write {key} VALUE.")
            value = rest.pop(0)
        pairs.append((key.removeprefix("--"), value))
    return pairs


def _override(table: dict[str, Any], dotted: str, text: str) -> None:
    """Sets one dotted key; ``terms.NAME.…`` finds the term of that name, ``captions.0.…`` counts."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *path, last = dotted.split(".")
    spot: Any = table
    for depth, part in enumerate(path):
        spot = _step_into(spot, part, ".".join(path[: depth + 1]))
    if not isinstance(spot, dict):
        raise UserError(f"The override --{dotted} does not name a value; give the dotted name of a single key.")
    spot[last.replace("-", "_")] = value


def _step_into(spot: Any, part: str, dotted: str) -> Any:
    if isinstance(spot, dict):
        inner = spot.setdefault(part, {})
        if isinstance(inner, (dict, list)):
            return inner
    if isinstance(spot, list):
        named = {str(place): item for place, item in enumerate(spot)}
        named |= {str(item.get("name") or item["loss"].rpartition(":")[2]): item for item in spot if "loss" in item}
        if part in named:
            return named[part]
        raise UserError(f"The override --{dotted} matches nothing; {closest(part, list(named))}")
    raise UserError(f"The override --{dotted} goes through a single value; give the dotted name of a key.")


# ---- checking ---------------------------------------------------------------------------------------------------------------


def _strict(kind: type, accepted: tuple[type, ...], called: str):
    """cattrs converts by calling: int(1.5) is 1 and bool("false") is True. A recipe says what it means, so types must match."""

    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            raise TypeError(f"{value!r} is not {called}")
        return kind(value)

    return structure


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)
    converter.register_structure_hook(int, _strict(int, (int,), "a whole number"))
    converter.register_structure_hook(float, _strict(float, (int, float), "a number"))
    converter.register_structure_hook(bool, _strict(bool, (bool,), "true or false"))
    converter.register_structure_hook(str, _strict(str, (str,), "a text"))
    converter.register_structure_hook_func(lambda kind: kind == dict[str, Any], _strict(dict, (dict,), "a table"))

    def from_list(value: Any, kind: Any) -> Any:
        if not isinstance(value, list):
            raise TypeError(f"{value!r} is not a list")
        inner = get_args(kind)
        if inner[-1] is not Ellipsis and len(value) != len(inner):
            raise TypeError(f"{value!r} does not have {len(inner)} items")
        return tuple(converter.structure(item, inner[0]) for item in value)

    converter.register_structure_hook_func(lambda kind: getattr(kind, "__origin__", None) is tuple, from_list)
    converter.register_unstructure_hook_func(
        lambda kind: getattr(kind, "__origin__", None) is tuple or kind is tuple,
        lambda value: [converter.unstructure(item) for item in value],
    )
    return converter


_CONVERTER = _converter()


def _sentence(problem: BaseException, table: Any, place: str) -> str:
    """The first problem as one sentence that names the file, the key and the closest valid key."""
    path: list[str] = []
    while isinstance(problem, BaseExceptionGroup):
        inner = problem.exceptions[0]
        for note in getattr(inner, "__notes__", []):
            if isinstance(note, cattrs.AttributeValidationNote):
                path.append(note.name)
        problem = inner
    dotted = ".".join(path)
    if isinstance(problem, cattrs.ForbiddenExtraKeysError):
        wrong = sorted(problem.extra_fields)[0]
        full = f"{dotted}.{wrong}" if dotted else wrong
        return f'Unknown key "{full}" in {place}: {closest(wrong, [f.name for f in fields(problem.cl)])}'
    if isinstance(problem, KeyError):  # the path ends with the missing key already
        return f'The key "{dotted}" is missing in {place}; add it.'
    where = f" ({dotted})" if dotted else ""
    return f"{place}{where}: {str(problem).rstrip('.?')}."
