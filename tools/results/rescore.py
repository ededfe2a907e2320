"""The same models by another score: what the grain gives a method that was not trained for it, and the whole vector of one that was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from results.store import Run, Stored
from wholegrain.data.dataset import Dataset
from wholegrain.evaluation.contract import EvaluatedModel
from wholegrain.evaluation.scores.whole_and_grain import WholeAndGrain
from wholegrain.towers.convert import convert_head
from wholegrain.towers.heads.registry import HeadConfig
from wholegrain.towers.io import load_model
from wholegrain.workflows.demo import WEIGHT
from wholegrain.workflows.runs import Suite, evaluate_once

TASKS = ("retrieval", "composition", "hard_positives")


def rescored(stored: Stored, folders: Sequence[Path], data: Path, split: str) -> Stored:
    """The largest budget's runs by the other score, beside themselves: ``METHOD_grain``, or ``METHOD_whole`` of one that is scored by the grain."""
    dataset, last = Dataset(data), max(run.budget for run in stored.runs)
    runs = []
    for run in (run for run in stored.runs if run.budget == last):
        folder = next(path for out in folders if (path := out / f"{run.method}-{run.seed}" / f"steps-{last}").exists())
        name, model = _other(run, folder)
        suite = Suite(split, TASKS, {"retrieval": {"roles": ("overview",)}})
        results = evaluate_once(model, dataset, folder / f"{split}-{name}", suite)
        own = [result for result in run.results if result.task in TASKS]
        runs += [replace(run, results=own), replace(run, method=f"{run.method}_{name}", results=results)]
    return replace(stored, runs=runs)


def _other(run: Run, folder: Path) -> tuple[str, EvaluatedModel]:
    model = load_model(str(folder))
    if model.head.kind == "grain":
        convert_head(model, HeadConfig("plain"))
        return "whole", model
    return "grain", WholeAndGrain(model, WEIGHT)
