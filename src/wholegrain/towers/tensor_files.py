"""Files of tensors: safetensors, or what ``torch.load(weights_only=True)`` accepts; nothing in them is run."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from wholegrain.errors import UserError
from wholegrain.files import UnreadableError, open_file, read_json
from wholegrain.towers.bounds import first_line

SAFETENSORS = ".safetensors"


@dataclass(frozen=True)
class Header:
    """What a safetensors file says that it holds; the library has checked that its parts cover the file.

    Attributes:
        shapes: name -> shape.
        types: name -> type, such as ``F32``.
        metadata: texts beside them.
    """

    shapes: Mapping[str, tuple[int, ...]]
    types: Mapping[str, str]
    metadata: Mapping[str, str]


def size_of(path: Path, advice: str) -> int:
    """Bytes of a regular file; there are at most as many weights in it.

    Raises:
        UserError: it is missing, or of another kind.
    """
    handle = open_file(path, advice)
    try:
        return os.fstat(handle).st_size
    finally:
        os.close(handle)


def read_header(path: Path, advice: str) -> Header:
    """The header of a safetensors file, without its values.

    Raises:
        UserError: no regular file, or no whole safetensors file.
    """
    size_of(path, advice)
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            return Header(shapes, {name: part.get_dtype() for name, part in slices.items()}, dict(file.metadata() or {}))
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise UnreadableError(path, f"cannot be loaded, it is no whole safetensors file ({first_line(error)})", advice) from None


def read_tensors(path: Path, advice: str) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises:
        UserError: as :func:`read_header`.
    """
    size_of(path, advice)
    try:
        return load_file(path)
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise UnreadableError(path, f"cannot be loaded, it is no whole safetensors file ({first_line(error)})", advice) from None


def read_weights(path: Path) -> dict[str, object]:
    """A state dict from safetensors, or from a torch file without unpickling code."""
    advice = "give safetensors or a plain state dict"
    if not path.exists():
        raise UserError(f"the weights file {path} does not exist; check the path")
    if path.suffix == SAFETENSORS:
        return dict(read_tensors(path, advice))
    size_of(path, advice)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UnreadableError(path, f"cannot be read as weights ({type(error).__name__})", advice) from None
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise UnreadableError(path, "cannot be read as weights (it holds no table of tensors)", advice)
    return state


def safetensors_of(folder: Path, advice: str) -> list[Path]:
    """``model.safetensors`` of a folder, or the parts that ``model.safetensors.index.json`` names; empty if it has neither.

    Raises:
        UserError: a part is missing, or the index is damaged or names something elsewhere.
    """
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if os.path.lexists(whole):
        return [whole]
    if not os.path.lexists(index):
        return []
    names = sorted(set(read_json(index, _Index, advice)["weight_map"].values()))
    for name in names:
        if Path(name).name != name or not name.endswith(SAFETENSORS):
            raise UserError(f"{index} names {name[:80]!r}, which is no part of it; {advice}.")
        if not (folder / name).is_file():
            raise UserError(f"{folder} lacks {name}; {advice}")
    return [folder / name for name in names]


class _Index(TypedDict):
    weight_map: dict[str, str]


def uncompiled(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without the prefix that compiled blocks carry in their names."""
    return {key.replace("_orig_mod.", ""): value for key, value in state.items()}


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) of names, types, shapes and values; the order does not matter."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
