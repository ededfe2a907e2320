"""Experiment trackers beside the run's own log: Weights & Biases and Trackio, which share one face (``init``, ``log``, ``finish``)."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from wholegrain.errors import UserError
from wholegrain.suggest import closest
from wholegrain.training.checkpoints.run_folder import read_run

TRACKERS = ("wandb", "trackio")


class Tracker:
    """A run of a tracker, named like the run's folder; a resumed run goes on as the same.

    Args:
        name: ``wandb`` or ``trackio``.
        project: the tracker's project.
        folder: the run's; ``run.json`` in it is what the tracker calls the configuration.

    Raises:
        UserError: there is no such tracker, or its package is not installed.
    """

    def __init__(self, name: str, project: str, folder: Path) -> None:
        self._package = _package(name)
        config = dict(read_run(folder)) if (folder / "run.json").exists() else {}
        begin: dict[str, object] = {"project": project, "name": folder.resolve().name, "config": config, "resume": "allow"}
        if name == "wandb":  # knows its runs by an id of their own, and writes where it is told
            begin |= {"id": folder.resolve().name, "dir": str(folder)}
        self._package.init(**begin)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Numbers of a step."""
        self._package.log(dict(numbers), step=step)

    def close(self) -> None:
        """Sends what is left."""
        self._package.finish()


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
