"""A working start of one's own recipe, loss or benchmark, with its test."""

from __future__ import annotations

import keyword
from importlib import resources
from pathlib import Path
from string import Template
from typing import Literal

from wholegrain.errors import UserError
from wholegrain.files import disk_errors, keepable, shown, write_text
from wholegrain.objectives.recipe import recipe_names
from wholegrain.suggest import closest

Kind = Literal["recipe", "loss", "benchmark"]
SUFFIX: dict[Kind, str] = {"recipe": ".toml", "loss": ".py", "benchmark": ".py"}


def write_skeleton(kind: Kind, name: str, folder: Path, like: str = "clip") -> tuple[Path, Path]:
    """Writes ``NAME.py`` (or ``NAME.toml``) and ``test_NAME.py``; gives both paths.

    Args:
        kind: what is wanted.
        name: a Python name in small letters, such as ``my_loss``, whose class is then ``MyLoss``.
        folder: where; it is made if need be.
        like: the packaged recipe that a recipe begins as, with its comments.

    Raises:
        UserError: the name is none, there is no such recipe, or one of the files is there already; nothing is written.
    """
    if not (name.isidentifier() and name.isascii() and name == name.lower()) or keyword.iskeyword(name):
        raise UserError(f'"{name}" cannot name a {kind}; use small letters, digits and _, such as my_{kind}.')
    target, test = folder / f"{name}{SUFFIX[kind]}", folder / f"test_{name}.py"
    there = next((path for path in (target, test) if path.exists()), None)
    if there is not None:
        raise UserError(f"{shown(there)} is there already; choose another name, or another folder with --out.")
    words = {
        "name": name,
        "file": target.name,
        "class": "".join(part.capitalize() for part in name.split("_")),
        "title": name.replace("_", " ").strip().capitalize(),
    }
    first = _recipe(like, name) if kind == "recipe" else _filled(f"new_{kind}.py.txt", words)
    keepable(folder)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_text(target, first)
        write_text(test, _filled(f"new_{kind}_test.py.txt", words))
    return target, test


def _filled(template: str, words: dict[str, str]) -> str:
    text = resources.files("wholegrain.workflows").joinpath("skeletons", template).read_text(encoding="utf-8")
    return Template(text).substitute(words)


def _recipe(like: str, name: str) -> str:
    known = [*recipe_names(), *recipe_names("scenes")]
    if like not in known:
        raise UserError(f'There is no packaged recipe "{like}"; {closest(like, known)}')
    text = resources.files("wholegrain.recipes").joinpath(f"{like}.toml").read_text(encoding="utf-8")
    return f"# {name}: begun as the recipe {like}. wholegrain methods lists the others; docs/training.md has every key.\n{text}"
