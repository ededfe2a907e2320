"""Least and greatest values of a recipe's numbers; beyond them lies what can only be a slip, or harm."""

from __future__ import annotations

RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**63 - 1),
    "terms.weight": (0, 1e6),
    "data.captions.count": (1, 10_000),
    "data.captions.sentences": (0, 10_000),
    "data.captions.lead": (0, 10_000),
    "data.negatives.count": (0, 10_000),
    "data.views.count": (1, 100),
    "data.shuffle_window": (0, 10**6),
    "model.branches": (0, 1024),
    "model.lora.rank": (0, 4096),
    "model.lora.alpha": (0, 1e6),
    "teacher.views": (1, 100),
    "optimiser.lr": (0, 1e3),
    "optimiser.weight_decay": (0, 1e3),
    "optimiser.eps": (0, 1.0),
    "optimiser.grad_clip": (0, 1e9),
    "optimiser.epochs": (0, 1e6),
    "optimiser.steps": (0, 10**9),
    "optimiser.warmup_steps": (0, 10**9),
    "optimiser.batch": (1, 2**22),
    "optimiser.micro_batch": (0, 2**22),
    "saving.every": (0, 10**9),
    "saving.keep": (1, 10**6),
    "saving.evaluate_every": (0, 10**9),
}
"""Least and greatest value of a recipe's numbers, by dotted key; :func:`wholegrain.objectives.recipe.load_recipe` holds recipes to them."""
