"""The folder of a task: what was asked for, the head when it is trained, and then its results.

::

    run.json         which task, data, model and seed; a folder of another one is refused
    recipe.toml      the resolved recipe: every default and override written out
    metrics.jsonl    one line a step; tensorboard/ the same
    checkpoints/     while it trains
    head.safetensors the trained head (and what was tuned of the image tower), once it is finished
    results.json     figures and items, as of ``wholegrain evaluate``; DATA.html, the page
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from safetensors.torch import save_file
from torch import Tensor

from wholegrain.errors import UserError
from wholegrain.evaluation.result import TaskResult, load_results, save_results
from wholegrain.files import aside, digest, disk_errors, keepable, read_json, shown, write_json, write_text
from wholegrain.locks import locked
from wholegrain.structure import JsonTable
from wholegrain.towers.tensor_files import read_tensors
from wholegrain.training.checkpoints.identity import dotted

AGAIN = "choose another folder with --out, or delete this one"


class RunFacts(TypedDict):
    """``run.json``."""

    task: str
    recipe: JsonTable
    data: str
    model: str


@dataclass(frozen=True)
class HeadIdentity:
    """What a trained head depends on.

    Attributes:
        task: its name.
        recipe: the resolved settings as plain values, the seed among them.
        data: a hash of pictures and examples.
        model: :func:`~wholegrain.towers.identity.model_digest`.
    """

    task: str
    recipe: Mapping[str, object]
    data: str
    model: str

    def differences(self, facts: RunFacts) -> str:
        """What a folder's run was made with, as against this one; empty if nothing differs."""
        if facts["task"] != self.task:
            return f"task {facts['task']}, not {self.task}"
        own, others = dotted(facts["recipe"]), dotted(json.loads(json.dumps(self.recipe)))
        found = [
            f"{name} {own.get(name, 'unset')}, not {others.get(name, 'unset')}"
            for name in sorted(own.keys() | others.keys())
            if own.get(name) != others.get(name)
        ]
        found += [f"other {name}" for name in ("data", "model") if facts[name] != getattr(self, name)]
        return "; ".join(found[:4])


class HeadFolder:
    """The folder of one task on one model and one data set.

    Args:
        path: new, or of the same identity.
        identity: what is asked for.

    Raises:
        UserError: another run is there; the sentence says what differs.
    """

    def __init__(self, path: Path, identity: HeadIdentity) -> None:
        keepable(path)
        self.path, self.identity = path, identity
        self._refuse_another()

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def head(self) -> Path:
        """The trained weights; there once training is finished."""
        return self.path / "head.safetensors"

    @property
    def begun(self) -> bool:
        return (self.path / "run.json").exists()

    def _refuse_another(self) -> None:
        if not self.begun:
            if (self.path / "results.json").exists() or self.checkpoints.exists():
                raise UserError(f"{shown(self.path)} holds something else (there is no run.json); {AGAIN}.")
            return
        facts = read_json(self.path / "run.json", RunFacts, AGAIN)
        different = self.identity.differences(facts)
        if different:
            raise UserError(f"{shown(self.path)} holds another run ({different}); {AGAIN}.")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other processes from working here. Raises :class:`UserError`: another one does, or holds another run."""
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        with locked(self.path, f"{self.identity.task}"):
            self._refuse_another()
            yield

    def begin(self, recipe_toml: str, origin: Mapping[str, object]) -> None:
        """Writes what the run is, unless it is there already; ``run.json`` comes last."""
        if self.begun:
            return
        with disk_errors(self.path):
            write_text(self.path / "recipe.toml", recipe_toml)
            facts = {**vars(self.identity), **origin, "wholegrain": importlib.metadata.version("wholegrain")}
            write_json(self.path / "run.json", facts, indent=2)

    def save_head(self, tensors: Mapping[str, Tensor]) -> None:
        """Writes the trained weights: from now on the training is finished, and its checkpoints go."""
        with disk_errors(self.path):
            with aside(self.head) as part:
                save_file({name: value.detach().cpu().contiguous() for name, value in sorted(tensors.items())}, part)
            shutil.rmtree(self.checkpoints, ignore_errors=True)

    def load_head(self) -> dict[str, Tensor] | None:
        """The trained weights, or ``None`` while there are none. Raises :class:`UserError` if the file is damaged."""
        return read_tensors(self.head, f"delete {self.head.name} to train it again") if self.head.exists() else None

    def results(self, facts: Mapping[str, object]) -> list[TaskResult] | None:
        """The results that lie there, if they are whole and were saved with these facts; ``None`` if they are to be made (again)."""
        if not (self.path / "results.json").exists():
            return None
        try:
            results, meta = load_results(self.path)
        except UserError:  # damaged
            return None
        return results if digest(meta) == digest(dict(facts)) else None

    def save_results(self, results: list[TaskResult], facts: Mapping[str, object]) -> Path:
        """Writes ``results.json`` and the items."""
        return save_results(results, self.path, facts)
