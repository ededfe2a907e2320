"""The smallest task on top of an image tower: which colours the halves of a picture of ``tiny_training`` have, read from every patch."""

from dataclasses import dataclass, field

import torch
from tiny_training import COLOURS
from torch import nn

from wholegrain.downstream.settings import HeadTraining
from wholegrain.downstream.task import Term

NAMES = list(COLOURS)


@dataclass(frozen=True)
class ColourSettings:
    training: HeadTraining = field(default_factory=HeadTraining)
    dropout: float = 0.0


@dataclass(frozen=True)
class ColourExample:
    key: str
    colours: tuple[int, ...]


@dataclass(frozen=True)
class ColourTargets:
    wanted_BC: torch.Tensor
    noise_B: torch.Tensor

    def to(self, device):
        return ColourTargets(self.wanted_BC.to(device), self.noise_B.to(device))


class ColourTask:
    name, needs, view = "colour", frozenset({"patches"}), "whole"

    def __init__(self, settings):
        self.settings = settings

    def make_head(self, model):
        return nn.Sequential(nn.Linear(model.image_tower.width, 8), nn.Dropout(self.settings.dropout), nn.Linear(8, len(NAMES)))

    def targets(self, examples, random):
        wanted = torch.zeros(len(examples), len(NAMES))
        for row, example in zip(wanted, examples, strict=True):
            row[list(example.colours)] = 1.0
        return ColourTargets(wanted, torch.tensor([float(one.random()) for one in random]))

    def loss(self, head, image, targets):
        logits_BC = head(image.patches_BPV).amax(1) + 0.01 * targets.noise_B[:, None]
        wrong_B = nn.functional.binary_cross_entropy_with_logits(logits_BC, targets.wanted_BC, reduction="none").sum(1)
        red_B = targets.wanted_BC[:, 0]  # of these some processes may have none
        return {"all": Term(wrong_B.sum(), len(wrong_B)), "red": Term((wrong_B * red_B).sum(), float(red_B.sum()), 0.5)}


def examples_of(dataset, split="train"):
    found = []
    for key in dataset.keys(split):
        words = dataset.record(key).captions[0].text.split()
        found.append(ColourExample(key, tuple(sorted({NAMES.index(words[0]), NAMES.index(words[2])}))))
    return found
