"""Detection as a task of :mod:`wholegrain.downstream.trainer`: which names a picture is asked for, and the head's loss on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from wholegrain.downstream.detection.boxes import BoxedPicture, unit_boxes
from wholegrain.downstream.detection.head import Candidates, OwlHead, OwlSettings
from wholegrain.downstream.detection.losses import DetectionLoss
from wholegrain.downstream.settings import HeadTraining, require
from wholegrain.downstream.task import Term, View
from wholegrain.evaluation.tasks.templates import templates_of
from wholegrain.evaluation.tasks.zero_shot import class_vectors
from wholegrain.towers.base import RawImage
from wholegrain.towers.model import Model


@dataclass(frozen=True)
class DetectionData:
    """What is asked and what is counted.

    Attributes:
        held_out: share of names of two words or more that training never sees, drawn by the seed; where the annotations state frequencies (LVIS),
            the rare ones in their place.
        templates: sentences for names, as of ``wholegrain evaluate``.
        negatives: names that a picture is asked for in training beside those in it: first those that are stated to be absent, then others at random.
        queries: at most so many names a picture in training.
        detections: at most so many a picture when measured.
    """

    held_out: float = 0.1
    templates: tuple[str, ...] = ("plain",)
    negatives: int = 50
    queries: int = 100
    detections: int = 300

    def __post_init__(self) -> None:
        require(0 <= self.held_out < 1, "data.held_out", self.held_out, "from 0 to below 1")
        require(0 <= self.negatives <= 10**6, "data.negatives", self.negatives, "from 0 to 1,000,000")
        for name in ("queries", "detections"):
            require(1 <= getattr(self, name) <= 10**5, f"data.{name}", getattr(self, name), "from 1 to 100,000")


@dataclass(frozen=True)
class DetectionSettings:
    """The recipe of detection."""

    training: HeadTraining = field(default_factory=HeadTraining)
    head: OwlSettings = field(default_factory=OwlSettings)
    loss: DetectionLoss = field(default_factory=DetectionLoss)
    data: DetectionData = field(default_factory=DetectionData)


@dataclass(frozen=True)
class DetectionTargets:
    """What a batch asks for.

    Attributes:
        query_BQ: places in the vocabulary, int64; padding is 0.
        real_BQ: False at padding.
        boxes: for each picture ``[M, 4]``, centre and size in shares of the picture.
        labels: for each picture the query of each box, int64 ``[M]``.
    """

    query_BQ: Tensor
    real_BQ: Tensor
    boxes: list[Tensor]
    labels: list[Tensor]

    def to(self, device: torch.device) -> DetectionTargets:
        """The same on a device."""
        parts = ([part.to(device) for part in parts] for parts in (self.boxes, self.labels))
        return DetectionTargets(self.query_BQ.to(device), self.real_BQ.to(device), *parts)


class Detector(nn.Module):
    """OWL-ViT's heads with the vectors of the names that training asks for (which are made of the model, and not saved)."""

    def __init__(self, owl: OwlHead, text_CD: Tensor) -> None:
        super().__init__()
        self.owl = owl
        self.text_CD: Tensor
        self.register_buffer("text_CD", text_CD, persistent=False)

    def forward(self, image: RawImage) -> Candidates:
        return self.owl(image)


class DetectionTask:
    """Detection with the names of the training pictures.

    Args:
        settings: the recipe.
        names: that training asks for; held-out names are not among them.
    """

    name = "detect"
    needs = frozenset({"patches"})
    view: View = "whole"

    def __init__(self, settings: DetectionSettings, names: Sequence[str]) -> None:
        self.settings, self.names = settings, tuple(names)
        self._place = {name: place for place, name in enumerate(self.names)}

    def make_head(self, model: Model) -> Detector:
        """New heads, and the names' vectors by the model's text tower."""
        return Detector(OwlHead.for_model(model, self.settings.head), text_vectors(model, self.names, self.settings.data.templates))

    def targets(self, examples: Sequence[BoxedPicture], random: Sequence[np.random.Generator]) -> DetectionTargets:
        """Every picture is asked for its own names and some that it does not have."""
        asked = [self._asked(example, one) for example, one in zip(examples, random, strict=True)]
        most = max(1, *map(len, asked)) if asked else 1
        query_BQ = torch.zeros(len(asked), most, dtype=torch.int64)
        real_BQ = torch.zeros(len(asked), most, dtype=torch.bool)
        boxes, labels = [], []
        for b, (example, queries) in enumerate(zip(examples, asked, strict=True)):
            query_BQ[b, : len(queries)] = torch.tensor([self._place[name] for name in queries], dtype=torch.int64)
            real_BQ[b, : len(queries)] = True
            kept = [n for n, name in enumerate(example.names) if name in queries]
            boxes.append(torch.from_numpy(unit_boxes(example)[kept]))
            labels.append(torch.tensor([queries.index(example.names[n]) for n in kept], dtype=torch.int64))
        return DetectionTargets(query_BQ, real_BQ, boxes, labels)

    def _asked(self, picture: BoxedPicture, random: np.random.Generator) -> list[str]:
        data = self.settings.data
        own = list(dict.fromkeys(picture.names))[: data.queries]
        room = min(data.negatives, data.queries - len(own))
        never = {*picture.names, *picture.unsure}
        stated = [name for name in picture.absent or () if name in self._place and name not in never]
        drawn = [stated[n] for n in random.permutation(len(stated))[:room]]
        never |= set(drawn)
        if len(drawn) < room:
            order = random.permutation(len(self.names))
            drawn += [name for place in order if (name := self.names[place]) not in never][: room - len(drawn)]
        return own + drawn

    def loss(self, head: nn.Module, image: RawImage, targets: DetectionTargets) -> dict[str, Term]:
        """Names, boxes and generalised IoU; see :mod:`wholegrain.downstream.detection.losses`."""
        assert isinstance(head, Detector)
        candidates = head(image)
        logits_BPQ = candidates.logits(head.text_CD[targets.query_BQ])
        return self.settings.loss.terms(logits_BPQ, candidates.box_BP4, targets.real_BQ, targets.boxes, targets.labels)


def text_vectors(model: Model, names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Unit vectors of names ``[C, D]`` float32 on the model's device: means over the templates."""
    return class_vectors(model, names, templates_of(templates), 256).float().to(model.device)
