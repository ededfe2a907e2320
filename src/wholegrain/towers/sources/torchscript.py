"""The weights of a TorchScript archive, such as OpenAI's own CLIP files, without running or unpickling anything in it.

``torch.jit.load`` would compile the code that the archive brings. Here only its list of weights is read: names that belong to modules become
plain holders of their attributes, names that make tensors are answered here, and any other name is refused.
"""

from __future__ import annotations

import math
import pickle
import zipfile
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from wholegrain.errors import UserError
from wholegrain.towers.bounds import first_line

_TYPES = {"HalfStorage": torch.half, "FloatStorage": torch.float, "LongStorage": torch.long, "BFloat16Storage": torch.bfloat16}
_TYPES |= {"IntStorage": torch.int32, "DoubleStorage": torch.double, "BoolStorage": torch.bool, "ByteStorage": torch.uint8}
Made = TypeVar("Made")


class _Holder:
    """Stands for a module of the archive."""


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> Tensor:
    if math.prod(size) > storage.numel():
        raise pickle.UnpicklingError("a weight is larger than what is stored of it")
    return torch.as_strided(storage, size, stride, offset).clone()


def _first(value: Made, *_: object) -> Made:
    return value


class _Reader(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(archive.open(f"{root}data.pkl"))
        self._archive, self._root = archive, root

    def find_class(self, module: str, name: str) -> object:
        """What holds weights; everything else is refused, so nothing is run."""
        if module.split(".")[0] == "__torch__":
            return _Holder
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch.jit._pickle":
            return _first
        if module == "torch" and name in _TYPES:
            return name
        raise pickle.UnpicklingError(f"{module}.{name} is no weight")

    def persistent_load(self, pid: tuple[str, str, str, str, int]) -> Tensor:
        _, kind, key, _, count = pid
        if not count:
            return torch.empty(0, dtype=_TYPES[kind])
        data = bytearray(self._archive.read(f"{self._root}data/{key}"))
        return torch.frombuffer(data, dtype=_TYPES[kind], count=count)


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """name -> tensor, of every module in the archive.

    Raises:
        UserError: the archive is damaged, or holds anything but modules and tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            root = next(name.removesuffix("data.pkl") for name in archive.namelist() if name.endswith("/data.pkl"))
            found: dict[str, Tensor] = {}
            _collect(_Reader(archive, root).load(), "", found)
    except Exception as error:  # a damaged pickle raises whatever its words happen to call
        raise UserError(
            f"{path} cannot be read as a TorchScript archive ({first_line(error)}); give safetensors or a plain state dict"
        ) from error
    return found


def _collect(holder: object, prefix: str, found: dict[str, Tensor]) -> None:
    for name, value in vars(holder).items():
        if isinstance(value, Tensor):
            found[prefix + name] = value
        elif isinstance(value, _Holder):
            _collect(value, f"{prefix}{name}.", found)
