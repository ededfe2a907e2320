"""What all processes of a run must have alike, as short texts that can be compared and named."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

import torch
from torch import nn

from wholegrain.objectives.recipe import to_table
from wholegrain.objectives.schema import Recipe
from wholegrain.towers.identity import state_digest
from wholegrain.training.checkpoints.checkpoint import Checkpoint
from wholegrain.training.checkpoints.identity import dotted


def facts_to_agree_on(
    recipe: Recipe, data_hash: str, model: nn.Module, total: int, saved: Checkpoint | None, resume: bool
) -> dict[str, str]:
    """Name -> value: code, every key of the recipe, data, weights, and where the run stands."""
    return {
        "version of torch": torch.__version__,
        "code of Wholegrain (hash)": code_hash()[:12],
        **{f'recipe\'s key "{name}"': value for name, value in dotted(to_table(recipe)).items()},
        "data (content hash)": data_hash[:12],
        "number of steps": str(total),
        "question whether a run is resumed": "resumed" if resume else "new",
        "checkpoint to go on from": "none" if saved is None else _named(saved),
        "weights of the model (hash)": state_digest(model)[:12],
    }


@cache
def code_hash() -> str:
    """A hash of this package's source files."""
    digest, folder = hashlib.sha256(), Path(__file__).parents[2]
    for path in sorted(folder.rglob("*.py")):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _named(saved: Checkpoint) -> str:
    files = json.dumps(saved.facts["files"], sort_keys=True)
    return f"step {saved.step} ({hashlib.sha256(files.encode()).hexdigest()[:12]})"
