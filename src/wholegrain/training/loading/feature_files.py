"""Raw features of frozen towers on disk, so that the next run on the same pictures and texts need not encode them again.

One safetensors file per tower and set of items, named by a hash of everything that its numbers depend on: the tower's weights and
configuration, the preprocessing or the tokens, the items, what was asked for, the precision. A file is thus never out of date; an
unreadable one is made anew. Whoever wants the room back deletes the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from wholegrain.errors import MachineError, UserError
from wholegrain.files import digest
from wholegrain.towers.base import TunedModule
from wholegrain.towers.identity import state_digest
from wholegrain.towers.tensor_files import read_header, read_tensors, tensors_digest


def tower_digest(tower: TunedModule) -> str:
    """A hash of a tower's weights and configuration."""
    return digest([tower.config(), state_digest(tower)])


def features_name(kind: str, tower: str, facts: Any, tensors: Iterable[Tensor] = ()) -> str:
    """The file name of a tower's features of certain items.

    Args:
        kind: what is encoded, such as ``images``; the beginning of the name.
        tower: its :func:`tower_digest`.
        facts: what else the features depend on, fit for JSON.
        tensors: likewise, as tensors (such as token rows).
    """
    total = hashlib.sha256(json.dumps([tower, facts], sort_keys=True).encode())
    for value in tensors:
        total.update(f"{tuple(value.shape)}{value.dtype}".encode())
        total.update(_bytes(value))
    return f"{kind}-{total.hexdigest()[:32]}.safetensors"


def read_features(path: Path, most: float) -> dict[str, Tensor] | None:
    """The tensors of a file; ``None`` if there is no such file, it is damaged, or it is larger than ``most`` bytes."""
    try:
        if path.stat().st_size > most:
            return None
        tensors, kept = read_tensors(path, "delete it"), read_header(path, "delete it").metadata.get("digest")
        return tensors if kept in (None, tensors_digest(tensors)) else None
    except (OSError, UserError):
        return None


def write_features(path: Path, tensors: dict[str, Tensor]) -> None:
    """Writes the tensors, whole or not at all.

    Raises:
        MachineError: the disk is full, or the folder cannot be written to.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = {name: tensors[name].contiguous() for name in sorted(tensors)}
        save_file(whole, part, metadata={"digest": tensors_digest(whole)})
        os.replace(part, path)
    except (OSError, SafetensorError) as problem:
        raise MachineError(
            f"Features could not be kept in {path.parent} ({problem}); make room there, or leave out --cache."
        ) from problem
    finally:
        part.unlink(missing_ok=True)


def _bytes(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
