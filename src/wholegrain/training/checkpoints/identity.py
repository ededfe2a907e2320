"""What makes two runs the same run: the recipe, the data and the model that it begins with; and the words for what differs.

A finished run may stand for one that is asked for, and an interrupted one may go on, only where all of this is the same. A run notes it
down when it begins (``recipe.toml``, ``run.json``).
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from wholegrain.objectives.recipe import load_recipe, to_table
from wholegrain.objectives.schema import Recipe

_SHOWN = 4


@dataclass(frozen=True)
class RunIdentity:
    """What a run's result depends on.

    Attributes:
        recipe: resolved: every default and override written out, the seed among them.
        data: the content hash of the data, sidecars included.
        start: :func:`~wholegrain.towers.identity.model_digest` of the model before the first step, fitted to the recipe; empty where it is not known.
        seconds: the training time that its number of steps was measured to fill (:mod:`wholegrain.workflows.compete`); 0 where nobody asked.
    """

    recipe: Recipe
    data: str
    start: str = ""
    seconds: float = 0.0

    def differences(self, wanted: RunIdentity) -> str:
        """What this run was made with, as against another one: ``optimiser.steps 75, not 300``; empty if nothing differs."""
        own, others = (dotted(to_table(load_recipe(to_table(recipe)))) for recipe in (self.recipe, wanted.recipe))  # 5 is 5.0
        found = [
            f"{name} {own.get(name, 'unset')}, not {others.get(name, 'unset')}"
            for name in sorted(own.keys() | others.keys())
            if own.get(name) != others.get(name)
        ]
        if self.data != wanted.data:
            found.append(f"other data (content hash {self.data[:12]}, not {wanted.data[:12]})")
        if wanted.start and self.start != wanted.start:
            found.append("another starting model")
        if self.seconds != wanted.seconds:
            found.append(f"seconds {self.seconds:g}, not {wanted.seconds:g}")
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        return "; ".join(found[:_SHOWN]) + more


def dotted(tree: object, prefix: str = "") -> dict[str, str]:
    """Dotted names of what is neither a table nor a list of tables -> JSON.

    Example:
        >>> dotted({"seed": 0, "terms": [{"name": "clip", "weight": 1.0}]})
        {'seed': '0', 'terms.clip.name': '"clip"', 'terms.clip.weight': '1.0'}
    """
    if isinstance(tree, (list, tuple)) and tree and all(isinstance(part, dict) for part in tree):
        tree = {str(part.get("name") or index): part for index, part in enumerate(tree)}
    if not isinstance(tree, dict):
        return {prefix: json.dumps(tree)}
    found: dict[str, str] = {}
    for name, part in tree.items():
        found |= dotted(part, f"{prefix}.{name}" if prefix else str(name))
    return found
