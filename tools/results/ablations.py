"""The papers' ablations at the scenes' scale: packaged recipes with one thing changed, written as recipes that ``wholegrain compete`` takes."""

from __future__ import annotations

from pathlib import Path

from wholegrain.objectives.recipe import load_recipe, to_toml

ABLATIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "sparc_dense": ("sparc", ("--terms.sparc.settings.sigma=0",)),
    "sparc_softmax": ("sparc", ("--terms.sparc.settings.weights=softmax", "--terms.sparc.settings.temperature=1")),
    "sparc_5": ("sparc", ("--terms.sparc.weight=5",)),
    "ce_clip_no_imc": ("ce_clip", ("--terms.imc.weight=0",)),
    "ce_clip_no_cmr": ("ce_clip", ("--terms.cmr.weight=0",)),
    "ce_clip_fixed_margin": ("ce_clip", ("--terms.cmr.settings.margin=fixed",)),
    "holistic_mlp": ("holistic", ('--model.head_settings={source="mlp"}',)),
    "wholegrain_no_order": ("wholegrain", ("--terms.imc.weight=0", "--terms.cmr.weight=0", "--data.negatives.count=0")),
    "wholegrain_no_grain_terms": ("wholegrain", ("--terms.grain_phrase.weight=0", "--terms.grain_background.weight=0")),
}
"""Name -> (recipe below ``scenes/``, overrides)."""


def write_recipes(folder: Path) -> list[Path]:
    """A TOML file for each; gives their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, (recipe, overrides) in ABLATIONS.items():
        path = folder / f"{name}.toml"
        path.write_text(to_toml(load_recipe(f"scenes/{recipe}", overrides)), encoding="utf-8")
        paths.append(path)
    return paths
