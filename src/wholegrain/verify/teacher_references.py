"""The packaged losses that look at a teacher, as loops over single samples, written from the published formulas."""

# pyright: basic, reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportArgumentType=false, reportReturnType=false, reportCallIssue=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wholegrain.verify.cases import ROLES, Batch
from wholegrain.verify.joint_references import World, cos, cross_entropy, dot, softmax, weighted


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


def _attended(query: Tensor, keys: list[Tensor], values: list[Tensor], out: Tensor, shift: Tensor) -> Tensor:
    """One vector's attention over the parts of the other side: G heads, then the output map."""
    heads = []
    for g in range(len(query)):
        weights = softmax([dot(query[g], key[g]) for key in keys])
        heads.append(weighted(weights, [value[g] for value in values]))
    return out @ torch.cat(heads) + shift


def _symmetric(world: World, rows: dict, columns: dict, scale: Tensor, duplicates: str) -> list[Tensor]:
    """Losses of all pairs of one view of rows and one of columns: image -> (vector, the text that it is or has seen, or None)."""

    def rivals(a: tuple, i: int, b: tuple, j: int) -> bool:
        if duplicates == "negative":
            return i != j
        known = (b[1] is not None and world.known(i, b[1])) or (a[1] is not None and world.known(j, a[1]))
        return i != j and not known

    each = []
    for i in rows.keys() & columns.keys():
        true = scale * cos(rows[i][0], columns[i][0])
        across = [scale * cos(rows[i][0], b[0]) for j, b in columns.items() if rivals(rows[i], i, b, j)]
        down = [scale * cos(a[0], columns[i][0]) for j, a in rows.items() if rivals(a, j, columns[i], i)]
        each.append((cross_entropy(true, across) + cross_entropy(true, down)) / 2)
    return each


def _cosmos(loss: Any, batch: Batch, world: World, scale: Tensor) -> Tensor:
    image, text, learned = batch.image, batch.text, batch.image.learned
    is_whole = {n: not loss.whole or ROLES[batch.pairing.role_N[n]] in loss.whole for n in world.true}

    def slots(kind: bool) -> list[dict[int, int]]:
        of = {i: [n for n in world.true if world.owner[n] == i and is_whole[n] == kind] for i in world.images}
        return [{i: own[k] for i, own in of.items() if len(own) > k} for k in range(max(map(len, of.values()), default=0))]

    whole = slots(True)
    texts, views = whole + slots(False), [image, *image.views]
    first = whole[0] if whole else {}

    def seeing(view: Any, i: int) -> Tensor:
        real = [place for place, there in enumerate(text.mask_NL[first[i]].tolist()) if there]
        parts = [[x[first[i], place] for place in real] for x in (text.keys_NLGE, text.values_NLGE)]
        return view.pooled_BD[i] + _attended(view.query_BGE[i], *parts, learned["cross_image_DA"], learned["cross_image_D"])

    def reading(n: int) -> Tensor:
        i = world.owner[n]
        parts = [list(x[i].unbind(1)) for x in (image.keys_BGSE, image.values_BGSE)]
        return text.pooled_ND[n] + _attended(text.query_NGE[n], *parts, learned["cross_text_DA"], learned["cross_text_D"])

    global_views = [{i: (v.pooled_BD[i], None) for i in world.images} for v in views if v.teacher is not None]
    said = [{i: (text.pooled_ND[n], n) for i, n in slot.items()} for slot in texts]
    taught = [{i: (v.teacher.pooled_BD[i], None) for i in world.images} for v in views if v.teacher is not None]
    read = [{i: (text.teacher.pooled_ND[n], n) for i, n in slot.items()} for slot in whole]
    crossed_images = [{i: (seeing(v, i), n) for i, n in first.items()} for v in views]
    crossed_texts = [{i: (reading(n), n) for i, n in slot.items()} for slot in texts]

    def mean(rows: list[dict], columns: list[dict], factor: Tensor) -> Tensor:
        each = [x for a in rows for b in columns for x in _symmetric(world, a, b, factor, loss.duplicates)]
        return sum(each) / len(each) if each else 0 * scale

    own = learned["cross_log_scale_1"][0].exp().clamp(max=100.0)
    distilled = [mean(rows, columns, own) for rows in (crossed_images, crossed_texts) for columns in (taught, read)]
    return loss.contrast * mean(global_views, said, scale) + loss.distillation * sum(distilled) / 4


def reference(loss: Any, batch: Batch, facts: Any, scale: Tensor, bias: Tensor, state: Any) -> Tensor:
    """The loss of the whole batch."""
    return BY_CLASS[type(loss).__name__](loss, batch, World(batch), scale)


BY_CLASS: dict[str, Callable[..., Tensor]] = {"TgcLoss": _tgc, "DistillationLoss": _distillation, "CosmosLoss": _cosmos}
