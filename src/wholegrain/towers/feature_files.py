"""Features on disk, so that the next run on the same pictures and texts need not encode them again.

A file of features is a safetensors file whose name has a hash of everything that its numbers depend on: the weights and the configuration,
the preprocessing or the tokens, the items, what was asked for, the precision. So it is never out of date; an unreadable one is made anew.
Its metadata hold ``facts``, JSON: the digest of its values, and what its writer says of them. Whoever wants the room back deletes the folder.

Kept are what frozen towers make of a training set (:mod:`wholegrain.training.loading.frozen`) or of a call
(:mod:`wholegrain.training.loading.cached_towers`), and what a model makes of an evaluation's pictures and texts
(:mod:`wholegrain.evaluation.features.feature_store`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NotRequired, TypedDict, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from wholegrain.errors import MachineError, UserError
from wholegrain.files import aside, digest, parse_json
from wholegrain.structure import StructureError
from wholegrain.towers.base import TunedModule
from wholegrain.towers.identity import state_digest
from wholegrain.towers.tensor_files import Header, read_header, read_tensors, tensors_digest

_AGAIN = "delete it"


class FeatureFacts(TypedDict):
    """What every file says of itself."""

    digest: NotRequired[str]


Facts = TypeVar("Facts")


def tower_digest(tower: TunedModule) -> str:
    """A hash of a tower's weights and configuration."""
    return digest([tower.config(), state_digest(tower)])


def features_name(kind: str, tower: str, facts: object, tensors: Iterable[Tensor] = ()) -> str:
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


def read_features(path: Path, most: float = math.inf) -> dict[str, Tensor] | None:
    """The tensors of a file; ``None`` if there is no such file, it is damaged, or it is larger than ``most`` bytes."""
    try:
        if path.stat().st_size > most:
            return None
        header, tensors = read_header(path, _AGAIN), read_tensors(path, _AGAIN)
        kept = header.metadata.get("digest") or _facts(header, FeatureFacts).get("digest")  # the former: of earlier versions
        return tensors if kept in (None, tensors_digest(tensors)) else None
    except (OSError, UserError, StructureError):
        return None


def read_facts(path: Path, kind: type[Facts]) -> tuple[Facts, Header] | None:
    """What the writer of a file said of its tensors, and their shapes; ``None`` as in :func:`read_features`, and for other facts.

    Args:
        kind: the type of the facts, a ``TypedDict``.
    """
    try:
        header = read_header(path, _AGAIN)
        return _facts(header, kind), header
    except (UserError, StructureError):
        return None


def _facts(header: Header, kind: type[Facts]) -> Facts:
    return parse_json(header.metadata.get("facts", ""), kind)


def write_features(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, object] | None = None) -> None:
    """Writes the tensors, whole or not at all, with facts about them that are fit for JSON.

    Raises:
        MachineError: the disk is full, or the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = {name: tensors[name].detach().contiguous() for name in sorted(tensors)}
        with aside(path) as part:
            save_file(whole, part, {"facts": json.dumps({**(facts or {}), "digest": tensors_digest(whole)})})
    except (OSError, SafetensorError) as problem:
        raise MachineError(
            f"Features could not be kept in {path.parent} ({problem}); make room there, or leave out --cache."
        ) from problem


def _bytes(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
