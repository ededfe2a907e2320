"""Runs and results that are made once: what is finished is read, what was interrupted goes on, what is of something else is neither."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from wholegrain.data.dataset import Dataset
from wholegrain.data.scenes.build import SceneCounts, build_scenes
from wholegrain.data.scenes.world import World
from wholegrain.errors import UserError
from wholegrain.evaluation.result import TaskResult, load_results, save_results
from wholegrain.evaluation.result_folders import weights_of
from wholegrain.evaluation.suite import EvaluationOptions, evaluate
from wholegrain.files import folder_aside
from wholegrain.objectives.schema import Recipe
from wholegrain.towers.identity import model_digest
from wholegrain.towers.io import load_model
from wholegrain.towers.model import Model
from wholegrain.training.checkpoints.identity import RunIdentity
from wholegrain.training.checkpoints.run_folder import RunFolder
from wholegrain.training.distributed.processes import choose_device
from wholegrain.training.loading.cached_towers import cached_towers
from wholegrain.training.run import adapt_to_recipe
from wholegrain.training.trainer import Evaluate, TrainOptions, train


def drawn(folder: Path, world: World, counts: SceneCounts, tick: Callable[[int], None] | None = None) -> Dataset:
    """The scenes of a folder, drawn now if there are none.

    Raises:
        UserError: they are of another world, or other numbers of pictures.
    """
    if not (folder / "manifest.json").exists():
        return build_scenes(folder, world, counts, tick=tick)
    dataset = Dataset(folder)
    wanted = {"world.hash": world.hash, **asdict(counts)}
    there = {"world.hash": dataset.manifest.get("world", {}).get("hash"), **dataset.manifest.get("counts", {})}
    odd = [f"{name} {there.get(name)}, not {wanted[name]}" for name in wanted if there.get(name) != wanted[name]]
    if odd:
        raise UserError(f"The scenes in {folder} were drawn with {'; '.join(odd)}; choose another folder, or delete this one.")
    return dataset


def train_once(
    recipe: Recipe, dataset: Dataset, start: Model, options: TrainOptions, evaluate: Evaluate | None = None
) -> Model:
    """The model that a run makes: trained now, or from where it was interrupted, or read if the run is finished.

    Args:
        recipe, dataset, evaluate: as in ``training.trainer.train``.
        start: the model to begin with.
        options: as there, but for ``resume``; ``seconds`` in its ``origin`` is part of what the run is (:class:`RunIdentity`).

    Raises:
        OtherRunError: the folder's run began with another recipe, other data or another model: what differs.
    """
    run, begun = options.out, (options.out / "run.json").exists()
    if begun:
        seconds = options.origin.get("seconds", 0.0)
        assert isinstance(seconds, float | int)
        check_run(run, recipe, start, dataset, seconds)
    if not (run / "finished").exists():
        train(recipe, dataset, load_model(str(run)) if begun else start, replace(options, resume=begun), evaluate=evaluate)
        (run / "finished").touch()
    return load_model(str(run))


def check_run(run: Path, recipe: Recipe, start: Model, dataset: Dataset, seconds: float = 0.0) -> None:
    """Refuses to take the run in a folder for one of this recipe, starting model and data: :class:`OtherRunError` says what differs."""
    recipe = adapt_to_recipe(start, recipe, choose_device())
    RunFolder(run, resume=True).check(RunIdentity(recipe, dataset.content_hash, model_digest(start), seconds))


@dataclass(frozen=True)
class Suite:
    """What is measured.

    Attributes:
        split: of the data.
        tasks, settings, seed: as in ``evaluation.suite.evaluate``.
    """

    split: str
    tasks: Sequence[str]
    settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    seed: int = 0


def evaluate_once(
    model: Model, dataset: Dataset, folder: Path, suite: Suite, *, progress: bool = True, cache: Path | None = None
) -> list[TaskResult]:
    """The model's results, kept in ``folder`` and made anew for anything else; what data or model cannot serve is left out.

    Args:
        cache: see :func:`wholegrain.training.loading.cached_towers.cached_towers`.
    """
    settings = {task: of for task, of in suite.settings.items() if task in suite.tasks}
    identity = {
        "model": weights_of(model),
        "content_hash": dataset.content_hash,
        "split": suite.split,
        "tasks": list(suite.tasks),
        "settings": json.loads(json.dumps(settings)),
        "seed": suite.seed,
        "wholegrain": importlib.metadata.version("wholegrain"),
    }
    if _identity_of(folder) != identity:
        with cached_towers(model, cache):
            options = EvaluationOptions(suite.seed, progress=progress)
            results = evaluate(model, dataset, options, split=suite.split, tasks=suite.tasks, settings=settings)
        facts = {key: identity[key] for key in ("split", "content_hash", "settings", "seed")}
        with folder_aside(folder) as part:
            save_results(results, part, {"dataset": str(dataset.folder), "weights": identity["model"], **facts, "identity": identity})
    return load_results(folder)[0]


def _identity_of(folder: Path) -> object:
    """Of the results in a folder; ``None`` if there are none that can be read."""
    try:
        return load_results(folder)[1].get("identity")
    except UserError:
        return None
