"""A method as data: reading, checking, overriding and writing recipes; their fields are in :mod:`wholegrain.objectives.schema`.

A recipe comes from the package (``load_recipe("ce_clip")``), from a TOML file, or from a dict. Unknown keys and wrong types are
refused with the file, the key and the closest valid key; the command line overrides by the same dotted names::

    load_recipe("ce_clip", ["--optimiser.lr", "1e-5", "--data.negatives.count", "2", "--terms.cmr.weight", "0.3"])
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import TypeGuard

import cattrs
import tomli_w

from wholegrain.errors import UserError
from wholegrain.files import read_toml, shown
from wholegrain.objectives.ranges import RANGES
from wholegrain.objectives.schema import Recipe
from wholegrain.structure import StructureError, make_converter, structure
from wholegrain.suggest import closest


def load_recipe(source: str | Path | Mapping[str, object], overrides: Sequence[str] = ()) -> Recipe:
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
    source_name = "The recipe"
    try:
        table, source_name, name = _read(source)
        for key, value in _pairs(overrides):
            _override(table, key, value)
        recipe = _checked(table)
    except (StructureError, RecursionError) as problem:
        reason = "is nested too deeply" if isinstance(problem, RecursionError) else str(problem)
        raise UserError(f"{source_name} {reason}; correct it.") from None
    return recipe if recipe.name else replace(recipe, name=name)


def overridden(table: Mapping[str, object], overrides: Sequence[str]) -> dict[str, object]:
    """A copy of nested tables with dotted keys set, as :func:`load_recipe` takes them.

    Raises:
        UserError: an override without a value, or of what is no key.

    Example:
        >>> overridden({"training": {"lr": 0.1}}, ["--training.lr", "1e-5"])
        {'training': {'lr': 1e-05}}
    """
    copied = {key: _copied(value) for key, value in table.items()}
    for key, value in _pairs(overrides):
        _override(copied, key, value)
    return copied


def recipe_names(folder: str = "") -> tuple[str, ...]:
    """The packaged recipes, sorted; with ``folder="scenes"`` those for scenes alone, as ``scenes/NAME``."""
    packaged = resources.files("wholegrain.recipes").joinpath(folder)
    names = [file.name.removesuffix(".toml") for file in packaged.iterdir() if file.name.endswith(".toml")]
    return tuple(sorted(f"{folder}/{name}" if folder else name for name in names))


def to_table(recipe: Recipe) -> dict[str, object]:
    """The recipe as nested dicts and lists of plain values; ``load_recipe(to_table(recipe)) == recipe``."""
    return _CONVERTER.unstructure(recipe)


def to_toml(recipe: Recipe) -> str:
    """The resolved recipe, every default written out, as TOML that :func:`load_recipe` reads back."""
    return tomli_w.dumps(to_table(recipe))


# ---- reading ----------------------------------------------------------------------------------------------------------------


def _read(source: str | Path | Mapping[str, object]) -> tuple[dict[str, object], str, str]:
    """The raw table, where it comes from (for messages), and a name."""
    if isinstance(source, Mapping):
        return {key: _copied(value) for key, value in source.items()}, "The recipe", "recipe"
    text = str(source)
    path = Path(text)
    if not text.endswith(".toml"):
        known = recipe_names("scenes" if text.startswith("scenes/") else "")
        if text not in known:
            raise UserError(f'There is no packaged recipe "{text}"; {closest(text, known)} A file of your own ends in .toml.')
        path = Path(str(resources.files("wholegrain.recipes").joinpath(f"{text}.toml")))
    return read_toml(path, "give a .toml file of a recipe, or a packaged recipe's name"), f"The recipe {shown(source)}", path.stem


def _copied(value: object) -> object:
    if _is_table(value):
        return {key: _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if _is_list(value) else value


def _is_table(value: object) -> TypeGuard[MutableMapping[str, object]]:
    return isinstance(value, Mapping)


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, (list, tuple))


def _pairs(overrides: Sequence[str]) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    rest = list(overrides)
    while rest:
        key, equals, value = rest.pop(0).partition("=")
        if not equals:
            if not rest:
                raise UserError(f"The override {key} has no value; write {key} VALUE.")
            value = rest.pop(0)
        pairs.append((key.removeprefix("--"), value))
    return pairs


def _override(table: dict[str, object], dotted: str, text: str) -> None:
    """Sets one dotted key; ``terms.NAME.…`` finds the term of that name, ``captions.0.…`` counts."""
    value = toml_value(text)
    *path, last = dotted.split(".")
    spot: object = table
    for depth, part in enumerate(path):
        spot = _step_into(spot, part, ".".join(path[: depth + 1]))
    if not _is_table(spot):
        raise UserError(f"The override --{dotted} does not name a value; give the dotted name of a single key.")
    spot[last.replace("-", "_")] = value


def toml_value(text: str) -> object:
    """A value as it is written on a command line: TOML, or else the text itself.

    Example:
        >>> toml_value("0.5"), toml_value("[1, 2]"), toml_value("cosine")
        (0.5, [1, 2], 'cosine')
    """
    try:
        found = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return found["value"] if len(found) == 1 else text


def _step_into(spot: object, part: str, dotted: str) -> object:
    if _is_table(spot):
        inner = spot.setdefault(part, {})
        if _is_table(inner) or _is_list(inner):
            return inner
    if _is_list(spot):
        named = {str(index): item for index, item in enumerate(spot)}
        losses = [item for item in spot if _is_table(item) and "loss" in item]
        named |= {str(item.get("name") or str(item["loss"]).rpartition(":")[2]): item for item in losses}
        if part in named:
            return named[part]
        raise UserError(f"The override --{dotted} matches nothing; {closest(part, list(named))}")
    raise UserError(f"The override --{dotted} goes through a single value; give the dotted name of a key.")


# ---- checking ---------------------------------------------------------------------------------------------------------------


def _converter() -> cattrs.Converter:
    converter = make_converter()
    converter.register_unstructure_hook_func(
        lambda kind: getattr(kind, "__origin__", None) is tuple or kind is tuple,
        lambda value: [converter.unstructure(item) for item in value],
    )
    return converter


_CONVERTER = _converter()


def _checked(table: dict[str, object]) -> Recipe:
    """The recipe of a table.

    Raises:
        StructureError: a wrong key or value, or one out of range.
    """
    for dotted, value in _numbers(table, ""):
        if not abs(value) < 2**63:  # NaN, too
            found = value if isinstance(value, float) else "the number"
            raise StructureError(f'has a wrong value at "{dotted}": {found} is not finite, or too large')
    recipe = structure(table, Recipe, _CONVERTER)
    for dotted, value in _numbers(to_table(recipe), ""):
        least, most = RANGES.get(".".join(part for part in dotted.split(".") if not part.isdigit()), (value, value))
        if not least <= value <= most:
            raise StructureError(f'has a wrong value at "{dotted}": {value} is not from {least} to {most:,}')
    return recipe


def _numbers(values: object, dotted: str) -> Iterator[tuple[str, float]]:
    """Every number, with its dotted key."""
    pairs = values.items() if _is_table(values) else enumerate(values) if _is_list(values) else ()
    for key, inner in pairs:
        yield from _numbers(inner, f"{dotted}.{key}" if dotted else str(key))
    if isinstance(values, int | float) and not isinstance(values, bool):
        yield dotted, values
