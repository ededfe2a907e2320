"""What a task is: a head that is trained on an image tower's tokens, its targets, its loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from wholegrain.downstream.settings import TaskSettings
from wholegrain.towers.base import RawImage
from wholegrain.towers.model import Model

View = Literal["whole", "seen"]


@dataclass(frozen=True)
class Term:
    """One term of a loss, in parts that processes can add up: the loss is the sum of all totals over the sum of all counts.

    So a step of two processes is the step of one to rounding, however unequal their parts of the batch are.

    Attributes:
        total: a sum over this process's examples (not a mean), a scalar with gradient.
        count: what the sum over all processes is divided by (boxes, pixels, tokens, examples); below 1 it counts as 1.
        weight: of the term in the loss.
    """

    total: Tensor
    count: float
    weight: float = 1.0


class PictureData(Protocol):
    """Pictures by key; :class:`~wholegrain.data.dataset.Dataset` is one.

    Attributes:
        content_hash: the same data, the same text: part of what a run is.
    """

    @property
    def content_hash(self) -> str: ...
    def pixels(self, key: str, /) -> np.ndarray: ...


class Example(Protocol):
    """One example of a task: at least the key of its picture. Several examples may share a picture."""

    @property
    def key(self) -> str: ...


class Targets(Protocol):
    """What the examples of a batch ask for, as tensors."""

    def to(self, device: torch.device, /) -> Self: ...


ExampleT = TypeVar("ExampleT", bound=Example)
Given = TypeVar("Given", bound=Example, contravariant=True)
TargetsT = TypeVar("TargetsT", bound=Targets)


class HeadTask(Protocol[Given, TargetsT]):
    """A task that :func:`wholegrain.downstream.trainer.train_head` can train.

    Its examples are made of prepared data by its own reader, and measured by its own ``evaluate``, which gives
    :class:`~wholegrain.evaluation.result.TaskResult`: the trainer needs neither.

    Attributes:
        name: as its recipe, its command and its results are called.
        settings: a frozen dataclass (:func:`wholegrain.downstream.settings.load_settings`).
        needs: of the image tower beside the pooled vector: ``patches`` or nothing.
        view: ``whole``: the whole picture, made square, so that nothing is cut off; ``seen``: as the model's own preprocessing has it.
    """

    @property
    def name(self) -> str: ...
    @property
    def settings(self) -> TaskSettings: ...
    @property
    def needs(self) -> frozenset[str]: ...
    @property
    def view(self) -> View: ...

    def make_head(self, model: Model) -> nn.Module:
        """A new head for this model, which is on its device and frozen; called under the recipe's seed. What it needs of the model (such as
        vectors of texts) it takes now. Parameters and buffers of the head are what is saved."""
        ...

    def targets(self, examples: Sequence[Given], random: Sequence[np.random.Generator]) -> TargetsT:
        """The targets of a batch, on the CPU. ``random`` has each example's own stream, a function of the seed and the place of the example in
        the training: the same in whatever process it falls."""
        ...

    def loss(self, head: nn.Module, image: RawImage, targets: TargetsT) -> dict[str, Term]:
        """The terms of the loss, the same names at every step; ``image`` and ``targets`` are on the head's device, row for row with the examples."""
        ...
