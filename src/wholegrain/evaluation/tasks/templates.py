"""Sentences around class names, by the names that papers use, and CLIP's own for each data set (``prompts.toml``)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from wholegrain.errors import UserError
from wholegrain.files import read_toml
from wholegrain.suggest import closest

NAMED = {"plain": ("{}",), "photo": ("a photo of a {}.",)}


def templates_of(names: Sequence[str]) -> tuple[str, ...]:
    """Templates from names and sentences.

    Args:
        names: ``plain`` (the name alone), ``photo``, ``openai`` (the 80 of CLIP's ImageNet notebook), ``openai7`` (its seven-sentence
            subset), a data set of CLIP's paper (``food101``, ``eurosat``, ...: :func:`prompts`), or sentences with ``{}``.

    Raises:
        UserError: for a word that is neither.

    Example:
        >>> len(templates_of(["openai"])), templates_of(["photo", "a sketch of a {}."])
        (80, ('a photo of a {}.', 'a sketch of a {}.'))
    """
    found: list[str] = []
    for name in names:
        if name in ("openai", "openai7"):
            import open_clip

            made = open_clip.OPENAI_IMAGENET_TEMPLATES if name == "openai" else open_clip.SIMPLE_IMAGENET_TEMPLATES
            found += [template("{}") for template in made]
        elif name in NAMED:
            found += NAMED[name]
        elif "{}" in name:
            found.append(name)
        elif name in prompts():
            found += prompts()[name]
        else:
            near = closest(name, [*NAMED, "openai", "openai7", *prompts()])
            raise UserError(f"The template {name!r} is no name and has no {{}} for the class; {near}")
    return tuple(dict.fromkeys(found))


@cache
def prompts() -> dict[str, tuple[str, ...]]:
    """data set -> CLIP's sentences for it.

    Example:
        >>> prompts()["food101"]
        ('a photo of {}, a type of food.',)
    """
    table = read_toml(str(files("wholegrain.evaluation.tasks").joinpath("prompts.toml")), "install wholegrain again")
    return {name: tuple(sentences) for name, sentences in table.items()}
