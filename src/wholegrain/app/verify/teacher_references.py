"""The packaged losses that look at a teacher, as loops over single samples, written from the published formulas."""

# pyright: basic, reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportArgumentType=false, reportReturnType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from wholegrain.app.verify.cases import Batch
from wholegrain.app.verify.joint_references import World, cos, cross_entropy, dot


def _tgc(loss: Any, batch: Batch, world: World, scale: Tensor) -> Tensor:
    text, teacher = batch.text.pooled_ND, batch.text.teacher.pooled_ND
    factor = loss.scale if loss.scale else scale
    each = []
    for n in world.true:
        own = [m for m in world.texts if world.negative_of[m] == n]
        own = [m for m in own if loss.duplicates == "negative" or not world.known(world.owner[n], m)]
        if own:
            each.append(cross_entropy(factor * cos(text[n], teacher[n]), [factor * cos(text[n], text[m]) for m in own]))
    return sum(each) / len(each) if each else 0 * (text.sum() + scale)


def _distillation(loss: Any, batch: Batch, world: World, scale: Tensor) -> Tensor:
    def gap(a: Tensor, b: Tensor) -> Tensor:
        difference = a / dot(a, a).sqrt() - b / dot(b, b).sqrt()
        return dot(difference, difference)

    total = 0 * scale
    if loss.sides != "text":
        images = [gap(a, b) for a, b in zip(batch.image.pooled_BD, batch.image.teacher.pooled_BD, strict=True)]
        total = total + sum(images) / (len(images) if loss.reduction == "mean" else 1)
    if loss.sides != "image":
        texts = [gap(a, b) for a, b in zip(batch.text.pooled_ND, batch.text.teacher.pooled_ND, strict=True)]
        total = total + sum(texts) / (len(texts) if loss.reduction == "mean" else 1)
    return total


def reference(loss: Any, batch: Batch, facts: Any, scale: Tensor, bias: Tensor, state: Any) -> Tensor:
    """The loss of the whole batch."""
    return BY_CLASS[type(loss).__name__](loss, batch, World(batch), scale)


BY_CLASS: dict[str, Callable[..., Tensor]] = {"TgcLoss": _tgc, "DistillationLoss": _distillation}
