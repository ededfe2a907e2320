"""``distillation`` once more: the distance of each vector from its teacher's."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from wholegrain.losses.distillation import DistillationLoss
from wholegrain.verify.closed_form import IMAGES, ClosedForm, all_alike
from wholegrain.verify.reference import Samples, dot, required, total, unit

VARIANTS = {
    "distillation": DistillationLoss(),
    "distillation-sum": DistillationLoss(reduction="sum"),
    "distillation-image": DistillationLoss(sides="image"),
    "distillation-text": DistillationLoss(sides="text", reduction="sum"),
}


def reference(loss: DistillationLoss, x: Samples) -> Tensor:
    """The formula of ``losses/distillation.py`` in float64, sample by sample."""
    def distance(own: Tensor, teachers: Tensor) -> Tensor:
        gaps = [unit(a) - unit(b) for a, b in zip(own, teachers, strict=True)]
        return total(dot(gap, gap) for gap in gaps) / (len(gaps) if loss.reduction == "mean" else 1)

    value = 0 * x.scale
    if loss.sides != "text":
        value = value + distance(x.image.pooled_BD, required(x.image.teacher).pooled_BD)
    if loss.sides != "image":
        value = value + distance(x.text.pooled_ND, required(x.text.teacher).pooled_ND)
    return value


def closed_forms(loss: DistillationLoss) -> Iterator[ClosedForm]:
    """Problems whose answer is known on paper."""
    yield ClosedForm("model and teacher alike: 0", all_alike(), 0.0)
    usual = all_alike(0)
    turned = usual.with_leaves({name: -x for name, x in usual.parts().items() if "teacher." in name})
    sides = 2 if loss.sides == "both" else 1
    value = 4 * sides * (1 if loss.reduction == "mean" else IMAGES)
    yield ClosedForm(f"a teacher opposite to the model, 4 images and captions: {value}", turned, value)
