"""Problems whose answer is known on paper: features that cannot be told apart, one pair alone, vectors at right angles."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.verify.cases import BIAS, KINDS, SCALE, Batch, alike, lone_pair

IMAGES, FOILS, TOKENS, BRANCHES = 4, 3, 5, 3
ALIKE = 2.0  # what ``small_match`` says where everything is alike


@dataclass(frozen=True)
class ClosedForm:
    """A problem and its answer.

    Attributes:
        description: the problem in words, with the answer as a formula.
        batch: the problem.
        expected: the answer.
        scale: at which it is the answer.
        margin: of a loss that carries margins: what every kind carries.
    """

    description: str
    batch: Batch
    expected: float
    scale: float = SCALE
    margin: float = 0.0


def right_angles(images: int = IMAGES) -> Batch:
    """One caption an image, with the image's own vector; different images are at right angles."""
    eye = torch.eye(images, 8, dtype=torch.float64)
    pairing = replace(Pairing.one_to_one(images), kinds=KINDS, side_B=torch.arange(images) % 2)
    patches = eye[:, None].repeat(1, 4, 1)
    mask = torch.ones(images, 2, dtype=torch.bool)
    return Batch(
        ImageFeatures(eye, eye[:, None].repeat(1, BRANCHES, 1), patches, (2, 2)),
        TextFeatures(eye, eye[:, None].repeat(1, 2, 1), mask),
        pairing,
    )


def all_alike(foils: int = FOILS, captions: int = 1, tokens: int = TOKENS) -> Batch:
    """Four images whose captions, with three foils each, cannot be told apart."""
    return alike(IMAGES, foils, tokens, captions)


def of_softmax(foils: int) -> Iterator[ClosedForm]:
    """Of a symmetric softmax; ``foils``: how many of the foils among ``all_alike()`` are an image's candidates."""
    rivals = IMAGES + foils
    value = (math.log(rivals) + math.log(IMAGES)) / 2
    yield ClosedForm(f"4 images, 4 captions, 12 foils, all alike: (ln {rivals} + ln 4) / 2", all_alike(), value)
    rivals = 1 + 2 * (IMAGES - 1)
    value = (math.log(rivals) + math.log(IMAGES)) / 2
    yield ClosedForm(f"4 images of two captions each, all alike: (ln {rivals} + ln 4) / 2", all_alike(0, captions=2), value)
    yield ClosedForm("one image and its caption: 0", lone_pair(right_angles()), 0.0)


def at_right_angles(fixed: float | None = None) -> Iterator[ClosedForm]:
    """Of a softmax whose score is the scale for the own caption and 0 for others; ``fixed``: the loss has a scale of its own."""
    for scale in (1.0, SCALE):
        own = scale if fixed is None else fixed
        description = f"4 images and their captions at right angles: ln(1 + 3 e^-scale), scale {own:g}"
        yield ClosedForm(description, right_angles(), math.log1p((IMAGES - 1) * math.exp(-own)), scale)


def of_sigmoid(foils: int) -> Iterator[ClosedForm]:
    """Of the sigmoid loss by images; ``foils`` as in :func:`of_softmax`."""
    yes, no, false = math.log1p(math.exp(-(SCALE + BIAS))), math.log1p(math.exp(SCALE + BIAS)), IMAGES - 1 + foils
    yield ClosedForm(f"all alike: 1 cell an image with z = 1, {false} with z = -1", all_alike(), yes + false * no)
    cell = math.log1p(math.exp(BIAS))
    yield ClosedForm("right angles: 1 cell at scale + bias, 3 at bias", right_angles(), yes + (IMAGES - 1) * cell)
