"""Experiment trackers beside the run's own log: Weights & Biases, Trackio and MLflow."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Protocol

from wholegrain.errors import UserError
from wholegrain.suggest import closest
from wholegrain.training.checkpoints.run_folder import read_run

TRACKERS = ("wandb", "trackio", "mlflow")
_RUN = "wholegrain.run"
"""The tag by which MLflow finds a run again."""


class Tracker(Protocol):
    """A run of a tracker, named like the run's folder; a resumed run goes on as the same."""

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Numbers of a step."""
        ...

    def close(self) -> None:
        """Sends what is left."""
        ...


def start_tracker(name: str, project: str, folder: Path) -> Tracker:
    """Begins the run, or goes on with it.

    Args:
        name: one of :data:`TRACKERS`.
        project: the tracker's project; MLflow calls it an experiment.
        folder: the run's; ``run.json`` in it is what the tracker calls the configuration, or parameters.

    Raises:
        UserError: there is no such tracker, or its package is not installed.
    """
    package, run = _package(name), folder.resolve().name
    config = dict(read_run(folder)) if (folder / "run.json").exists() else {}
    if name == "mlflow":
        return _MLflowRun(package, project, run, config)
    begin: dict[str, object] = {"project": project, "name": run, "config": config, "resume": "allow"}
    if name == "wandb":  # knows its runs by an id of their own, and writes where it is told
        begin |= {"id": run, "dir": str(folder)}
    return _WandbRun(package, begin)


class _WandbRun:
    """Of Weights & Biases, and of Trackio, which has the same face."""

    def __init__(self, package: ModuleType, begin: Mapping[str, object]) -> None:
        self._package = package
        package.init(**begin)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self._package.log(dict(numbers), step=step)

    def close(self) -> None:
        self._package.finish()


class _MLflowRun:
    """Where ``MLFLOW_TRACKING_URI`` says, or where MLflow puts runs without it. Parameters are written once, when the run is new."""

    def __init__(self, package: ModuleType, project: str, run: str, config: Mapping[str, object]) -> None:
        self._package = package
        package.set_experiment(project)
        found = package.search_runs(filter_string=f"tags.`{_RUN}` = '{run}'", max_results=1, output_format="list")
        if found:
            package.start_run(run_id=found[0].info.run_id)
            return
        package.start_run(run_name=run, tags={_RUN: run})
        package.log_params(dict(_flat(config)))

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self._package.log_metrics({_one_folder(name): value for name, value in numbers.items()}, step=step)

    def close(self) -> None:
        self._package.end_run()


def _one_folder(name: str) -> str:
    """``loss/clip.image_to_text``: in a folder of files ``loss/clip`` cannot be a number and a folder of numbers, too."""
    group, slash, rest = name.partition("/")
    return group + slash + rest.replace("/", ".")


def _flat(config: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """``data.batch`` for ``config["data"]["batch"]``; a parameter of MLflow is a text of at most 6,000 characters."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)[:6000]


def require_tracker(name: str) -> None:
    """Whether a tracker can be used, before anything else is done.

    Raises:
        UserError: it cannot.
    """
    _package(name)


def _package(name: str) -> ModuleType:
    if name not in TRACKERS:
        raise UserError(f'There is no tracker "{name}"; {closest(name, TRACKERS)}')
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f'The tracker {name} is not installed; install it with: pip install "wholegrain[{name}]"') from None
