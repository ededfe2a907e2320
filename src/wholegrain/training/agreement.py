"""What all processes of a run must have alike, as short texts that can be compared and named."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

import wholegrain
from wholegrain.objectives.schema import Recipe
from wholegrain.training.checkpoint import Checkpoint


def facts_to_agree_on(
    recipe: Recipe, data_hash: str, model: nn.Module, total: int, saved: Checkpoint | None, resume: bool
) -> dict[str, str]:
    """Name -> value: code, every key of the recipe, data, weights, and where the run stands."""
    return {
        "version of torch": torch.__version__,
        "code of Wholegrain (hash)": code_hash()[:12],
        **{f'recipe\'s key "{name}"': value for name, value in _flat(dataclasses.asdict(recipe), "").items()},
        "data (content hash)": data_hash[:12],
        "number of steps": str(total),
        "question whether a run is resumed": "resumed" if resume else "new",
        "checkpoint to go on from": "none" if saved is None else _named(saved),
        "weights of the model (hash)": weights_hash(model)[:12],
    }


def weights_hash(model: nn.Module) -> str:
    """A hash of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, torch.Tensor):
            digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@cache
def code_hash() -> str:
    """A hash of this package's source files."""
    digest, folder = hashlib.sha256(), Path(wholegrain.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _named(saved: Checkpoint) -> str:
    files = json.dumps(saved.facts["files"], sort_keys=True)
    return f"step {saved.step} ({hashlib.sha256(files.encode()).hexdigest()[:12]})"


def _flat(tree: Any, prefix: str) -> dict[str, str]:
    """Dotted names of what is neither a table nor a list of tables -> JSON."""
    if isinstance(tree, (list, tuple)) and tree and all(isinstance(part, dict) for part in tree):
        tree = {str(part.get("name") or place): part for place, part in enumerate(tree)}
    if not isinstance(tree, dict):
        return {prefix: json.dumps(tree)}
    found: dict[str, str] = {}
    for name, part in tree.items():
        found |= _flat(part, f"{prefix}.{name}" if prefix else str(name))
    return found
