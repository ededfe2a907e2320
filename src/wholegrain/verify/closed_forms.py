"""Problems whose answer is known on paper: features that cannot be told apart, one pair alone, vectors at right angles."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.verify.cases import KINDS, PROTOTYPES, Batch, alike, lone_pair
from wholegrain.verify.subject import BIAS, SCALE

IMAGES, FOILS, TOKENS, BRANCHES = 4, 3, 5, 3
ALIKE = 2.0  # what ``small_match`` says where everything is alike


@dataclass(frozen=True)
class ClosedForm:
    """A problem and its answer.

    Attributes:
        said: the problem in words, with the answer as a formula.
        batch: the problem.
        expected: the answer.
        scale: at which it is the answer.
        margin: of a loss that carries margins: what every kind carries.
    """

    said: str
    batch: Batch
    expected: float
    scale: float = SCALE
    margin: float = 0.0


def closed_forms(loss: Any) -> list[ClosedForm]:
    """What is known on paper of a packaged loss with its settings; empty for any other."""
    known = _BY_CLASS.get(type(loss).__name__)
    return [] if known is None else list(known(loss))


def right_angles(images: int = IMAGES) -> Batch:
    """One caption an image, with the image's own vector; different images are at right angles."""
    eye = torch.eye(images, 8, dtype=torch.float64)
    pairing = replace(Pairing.one_to_one(images), kinds=KINDS)
    patches = eye[:, None].repeat(1, 4, 1)
    mask = torch.ones(images, 2, dtype=torch.bool)
    return Batch(
        ImageFeatures(eye, eye[:, None].repeat(1, BRANCHES, 1), patches, (2, 2)),
        TextFeatures(eye, eye[:, None].repeat(1, 2, 1), mask),
        pairing,
    )


def _same(foils: int = FOILS) -> Batch:
    return alike(IMAGES, foils, TOKENS)


def _softmax(foils: int, loss: Any, cosines: bool = True, fixed: float | None = None) -> Iterator[ClosedForm]:
    """Of a symmetric softmax; ``foils``: how many of the foils among ``_same()`` are an image's candidates.

    ``cosines``: at right angles its scores are the scale for the own caption and 0 for others. ``fixed``: the loss has a scale of its own.
    """
    rivals = IMAGES + foils
    value = (math.log(rivals) + math.log(IMAGES)) / 2
    yield ClosedForm(f"4 images, 4 captions, 12 foils, all alike: (ln {rivals} + ln 4) / 2", _same(), value)
    rivals = 1 + 2 * (IMAGES - 1)
    value = (math.log(rivals) + math.log(IMAGES)) / 2
    said = f"4 images of two captions each, all alike: (ln {rivals} + ln 4) / 2"
    yield ClosedForm(said, alike(IMAGES, 0, TOKENS, captions=2), value)
    yield ClosedForm("one image and its caption: 0", lone_pair(right_angles()), 0.0)
    if cosines and getattr(loss, "label_smoothing", 0.0) == 0:
        yield from _at_right_angles(fixed)


def _at_right_angles(fixed: float | None = None) -> Iterator[ClosedForm]:
    for scale in (1.0, SCALE):
        own = scale if fixed is None else fixed
        said = f"4 images and their captions at right angles: ln(1 + 3 e^-scale), scale {own:g}"
        yield ClosedForm(said, right_angles(), math.log1p((IMAGES - 1) * math.exp(-own)), scale)


def _sigmoid(false: int) -> Iterator[ClosedForm]:
    """``false``: an image's negatives among ``_same()``."""
    yes, no = math.log1p(math.exp(-(SCALE + BIAS))), math.log1p(math.exp(SCALE + BIAS))
    yield ClosedForm(f"all alike: 1 cell an image with z = 1, {false} with z = -1", _same(), yes + false * no)
    cell = math.log1p(math.exp(BIAS))
    yield ClosedForm("right angles: 1 cell at scale + bias, 3 at bias", right_angles(), yes + (IMAGES - 1) * cell)


def _clip(loss: Any) -> Iterator[ClosedForm]:
    return _softmax(0, loss, fixed=None if loss.temperature is None else 1 / loss.temperature)


def _negclip(loss: Any) -> Iterator[ClosedForm]:
    return _softmax(FOILS * (1 if loss.own_only else IMAGES), loss)


def _conditioned(loss: Any) -> Iterator[ClosedForm]:
    foils = {"none": 0, "own": FOILS, "all": FOILS * IMAGES}[loss.negatives]
    return _softmax(foils, loss) if loss.kind == "softmax" else _sigmoid(IMAGES - 1 + foils)


def _siglip(loss: Any) -> Iterator[ClosedForm]:
    return _sigmoid(IMAGES - 1)


def _imc(loss: Any) -> Iterator[ClosedForm]:
    if loss.variant == "own":
        yield ClosedForm("a caption and its 3 foils alike: ln 4", _same(), math.log(1 + FOILS))
    elif loss.variant == "paper":
        peak = ALIKE if loss.scores == "joint" else SCALE if loss.scaled else 1.0
        yield ClosedForm("3 foils like their caption: their score + ln 3", _same(), peak + math.log(FOILS))
    else:
        rivals = FOILS * IMAGES + (loss.variant in ("cross_modal", "first_release"))
        yield ClosedForm(f"12 foils like everything: ln {rivals}", _same(), math.log(rivals))
    yield ClosedForm("no foils: 0", _same(0), 0.0)


def _cmr(loss: Any) -> Iterator[ClosedForm]:
    margin = loss.fixed if loss.margin == "fixed" else 0.0
    yield ClosedForm(f"foils like their caption: the first margin, {margin:g}", _same(), margin)
    if loss.margin != "fixed":
        yield ClosedForm("foils like their caption, margins of 4 carried: 4", _same(), 4.0, margin=4.0)
    yield ClosedForm("no foils: 0", _same(0), 0.0)


def _sparc(loss: Any) -> Iterator[ClosedForm]:
    kinds = {"tokens": [TOKENS], "images": [IMAGES], "both": [TOKENS, IMAGES]}[loss.rivals]
    said = f"4 images, captions of 5 tokens, all alike: {' and '.join(f'ln {n}' for n in kinds)}, their mean"
    yield ClosedForm(said, _same(), sum(map(math.log, kinds)) / len(kinds))
    if loss.rivals == "tokens":
        yield ClosedForm("captions of one token: 0", alike(IMAGES, 0, 1), 0.0)


def _filip(loss: Any) -> Iterator[ClosedForm]:
    return _softmax(FOILS * IMAGES if loss.negatives == "all" else 0, loss)


def _gloria(loss: Any) -> Iterator[ClosedForm]:
    return _softmax(FOILS * IMAGES if loss.negatives == "all" else 0, loss, cosines=False)


def _llip(loss: Any) -> Iterator[ClosedForm]:
    foils = FOILS * IMAGES if loss.negatives == "all" else 0
    forms = _softmax(foils, loss) if loss.kind == "softmax" else _sigmoid(IMAGES - 1 + foils)
    return (form for form in forms if form.batch.text.query_NGE is not None)


def _flair(loss: Any) -> Iterator[ClosedForm]:
    foils = FOILS if loss.negatives == "own" else 0
    return islice(_sigmoid(IMAGES - 1 + foils), 1)


def _dreamlip(loss: Any) -> Iterator[ClosedForm]:
    one, two = (IMAGES, 2 * IMAGES) if loss.rivals == "batch" else (1, 2)
    yield ClosedForm(f"4 images, 4 captions, all alike: ln {one}", _same(), math.log(one))
    yield ClosedForm(f"4 images of two captions each, all alike: ln {two}", alike(IMAGES, 0, TOKENS, captions=2), math.log(two))


def _mgca(loss: Any) -> Iterator[ClosedForm]:
    value = math.log(TOKENS) + (math.log(4) if loss.bidirectional else 0.0)
    yield ClosedForm("5 tokens and 4 patches alike: ln 5, and ln 4 the other way", _same(), value)


def _mgca_prototypes(loss: Any) -> Iterator[ClosedForm]:
    yield ClosedForm(f"everything alike: ln {PROTOTYPES}, the number of prototypes", _same(), math.log(PROTOTYPES))


def _many_to_many(loss: Any) -> Iterator[ClosedForm]:
    others = (IMAGES - 1) * (BRANCHES if loss.negatives == "all" else 1)
    value = (math.log(IMAGES) + math.log(1 + others)) / 2
    yield ClosedForm(f"4 images, 3 branches each, all alike: (ln 4 + ln {1 + others}) / 2", _same(), value)
    yield ClosedForm("one image and its caption: 0", lone_pair(right_angles()), 0.0)


def _itm(loss: Any) -> Iterator[ClosedForm]:
    yes, no = math.log1p(math.exp(-ALIKE)), math.log1p(math.exp(ALIKE))
    foils = FOILS * IMAGES if loss.negatives == "own" else 0
    value = (IMAGES * yes + (2 * IMAGES + foils) * no) / (3 * IMAGES + foils)
    yield ClosedForm(f"all alike, log-odds 2: 4 pairs of ln(1 + e^-2), 8 drawn and {foils} given of ln(1 + e^2)", _same(), value)
    yield ClosedForm("one image and its caption: ln(1 + e^-2)", alike(1, 0), yes)


def _diversity(loss: Any) -> Iterator[ClosedForm]:
    yield ClosedForm("branches alike: 1 - ceiling", _same(), 1 - loss.ceiling)


def _smoothed(loss: Any, logits: list[float]) -> float:
    """The focal, smoothed cross entropy of the first of these logits."""
    raised = [math.exp(x) for x in logits]
    spread = loss.label_smoothing / len(logits)
    parts = [(1 - p) ** loss.focal * -math.log(p) for p in (x / sum(raised) for x in raised)]
    return (1 - loss.label_smoothing) * parts[0] + spread * sum(parts)


def _own_negatives(loss: Any) -> Iterator[ClosedForm]:
    alike_one = _smoothed(loss, [0.0] * (1 + FOILS))
    yield ClosedForm(f"a caption and its 3 foils alike: ln 4 times 0.75^{loss.focal:g}", _same(), alike_one)
    yield ClosedForm("no foils: 0", _same(0), 0.0)


def _paraphrases(loss: Any) -> Iterator[ClosedForm]:
    rivals = 1 + 2 * (IMAGES - 1)
    yield ClosedForm(
        f"4 images of two captions each, all alike: ln {rivals}", alike(IMAGES, 0, TOKENS, captions=2), math.log(rivals)
    )
    yield ClosedForm("one caption an image: 0", right_angles(), 0.0)


def _multi_positive(loss: Any) -> Iterator[ClosedForm]:
    both = 2 * IMAGES if loss.positives == "each" else IMAGES
    said = f"4 images of two captions each, all alike: (ln {both} + ln 4) / 2"
    yield ClosedForm(said, alike(IMAGES, 0, TOKENS, captions=2), (math.log(both) + math.log(IMAGES)) / 2)
    yield from _at_right_angles()


def _tgc(loss: Any) -> Iterator[ClosedForm]:
    yield ClosedForm("a caption, the teacher's copy of it and its 3 foils alike: ln 4", _same(), math.log(1 + FOILS))
    yield ClosedForm("no foils: 0", _same(0), 0.0)


def _distillation(loss: Any) -> Iterator[ClosedForm]:
    yield ClosedForm("model and teacher alike: 0", _same(), 0.0)
    usual = _same(0)
    turned = usual.with_leaves({name: -x for name, x in usual.parts().items() if "teacher." in name})
    sides = 2 if loss.sides == "both" else 1
    value = 4 * sides * (1 if loss.reduction == "mean" else IMAGES)
    yield ClosedForm(f"a teacher opposite to the model, 4 images and captions: {value}", turned, value)


def _cosmos(loss: Any) -> Iterator[ClosedForm]:
    weights = loss.contrast + (loss.distillation if not loss.whole or "web" in loss.whole else loss.distillation / 4)
    said = "4 images, 4 captions, all alike: ln 4 from the contrast, ln 4 from the teacher"
    yield ClosedForm(said, _same(), weights * math.log(IMAGES))
    yield ClosedForm(
        "4 images of two captions each, all alike: the same", alike(IMAGES, 0, TOKENS, captions=2), weights * math.log(IMAGES)
    )
    yield ClosedForm("one image and its caption: 0", lone_pair(_same()), 0.0)


_BY_CLASS: dict[str, Callable[[Any], Iterator[ClosedForm]]] = {
    "ClipLoss": _clip,
    "NegclipLoss": _negclip,
    "SiglipLoss": _siglip,
    "ImcLoss": _imc,
    "CmrLoss": _cmr,
    "SparcLoss": _sparc,
    "FilipLoss": _filip,
    "GloriaLoss": _gloria,
    "LlipLoss": _llip,
    "FlairLoss": _flair,
    "DreamlipLoss": _dreamlip,
    "MgcaLoss": _mgca,
    "MgcaPrototypesLoss": _mgca_prototypes,
    "ManyToManyLoss": _many_to_many,
    "DiversityLoss": _diversity,
    "TgcLoss": _tgc,
    "CosmosLoss": _cosmos,
    "DistillationLoss": _distillation,
    "TextConditionedLoss": _conditioned,
    "ItmLoss": _itm,
    "OwnNegativesLoss": _own_negatives,
    "FscLocalLoss": _own_negatives,
    "ParaphrasesLoss": _paraphrases,
    "MultiPositiveLoss": _multi_positive,
}
