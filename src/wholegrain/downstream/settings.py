"""The recipe of a task: a small TOML file whose tables are the fields of a frozen dataclass."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Protocol, TypeVar

import tomli_w

from wholegrain.errors import UserError
from wholegrain.files import read_toml, shown
from wholegrain.objectives.recipe import overridden
from wholegrain.structure import StructureError, structure

ADVICE = "give a .toml file with the tables of the packaged recipe"


@dataclasses.dataclass(frozen=True)
class HeadTraining:
    """How a head is trained: AdamW with a linear warm-up, then a cosine to zero. Vectors and single numbers do not decay.

    Attributes:
        steps: optimiser steps.
        batch: examples per step, over all processes together.
        lr: peak learning rate of the head.
        tune: what is trained of the image tower: ``none``, ``all`` or ``last:N`` (its last N stages).
        tower_lr: factor on ``lr`` for what is trained of the image tower.
        weight_decay, betas: AdamW's.
        warmup_steps: at most half of all steps are used for it.
        grad_clip: largest norm of the gradient; 0 is no clipping.
        precision: ``fp32``, or ``bf16`` (autocast).
        save_every: steps between checkpoints; 0 keeps one at the end alone.
        seed: of the head's first weights, of the order, and of all that is drawn.
    """

    steps: int = 1000
    batch: int = 32
    lr: float = 1e-3
    tune: str = "none"
    tower_lr: float = 0.01
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_steps: int = 100
    grad_clip: float = 1.0
    precision: str = "fp32"
    save_every: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch", 1), ("warmup_steps", 0), ("save_every", 0), ("seed", 0)):
            require(least <= getattr(self, name) < 2**63, f"training.{name}", getattr(self, name), f"{least} or more")
        for name in ("lr", "tower_lr", "weight_decay", "grad_clip"):
            value = getattr(self, name)
            require(math.isfinite(value) and value >= 0, f"training.{name}", value, "a finite number, 0 or more")
        require(self.precision in ("fp32", "bf16"), "training.precision", self.precision, "fp32 or bf16")
        require(all(0 <= beta < 1 for beta in self.betas), "training.betas", list(self.betas), "two numbers in [0, 1)")


class TaskSettings(Protocol):
    """The settings of a task: a frozen dataclass with ``training`` and whatever else the task has."""

    @property
    def training(self) -> HeadTraining: ...


Settings = TypeVar("Settings")


def require(fine: bool, name: str, value: object, wanted: str) -> None:
    """For ``__post_init__`` of settings. Raises ``ValueError``: ``name is value; it must be wanted``."""
    if not fine:
        raise ValueError(f"{name} is {value!r}; it must be {wanted}")


def load_settings(task: str, kind: type[Settings], source: Path | None = None, overrides: Sequence[str] = ()) -> Settings:
    """The settings of a task: from its packaged recipe ``recipes/downstream/TASK.toml`` or from a file, with overrides.

    Args:
        task: the recipe's name.
        kind: the dataclass that the tables are fields of.
        source: a TOML file of the user's; the packaged recipe by default.
        overrides: ``--dotted.key value`` as two items or ``--dotted.key=value`` as one, as of ``wholegrain train``.

    Raises:
        UserError: names the file and the key that is wrong.
    """
    path = source or Path(str(resources.files("wholegrain.recipes").joinpath(f"downstream/{task}.toml")))
    table = overridden(read_toml(path, ADVICE), overrides)
    try:
        return structure(table, kind)
    except StructureError as problem:
        where = f"The recipe {shown(source)}" if source is not None else f'The recipe of the task "{task}"'
        raise UserError(f"{where} {problem}; correct it.") from None


def to_table(settings: object) -> dict[str, object]:
    """Settings as nested tables of plain values."""
    assert dataclasses.is_dataclass(settings)
    assert not isinstance(settings, type)
    return {key: _plain(value) for key, value in dataclasses.asdict(settings).items()}


def to_toml(settings: object) -> str:
    """The resolved recipe, every default written out, as TOML that :func:`load_settings` reads back."""
    return tomli_w.dumps(to_table(settings))


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (tuple, list)) else value
