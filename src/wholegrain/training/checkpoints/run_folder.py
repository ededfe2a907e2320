"""The folder of a run.

::

    recipe.toml      the resolved recipe: every default and override written out
    run.json         which data and model (see training/checkpoints/identity.py), versions, seed, command
    .lock            held by the process that trains
    metrics.jsonl    one line a step
    tensorboard/     the same for TensorBoard
    checkpoints/     see training/checkpoints/checkpoint.py
    stable/          the checkpoint with which the rate of the schedule wsd began to fall (see training/prefix.py)
    model/           the model to use: the starting one, then the best evaluated one, or the last
    start/           the model before the first step: of a run with adapters; of another from its first better model until it ends or is interrupted
    last/            the last one, where another is the best (``RUN:last`` loads it)
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NotRequired, TypedDict

from wholegrain.data.dataset import Dataset
from wholegrain.errors import UserError
from wholegrain.files import aside as file_aside
from wholegrain.files import disk_errors, read_json, sha256, write_json, write_text
from wholegrain.locks import locked
from wholegrain.objectives.recipe import load_recipe, to_toml
from wholegrain.objectives.schema import Recipe
from wholegrain.towers.identity import model_digest
from wholegrain.towers.io import load_model, save_model
from wholegrain.towers.model import Model
from wholegrain.training.checkpoints import checkpoint
from wholegrain.training.checkpoints.checkpoint import aside
from wholegrain.training.checkpoints.identity import RunIdentity

START, STABLE = "start", "stable"
PACKAGES = ("wholegrain", "torch", "torchvision", "open_clip_torch", "timm", "numpy", "tokenizers", "safetensors")


class OtherRunError(UserError):
    """A run is there, and is not the one that was asked for."""


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
        if not resume:
            self._refuse_another()

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def stable(self) -> Path:
        return self.path / STABLE

    @property
    def model(self) -> Path:
        return self.path / "model"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other processes from training here.

        Raises:
            UserError: another one does, or the folder cannot be written to.
        """
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        with locked(self.path, "training"):
            if not self.model.exists() and self._discarded("model").exists():  # killed while it put a better one there
                os.replace(self._discarded("model"), self.model)
            yield

    def create(self, recipe: Recipe, model: Model, dataset: Dataset, origin: Mapping[str, object]) -> None:
        """Writes what the run is; ``run.json`` comes last, so without it nothing has begun."""
        self._refuse_another()  # once more: it is only now that no other process can begin one here
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self.drop_start()  # of another run, which was killed before its run.json was there
            self.save_model(model)
            if recipe.model.lora.rank:
                with aside(self.path / START) as part:
                    save_model(model, part)
            write_text(self.path / "recipe.toml", to_toml(recipe))
            what = {**run_facts(recipe, dataset), "recipe_hash": sha256(self.path / "recipe.toml"), "start": model_digest(model)}
            write_json(self.path / "run.json", {**origin, **what}, indent=2)
        self._link()

    def _refuse_another(self) -> None:
        if (self.path / "run.json").exists():
            raise UserError(f"{self.path} already holds a run; choose another folder, or resume that run.")
        if checkpoint.folders(self.checkpoints):
            raise UserError(f"{self.path} holds checkpoints of a run whose run.json is gone; choose another folder, or delete this one.")

    def begin_log(self, after: Path) -> None:
        """Takes over the log of a run that this one goes on from, unless there is one already; ``meters.Reporter`` cuts it to the common steps."""
        log = self.path / "metrics.jsonl"
        if not log.exists() and (after / log.name).exists():
            with file_aside(log) as part:
                shutil.copyfile(after / log.name, part)

    def load_start(self) -> Model | None:
        """The model that the run began with, from ``start/``; ``None`` where ``model/`` is still that one, or checkpoints hold all that is trained."""
        return load_model(self.path / START) if (self.path / START).exists() else None

    def keep_start(self) -> None:
        """Before ``model/`` is first replaced: a run that is killed before its first checkpoint begins anew with what it began with."""
        if not (self.path / START).exists() and not any(self.checkpoints.glob("step-*")):
            with aside(self.path / START) as part:
                shutil.copytree(self.model, part, dirs_exist_ok=True)

    def drop_start(self) -> None:
        """Once there is a checkpoint that holds all of the model."""
        self._remove(START)

    @property
    def identity(self) -> RunIdentity:
        """What the run began with. Raises :class:`UserError` if that was changed since."""
        facts, recipe = read_run(self.path), read_recipe(self.path)
        if facts.get("recipe_hash", "") not in ("", sha256(self.path / "recipe.toml")):
            raise UserError(f"{self.path / 'recipe.toml'} was changed since the run began; put it back, or begin another run with it.")
        return RunIdentity(recipe, facts["data_hash"], facts.get("start", ""), facts.get("seconds", 0.0))

    def check(self, wanted: RunIdentity) -> None:
        """Refuses to take this run for one that began otherwise."""
        different = self.identity.differences(wanted)
        if different:
            raise OtherRunError(
                f"The run in {self.path} was made with {different}; ask for it as it began, choose another folder, or delete this one."
            )

    def check_start(self, model: Model) -> None:
        """Refuses to begin anew with a model that is not known to be the one that the run began with."""
        began = self.identity.start
        if model_digest(model) != began:
            command = read_run(self.path).get("command", "")
            again = f" ({command})" if command else ""
            raise UserError(
                f"{self.path} has no checkpoint that can be read, and the model before its first step is gone; begin the run anew in "
                f"another folder{again}."
            )

    def save_model(self, model: Model) -> None:
        """Puts a model into ``model/``, whole or not at all."""
        with aside(self.model) as part:
            save_model(model, part)

    def save_last(self, model: Model, same: bool) -> None:
        """Puts the last model into ``last/``, unless it is the one in ``model/`` anyway."""
        if not same:
            with aside(self.path / "last") as part:
                save_model(model, part)
        else:
            self._remove("last")

    def tidy(self) -> None:
        """Removes what kills between two file operations may have left, once the run has come to its end."""
        for folder in (self.path, self.checkpoints):
            for left in (*folder.glob(".*.old"), *folder.glob(".*.part")):
                shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)

    def _remove(self, name: str) -> None:
        """Removes a folder; half of it never has its name."""
        shutil.rmtree(self._discarded(name), ignore_errors=True)
        if (self.path / name).exists():
            os.replace(self.path / name, self._discarded(name))
            shutil.rmtree(self._discarded(name), ignore_errors=True)

    def _discarded(self, name: str) -> Path:
        """Where a folder is put before it is removed."""
        return self.path / f".{name}.old"

    def note(self, name: str, facts: Mapping[str, object]) -> Path:
        """Writes a small JSON file into the run's folder."""
        write_json(self.path / name, facts, indent=2)
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


def run_facts(recipe: Recipe, dataset: Dataset) -> dict[str, object]:
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


class RunFacts(TypedDict):
    """``run.json``, as far as it is read."""

    data_hash: str
    recipe_hash: NotRequired[str]
    start: NotRequired[str]
    seconds: NotRequired[float]
    command: NotRequired[str]
    data: NotRequired[object]


def read_run(path: Path) -> RunFacts:
    """``run.json`` of a run. Raises :class:`UserError` if it is missing or broken."""
    return read_json(path / "run.json", RunFacts, "give the folder of a run, such as runs/latest")


def read_recipe(path: Path) -> Recipe:
    """The resolved recipe of a run."""
    return load_recipe(path / "recipe.toml")
