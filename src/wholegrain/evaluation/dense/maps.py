"""Class names against the patches of views, by one or several read-outs of the same pass of the tower."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wholegrain.evaluation.contract import EvaluatedModel
from wholegrain.evaluation.features.encode import device_of
from wholegrain.evaluation.read_outs.contract import AnyReadOut, Phrase
from wholegrain.evaluation.read_outs.registry import COMMON, looks
from wholegrain.evaluation.tasks.zero_shot import class_vectors


@dataclass(frozen=True)
class AskedNames:
    """A read-out, and what N names are asked for with by it: ``[N, …]``."""

    read_out: AnyReadOut
    asked_N: Tensor

    @classmethod
    def of(cls, read_out: AnyReadOut, names: Sequence[str], templates: Sequence[str], batch: int) -> AskedNames:
        """Means over the templates; where pooled vectors are asked with, of unit vectors and made unit again
        (:func:`~wholegrain.evaluation.tasks.zero_shot.class_vectors`)."""
        if read_out.asks_pooled:
            return cls(read_out, class_vectors(read_out.model, names, templates, batch))
        asked = read_out.ask([Phrase.filled(template, name) for name in names for template in templates])
        return cls(read_out, asked.unflatten(0, (len(names), len(templates))).mean(1))


def task_name(task: str, read_out: AnyReadOut) -> str:
    """The name of a task's result by a read-out: its own by the common one.

    Example:
        >>> from types import SimpleNamespace
        >>> task_name("pointing", SimpleNamespace(name="token")), task_name("pointing", SimpleNamespace(name="pooled"))
        ('pointing_token', 'pointing')
    """
    return task if read_out.name == COMMON else f"{task}_{read_out.name}"


@dataclass(frozen=True)
class SeenViews:
    """What each of some read-outs looks at in a few views.

    Attributes:
        places: which views.
        looks: one for each read-out.
        grid: rows and columns of patches.
    """

    places: range
    looks: list[object]
    grid: tuple[int, int]


def seen_views(
    model: EvaluatedModel, read_outs: Sequence[AnyReadOut], views: Sequence[np.ndarray | Tensor], batch: int
) -> Iterator[SeenViews]:
    """Batch by batch, for uint8 views ``[3, S, S]``.

    Raises:
        NotSupportedError: the model gives no patches.
    """
    for start in range(0, len(views), batch):
        pixels_BCHW = torch.from_numpy(np.stack([np.asarray(view) for view in views[start : start + batch]]))
        seen, grid = looks(read_outs, pixels_BCHW.to(device_of(model)))
        yield SeenViews(range(start, start + len(pixels_BCHW)), seen, grid)
