"""Released code at fixed commits, read out of clones that the user made, and imported without what it does not need.

Nothing of it is kept here. A file is taken by ``git show COMMIT:PATH``, so it does not matter what is checked out, and written into a
temporary folder. Modules that it imports and that the loss does not use (trainers, data sets, backbones) are replaced by empty ones.
"""

from __future__ import annotations

import importlib
import io
import subprocess
import sys
import tarfile
import tempfile
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Original:
    """One file (or package) of released code.

    Attributes:
        repository: ``owner/name`` on GitHub; its clone is the folder ``name``.
        commit: which version.
        paths: what is taken out of it.
        module: what is imported, with the folder ``root`` of the clone on the path.
        empty: modules that are replaced by empty ones.
    """

    repository: str
    commit: str
    paths: tuple[str, ...]
    module: str
    root: str = ""
    empty: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """``owner/name@1234567``."""
        return f"{self.repository}@{self.commit[:7]}"


class MissingError(Exception):
    """There is no such clone, no such commit, or it needs something that is not installed."""


class Originals:
    """The clones in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._loaded: dict[Original, Any] = {}

    def load(self, original: Original) -> Any:
        """The module; :class:`MissingError` says what is not there."""
        if original not in self._loaded:
            self._loaded[original] = self._load(original)
        return self._loaded[original]

    def _load(self, original: Original) -> Any:
        clone = self.folder / original.repository.rpartition("/")[2]
        if not clone.exists():
            raise MissingError(f"no clone {clone.name}")
        with tempfile.TemporaryDirectory() as place:
            git = ["git", "-C", str(clone), "archive", original.commit, *original.paths]
            packed = subprocess.run(git, capture_output=True, check=False)
            if packed.returncode:
                raise MissingError(packed.stderr.decode().strip().splitlines()[-1])
            with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
                archive.extractall(place, filter="data")
            try:
                with _alone(Path(place) / original.root, original.module, original.empty):
                    return importlib.import_module(original.module)
            except ImportError as problem:
                raise MissingError(str(problem)) from None


@contextmanager
def _alone(root: Path, module: str, empty: tuple[str, ...]) -> Iterator[None]:
    """``root`` first on the path, ``empty`` in place, and afterwards everything as it was; torch's global switches, too."""
    before, path = dict(sys.modules), list(sys.path)
    own = module.partition(".")[0]
    for name in [name for name in sys.modules if name == own or name.startswith(f"{own}.")]:
        del sys.modules[name]
    for name in empty:
        sys.modules[name] = _Empty(name)
    sys.path.insert(0, str(root))
    anomaly, deterministic, benchmark = (
        torch.is_anomaly_enabled(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
    )
    try:
        yield
    finally:
        sys.path[:] = path
        new = {name: part for name, part in sys.modules.items() if name not in before and name not in empty}
        for name in [*empty, *(name for name in new if name == own or name.startswith(f"{own}."))]:
            sys.modules.pop(name, None)
        sys.modules.update(before)
        torch.autograd.set_detect_anomaly(anomaly)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = deterministic, benchmark


class _Empty(types.ModuleType):
    """A module in which every name is an empty ``nn.Module`` class, so that it can be imported from and derived from."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (nn.Module,), {})
        setattr(self, name, made)
        return made
