"""The folder of a run.

::

    recipe.toml      the resolved recipe: every default and override written out
    run.json         which data and model, versions, seed, command
    metrics.jsonl    one line a step
    tensorboard/     the same for TensorBoard
    checkpoints/     see training/checkpoint.py
    model/           the model to use: the starting one, then the best evaluated one, or the last
    start/           the model before the first step, of a run with adapters (of another until its first checkpoint)
    last/            the last one, where another is the best (``RUN:last`` loads it)
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wholegrain.data.dataset import Dataset
from wholegrain.errors import UserError
from wholegrain.objectives.recipe import Recipe, load_recipe, to_toml
from wholegrain.towers.io import load_model, save_model
from wholegrain.towers.model import Model
from wholegrain.training.checkpoint import aside

START = "start"
PACKAGES = ("wholegrain", "torch", "torchvision", "open_clip_torch", "timm", "numpy", "tokenizers", "safetensors")


class RunFolder:
    """A run's folder, opened for a new run or to go on.

    Args:
        path: the folder.
        resume: go on with the run that it holds, rather than begin a new one.

    Raises:
        UserError: a run is there and should not be, or is not there and should.
    """

    def __init__(self, path: Path, resume: bool) -> None:
        self.path = path
        if resume and not (path / "run.json").exists():
            raise UserError(f"{path} holds no run to resume; give the folder of a run, such as runs/latest.")
        if not resume and (path / "run.json").exists():
            raise UserError(f"{path} already holds a run; choose another folder, or resume that run.")

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        return self.path / "model"

    def begin(self, recipe: Recipe, model: Model, dataset: Dataset, origin: Mapping[str, Any]) -> None:
        """Writes what the run is; ``run.json`` comes last, so without it nothing has begun."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.save_model(model)
        if recipe.model.lora.rank:
            with aside(self.path / START) as part:
                save_model(model, part)
        _write(self.path / "recipe.toml", to_toml(recipe))
        _write(self.path / "run.json", json.dumps({**origin, **identity(recipe, dataset)}, indent=2))
        self._link()

    def beginning(self) -> Model | None:
        """The model that the run began with, where ``model/`` is another by now and checkpoints do not hold all of it, or none is there yet."""
        return load_model(self.path / START) if (self.path / START).exists() else None

    def keep_beginning(self) -> None:
        """Before ``model/`` is first replaced: a run that is killed before its first checkpoint begins anew with what it began with."""
        if not (self.path / START).exists() and not any(self.checkpoints.glob("step-*")):
            with aside(self.path / START) as part:
                shutil.copytree(self.model, part, dirs_exist_ok=True)

    def drop_beginning(self) -> None:
        """Once there is a checkpoint that holds all of the model."""
        shutil.rmtree(self.path / START, ignore_errors=True)

    def check(self, dataset: Dataset) -> None:
        """Refuses to go on with other data than the run began with."""
        facts = read_run(self.path)
        if facts["data_hash"] != dataset.content_hash:
            raise UserError(f"The data changed since {self.path} began (their content hash differs); resume with the same data.")

    def save_model(self, model: Model) -> None:
        """Puts a model into ``model/``, whole or not at all."""
        with aside(self.model) as part:
            save_model(model, part)

    def save_last(self, model: Model, same: bool) -> None:
        """Puts the last model into ``last/``, unless it is the one in ``model/`` anyway."""
        shutil.rmtree(self.path / "last", ignore_errors=True)
        if not same:
            with aside(self.path / "last") as part:
                save_model(model, part)

    def note(self, name: str, facts: Mapping[str, Any]) -> Path:
        """Writes a small JSON file into the run's folder."""
        _write(self.path / name, json.dumps(facts, indent=2))
        return self.path / name

    def _link(self) -> None:
        """``latest`` beside the run points to it, where the file system can do that."""
        link = self.path.parent / "latest"
        part = link.with_name(f".latest.{os.getpid()}")
        try:
            part.symlink_to(self.path.name, target_is_directory=True)
            if link.is_symlink() or not link.exists():
                os.replace(part, link)
        except OSError:
            pass
        finally:
            part.unlink(missing_ok=True)


def identity(recipe: Recipe, dataset: Dataset) -> dict[str, Any]:
    """What a result depends on, beside the recipe: hashes of the data, versions, seed, machine."""
    manifest = json.dumps(dataset.manifest, sort_keys=True).encode()
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "unknown"
    return {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "data_hash": dataset.content_hash,
        "manifest_hash": hashlib.sha256(manifest).hexdigest(),
        "python": platform.python_version(),
        "machine": platform.platform(),
        "versions": versions,
    }


def read_run(path: Path) -> dict[str, Any]:
    """``run.json`` of a run. Raises :class:`UserError` if it is missing or broken."""
    try:
        return json.loads((path / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(
            f"{path} holds no run that can be read (run.json); give the folder of a run, such as runs/latest."
        ) from None


def read_recipe(path: Path) -> Recipe:
    """The resolved recipe of a run."""
    return load_recipe(path / "recipe.toml")


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
