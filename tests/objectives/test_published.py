"""Every packaged recipe beside what its paper or released code trains with: no difference that is not stated, with its reason."""

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pytest

from wholegrain.objectives.objective import Objective
from wholegrain.objectives.recipe import load_recipe, recipe_names, to_table
from wholegrain.towers.heads.registry import HeadConfig

PUBLISHED: dict[str, Any] = tomllib.loads((Path(__file__).parents[2] / "docs/methods/published.toml").read_text())
METHODS = [name for name, entry in PUBLISHED.items() if "own" not in entry]
SAID_OF_ALL = {
    *(f"optimiser.{key}" for key in ("lr", "weight_decay", "warmup_steps", "grad_clip", "epochs", "batch")),
    "data.crop_scale",
    "data.captions.0.count",
}
"""Keys that no method may be silent about; what is not known is said to be so."""


def value(name: str, dotted: str) -> Any:
    """What a recipe has, defaults of losses and heads included."""
    recipe = load_recipe(name)
    first, *path = dotted.split(".")
    if first == "terms" and path[1] == "settings":
        loss: Any = Objective(recipe.terms)._losses[path[0]]
        return dataclasses.asdict(loss)[path[2]]
    if dotted.startswith("model.head_settings."):
        return getattr(HeadConfig(recipe.model.head, **recipe.model.head_settings).settings, path[1])
    spot: Any = to_table(recipe)[first]
    for part in path:
        if isinstance(spot, list):
            named = {term.get("name"): term for term in spot}
            spot = spot[int(part)] if part.isdigit() else named[part]
        else:
            spot = spot[part]
    return spot


def unlike(ours: Any, theirs: Any) -> bool:
    return list(ours) != list(theirs) if isinstance(theirs, list) else ours != theirs


def faults(name: str, entry: dict[str, Any]) -> list[str]:
    """What the table does not say, or says wrongly, of one recipe."""
    published, differs, found = entry["published"], entry.get("differs", {}), []
    found += [f"{key} is missing" for key in sorted(SAID_OF_ALL - published.keys())]
    found += [f"{key} differs from nothing" for key in sorted(differs.keys() - published.keys())]
    for key, theirs in published.items():
        ours, stated = value(name, key), differs.get(key)
        different = theirs != "unknown" and unlike(ours, theirs)
        if different != (stated is not None):
            found.append(f"{key} is {ours}, published {theirs}, and " + ("nothing says so" if different else "a difference is listed"))
        elif stated == "control":
            if unlike(ours, value("clip", key)):
                found.append(f"{key} is {ours}, which is not the control's")
        elif stated is not None and (unlike(ours, stated["ours"]) or not stated["because"]):
            found.append(f"{key} is {ours}, listed as {stated['ours']}")
    return found


def test_every_recipe_is_in_the_table():
    assert set(PUBLISHED) == set(recipe_names())
    assert all(entry.get("own") or entry["source"] for entry in PUBLISHED.values())


@pytest.mark.parametrize("name", METHODS)
def test_a_recipe_differs_from_its_paper_only_where_it_says_so(name):
    assert faults(name, PUBLISHED[name]) == []


def test_an_unstated_difference_is_seen():
    entry = PUBLISHED["svlc"]
    told = {**entry, "published": {**entry["published"], "data.negatives.count": 3, "optimiser.lr": 1e-4}}
    assert len(faults("svlc", told)) == 2
    gone = {**entry, "differs": {key: how for key, how in entry["differs"].items() if key != "model.lora.rank"}}
    assert faults("svlc", gone) == ["model.lora.rank is 0, published 4, and nothing says so"]
    stale = {**entry, "differs": {**entry["differs"], "optimiser.lr": "control"}}
    assert len(faults("svlc", stale)) == 1
    other = {**entry, "differs": {**entry["differs"], "model.lora.rank": {"ours": 8, "because": "x"}}}
    assert faults("svlc", other) == ["model.lora.rank is 0, listed as 8"]
