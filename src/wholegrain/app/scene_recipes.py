"""The methods' recipes for scenes: packaged like the others, but not listed, since they name roles that only scenes have."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

from wholegrain.objectives.recipe import load_recipe
from wholegrain.objectives.schema import Recipe


def scene_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """``recipes/scenes/NAME.toml``, with dotted overrides."""
    return load_recipe(str(resources.files("wholegrain.recipes").joinpath(f"scenes/{name}.toml")), overrides)
