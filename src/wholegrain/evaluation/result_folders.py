"""Where results lie, so that one command finds what another one measured.

::

    RUN/results/DATA-SPLIT/       of a run, below it; DATA is the last part of the data's path
    results/MODEL/DATA-SPLIT/     of any other model, where the command was called
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from wholegrain.errors import UserError
from wholegrain.evaluation.result import TaskResult, load_results, save_results
from wholegrain.structure import JsonTable
from wholegrain.towers.identity import model_digest

BY_TASK = ("left_out", "settings", "datasets", "trained_on")
"""Facts that are kept task by task."""
SAME = ("weights", "dataset", "content_hash", "split", "seed", "options")
"""Facts that results must share to stand in one file."""


def results_folder(model: str, what: str) -> Path:
    """The folder for the results of a model (a run, or anything else that is evaluated) on ``what``.

    Example:
        >>> results_folder("ViT-B-32:openai", "photos-test").as_posix()
        'results/ViT-B-32-openai/photos-test'
    """
    return _home(model) / _plain(what)


def check_results_folder(out: Path) -> None:
    """Refuses, before anything is measured, a folder that cannot be one."""
    for place in (out, *out.parents):
        if place.exists() and not place.is_dir():
            raise UserError(f"The results cannot be written to {out}, since {place} is a file; choose another folder with --out.")


def weights_of(model: object) -> str | None:
    """:func:`~wholegrain.towers.identity.model_digest`, and what its features are scored by where that is no part of it
    (``scored_by``); ``None`` for a model that shows no weights."""
    if not (hasattr(model, "content_hash") or hasattr(model, "state_dict")):
        return None
    scored_by = getattr(model, "scored_by", "")
    return f"{model_digest(model)} {scored_by}" if scored_by else model_digest(model)


def keep_results(results: Sequence[TaskResult], folder: Path, facts: JsonTable) -> Path:
    """Saves results; other tasks of the same weights, data, split and seed that lie there stay.

    Args:
        facts: as ``meta`` of :func:`~wholegrain.evaluation.result.save_results`, with ``weights`` (:func:`weights_of`).

    Returns:
        the path of ``results.json``.
    """
    merged, others = dict(facts), []
    if (folder / "results.json").exists():
        try:
            old, meta = load_results(folder)
        except UserError:  # damaged, so it is made anew
            old, meta = [], {}
        if facts.get("weights") and all(meta.get(name) == facts.get(name) for name in SAME):
            done = {name for result in results for name in (result.task, f"{result.task}_calibration")}  # which is made of the former's items
            others = [result for result in old if result.task not in done]
            for name in BY_TASK:
                before = {task: value for task, value in (meta.get(name) or {}).items() if task not in done}
                merged[name] = before | dict(facts.get(name) or {})
    return save_results([*others, *results], folder, merged)


def results_of(model: str) -> dict[str, Path]:
    """Name -> folder of all results of a model: a folder of results itself, those below a run, those of another model."""
    path = Path(model)
    if (path / "results.json").is_file():
        return {path.resolve().name: path}
    found = [*path.glob("*/results.json"), *_home(model).glob("*/results.json")] if _is_run(path) else _home(model).glob("*/results.json")
    return {file.parent.name: file.parent for file in sorted(found)}


def is_fresh(meta: Mapping[str, object], model: object) -> bool:
    """Whether results are of the model as it is now, by its weights; not where they were not noted."""
    return bool(meta.get("weights")) and meta["weights"] == weights_of(model)


def results_to_compare(models: Sequence[str]) -> list[Path]:
    """For each model the folder of its results, all on the same data.

    Raises:
        UserError: a model has none, or there is a choice.
    """
    found = {model: results_of(model) for model in models}
    data = next((named for there in found.values() for folder in there.values() if (named := _data_of(folder))), "DATA")
    for model, there in found.items():
        if not there:
            raise UserError(f"There are no results of {model}; make them with: wholegrain evaluate {model} --data {data}")
    if all(len(there) == 1 for there in found.values()):
        return [folder for there in found.values() for folder in there.values()]
    common = [name for name in found[models[0]] if all(name in there for there in found.values())]
    if len(common) == 1:
        return [there[common[0]] for there in found.values()]
    if common:
        folders = " ".join(str(there[common[0]]) for there in found.values())
        raise UserError(f"There are results on {', '.join(common)}; name the folders, as in: wholegrain compare {folders}")
    have = "; ".join(f"{model} has {', '.join(there)}" for model, there in found.items())
    raise UserError(f"No results are on the same data ({have}); evaluate all on the same: wholegrain evaluate {models[-1]} --data {data}")


def _data_of(folder: Path) -> str:
    with suppress(UserError):
        return str(load_results(folder)[1].get("dataset") or "")
    return ""


def _home(model: str) -> Path:
    return Path(model) / "results" if _is_run(Path(model)) else Path("results") / _plain(model)


def _is_run(path: Path) -> bool:
    """Also a folder with a model as runs keep it."""
    return (path / "run.json").is_file() or (path / "model" / "model.json").is_file()


def _plain(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", name).strip("-.") or "model"
