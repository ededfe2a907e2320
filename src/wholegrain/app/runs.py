"""Runs and results that are made once: what is finished is read, what was interrupted goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wholegrain.data.dataset import Dataset
from wholegrain.evaluation.result import TaskResult, load_results, save_results
from wholegrain.evaluation.suite import evaluate
from wholegrain.objectives.schema import Recipe
from wholegrain.towers.io import load_model
from wholegrain.towers.model import Model
from wholegrain.training.loop import Evaluate, train


def trained(
    recipe: Recipe,
    start: Callable[[], Model],
    dataset: Dataset,
    run: Path,
    *,
    origin: Mapping[str, Any],
    evaluate: Evaluate | None = None,
    quiet: bool = False,
    cache: Path | None = None,
) -> Model:
    """The model that a run makes: trained now, or from where it was interrupted, or read if the run is finished.

    Args:
        start: makes the model to begin with; called only if the run has not begun.
        run: the run's folder.
        origin, evaluate, quiet, cache: as in ``training.loop.train``.
    """
    if not (run / "finished").exists():
        begun = (run / "run.json").exists()
        model = load_model(str(run / "model")) if begun else start()
        train(recipe, dataset, model, run, resume=begun, origin=origin, evaluate=evaluate, quiet=quiet, cache=cache)
        (run / "finished").touch()
    return load_model(str(run / "model"))


def measured(
    model: Model,
    dataset: Dataset,
    folder: Path,
    split: str,
    tasks: Sequence[str],
    *,
    settings: Mapping[str, Mapping[str, object]] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> list[TaskResult]:
    """The model's results on a split, kept in ``folder`` and made anew for other settings; what data or model cannot serve is left out."""
    chosen = {task: of for task, of in (settings or {}).items() if task in tasks}
    kept = load_results(folder)[1].get("settings") if (folder / "results.json").exists() else None
    if kept != json.loads(json.dumps(chosen)):
        results = evaluate(model, dataset, split=split, tasks=tasks, seed=seed, settings=chosen, progress=progress)
        facts = {"dataset": str(dataset.folder), "split": split, "content_hash": dataset.content_hash, "seed": seed}
        save_results(results, folder, {**facts, "settings": chosen})
    return load_results(folder)[0]
