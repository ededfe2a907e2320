"""The packaged losses that score words and patches, as loops over single pairs, written from the published formulas.

As in :mod:`wholegrain.verify.references`: differentiable, and nothing is shared with the losses but their settings and the
tensor types.
"""

# pyright: basic, reportOptionalMemberAccess=false, reportOptionalIterable=false, reportOptionalSubscript=false
# pyright: reportArgumentType=false, reportReturnType=false, reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from wholegrain.verify.cases import Batch


def dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum()


def cos(a: Tensor, b: Tensor) -> Tensor:
    return dot(a, b) / (dot(a, a).sqrt() * dot(b, b).sqrt())


def softmax(logits: list[Tensor]) -> list[Tensor]:
    raised = torch.stack(logits).exp()
    return list(raised / raised.sum())


def weighted(weights: list[Tensor], vectors: list[Tensor]) -> Tensor:
    return (torch.stack(list(weights))[:, None] * torch.stack(list(vectors))).sum(0)


def cross_entropy(target: Tensor, rivals: list[Tensor]) -> Tensor:
    return -(target - torch.stack([target, *rivals]).logsumexp(0))


class World:
    """A batch as Python lists, and what is known of it."""

    def __init__(self, batch: Batch) -> None:
        pairing = batch.pairing
        self.owner, self.text_id, self.image_id = (x.tolist() for x in (pairing.owner_N, pairing.text_id_N, pairing.image_id_B))
        self.negative_of = pairing.negative_of_N.tolist()
        self.images, self.texts = range(len(self.image_id)), range(len(self.owner))
        self.true = [n for n in self.texts if self.negative_of[n] < 0]
        self.patches = [list(x) for x in batch.image.patches_BPD]
        self.words = [
            [t for t, real in zip(rows, mask, strict=True) if real]
            for rows, mask in zip(batch.text.tokens_NLD, batch.text.mask_NL.tolist(), strict=True)
        ]

    def known(self, i: int, n: int) -> bool:
        """Whether text n is known to be true of image i: its words are those of a true text of a copy of the image."""
        twins = [m for m in self.true if self.image_id[self.owner[m]] == self.image_id[i]]
        return any(self.text_id[m] == self.text_id[n] for m in twins)

    def out(self, i: int, n: int, duplicates: str) -> bool:
        return (n in self.true and self.owner[n] == i) or (duplicates == "ignore" and self.known(i, n))


def softmax_loss(world: World, texts, to_text, to_image, duplicates: str) -> Tensor:
    total, to_text, to_image = [], cache(to_text), cache(to_image)
    for n in world.true:
        i = world.owner[n]
        total.append(cross_entropy(to_text(i, n), [to_text(i, m) for m in texts if not world.out(i, m, duplicates)]))
        total.append(cross_entropy(to_image(i, n), [to_image(j, n) for j in world.images if not world.out(j, n, duplicates)]))
    return sum(total) / (2 * len(world.true))


def chosen(world: World, negatives: str):
    return list(world.texts) if negatives == "all" else world.true


def _filip(loss, batch, world, scale, bias):
    share = loss.keep if loss.keep is not None else {"own": 1.0, "sparc": 0.8}[loss.variant]
    patches, words = [list(p) for p in world.patches], [list(w) for w in world.words]

    def best(vectors, partners, count):
        ranked = sorted(vectors, key=lambda v: -max((cos(v, w).item() for w in partners), default=0.0))
        return ranked[: math.ceil(share * count)]

    if share < 1:
        for i in world.images:
            own = [w for n in world.true if world.owner[n] == i for w in world.words[n]]
            patches[i] = best(world.patches[i], own, len(world.patches[i]))
        words = [best(world.words[n], world.patches[world.owner[n]], len(world.words[n])) for n in world.texts]

    def to_text(i, n):
        each = [torch.stack([cos(v, t) for t in words[n]]).max() for v in patches[i]]
        return scale * sum(each) / len(each)

    def to_image(i, n):
        each = [torch.stack([cos(v, t) for v in patches[i]]).max() for t in words[n]]
        return scale * sum(each) / len(each)

    return softmax_loss(world, chosen(world, loss.negatives), to_text, to_image, loss.duplicates)


def _gloria(loss, batch, world, scale, bias):
    own = loss.variant == "own"

    def score(i, n):
        words, patches = world.words[n], world.patches[i]
        table = [[dot(t, v) for v in patches] for t in words]  # [L][P]
        if own:
            columns = [softmax([row[p] for row in table]) for p in range(len(patches))]
            table = [[4 * columns[p][l] for p in range(len(patches))] for l in range(len(words))]
        else:
            table = [[x / len(words[0]) ** 0.5 for x in row] for row in table]
        found = [cos(weighted(softmax(row), patches), t) for row, t in zip(table, words, strict=True)]
        inside = sum((5 * x).exp() for x in found)
        total = (inside / len(words) if loss.aggregate == "mean" else inside).log()
        return (10 if own and loss.pair_scale else scale / 5) * total

    return softmax_loss(world, chosen(world, loss.negatives), score, score, loss.duplicates)


def _diagonal(rows: list[list[Tensor]]) -> Tensor:
    """Mean of both directions' cross entropies of a square table."""
    size = range(len(rows))
    forth = [cross_entropy(rows[a][a], [rows[a][b] for b in size if b != a]) for a in size]
    back = [cross_entropy(rows[a][a], [rows[b][a] for b in size if b != a]) for a in size]
    return (sum(forth) + sum(back)) / (2 * len(rows))


def _mgca(loss, batch, world, scale, bias):
    fixed = 0.1 if loss.temperature is None else loss.temperature
    sharp = scale if loss.variant == "sparc" and loss.temperature is None else 1 / fixed
    total = 0
    for n in world.true:
        words = [t / dot(t, t).sqrt() for t in world.words[n]]
        patches = [v / dot(v, v).sqrt() for v in world.patches[world.owner[n]]]
        said = [weighted(softmax([sharp * dot(t, v) for v in patches]), patches) for t in words]
        total = total + _diagonal([[sharp * cos(t, o) for o in said] for t in words])
        if loss.bidirectional:
            said = [weighted(softmax([sharp * dot(t, v) for t in words]), words) for v in patches]
            total = total + _diagonal([[sharp * cos(v, o) for o in said] for v in patches])
    return total / len(world.true)


def _sinkhorn(rows: list[list[float]], epsilon: float, rounds: int) -> list[list[float]]:
    weight = [[math.exp(x / epsilon) for x in row] for row in rows]
    samples, clusters = len(rows), len(rows[0])
    for _ in range(rounds):
        for k in range(clusters):
            filled = sum(row[k] for row in weight)
            for row in weight:
                row[k] /= filled * clusters
        weight = [[x / (sum(row) * samples) for x in row] for row in weight]
    return [[x / sum(row) for x in row] for row in weight]


def _prototypes(loss, batch, world, scale, bias):
    centres = list(batch.image.learned["prototypes_KD"])
    image = [[cos(v, c) for c in centres] for v in batch.image.pooled_BD]
    text = [[cos(batch.text.pooled_ND[n], c) for c in centres] for n in world.true]
    target_image = _sinkhorn([[x.item() for x in row] for row in image], loss.epsilon, loss.rounds)
    target_text = _sinkhorn([[x.item() for x in row] for row in text], loss.epsilon, loss.rounds)
    total = 0
    for place, n in enumerate(world.true):
        i = world.owner[n]
        p_text, p_image = (softmax([x / loss.temperature for x in row]) for row in (text[place], image[i]))
        total = total - sum(q * p.log() for q, p in zip(target_image[i], p_text, strict=True))
        total = total - sum(q * p.log() for q, p in zip(target_text[place], p_image, strict=True))
    return total / (2 * len(world.true))


def _minmax(row: list[Tensor], sigma: float) -> list[Tensor]:
    low, high = min(row), max(row)
    kept = [(x - low) / (high - low) for x in row]
    kept = [x if x >= sigma else 0 * x for x in kept]
    return [x / sum(kept) for x in kept]


def _dreamlip(loss, batch, world, scale, bias):
    text, grouped = batch.text.pooled_ND, {}
    source = {n: world.owner[n] for n in world.true}
    if loss.patches_of == "released":
        place = {n: sum(world.owner[m] == world.owner[n] for m in world.true if m < n) for n in world.true}
        stacked = sorted(world.true, key=lambda n: (place[n], world.owner[n]))
        source = dict(zip(stacked, sorted(world.owner[n] for n in world.true), strict=True))
    for n in world.true:
        patches = [v / dot(v, v).sqrt() for v in world.patches[source[n]]]
        row = [cos(text[n], v) for v in patches]
        sigma = 1 / len(patches) if loss.sigma is None else loss.sigma
        grouped[n] = weighted(_minmax(row, sigma) if loss.weights == "minmax" else softmax([scale * x for x in row]), patches)
    total = []
    for n in world.true:
        rivals = [m for m in world.true if world.text_id[m] != world.text_id[n]]
        if loss.rivals == "image":
            rivals = [m for m in rivals if world.owner[m] == world.owner[n]]
        target = scale * cos(grouped[n], text[n])
        total.append(cross_entropy(target, [scale * cos(grouped[n], text[m]) for m in rivals]))
        total.append(cross_entropy(target, [scale * cos(grouped[m], text[n]) for m in rivals]))
    return sum(total) / len(total)


def _pooled(batch: Batch, i: int, n: int) -> Tensor:
    """The cosine of text n with image i pooled by it."""
    keys, values, query = batch.image.keys_BGSE[i], batch.image.values_BGSE[i], batch.text.query_NGE[n]
    seen = [weighted(softmax([dot(query[g], k) for k in keys[g]]), list(values[g])) for g in range(len(query))]
    mixed = batch.image.learned["mix_DA"] @ torch.cat(seen) + batch.image.learned["mix_D"]
    return cos(mixed, batch.text.pooled_ND[n])


def _flair(loss, batch, world, scale, bias):
    def cell(i, n, sign):
        return (1 + (-sign * (scale * _pooled(batch, i, n) + bias)).exp()).log()

    total = []
    for i in world.images:
        total += [cell(i, n, 1) for n in world.true if world.owner[n] == i]
        for j in world.images:
            others = [n for n in world.true if world.owner[n] == j] if j != i else []
            others = others[:1] if loss.others == "first" else others
            total += [cell(i, n, -1) for n in others if not world.out(i, n, loss.duplicates)]
        foils = [n for n in world.texts if world.negative_of[n] >= 0 and world.owner[n] == i]
        if loss.negatives == "own":
            total += [cell(i, n, -1) for n in foils if loss.duplicates == "negative" or not world.known(i, n)]
    images = len(world.images)
    return sum(total) / (images + len(world.true) / images - 1)


def _llip(loss, batch, world, scale, bias):
    texts = chosen(world, loss.negatives)
    if loss.kind == "softmax":

        def score(i, n):
            return scale * _pooled(batch, i, n)

        return softmax_loss(world, texts, score, score, loss.duplicates)
    total = []
    for i in world.images:
        for n in texts:
            own = n in world.true and world.owner[n] == i
            if own or not world.out(i, n, loss.duplicates):
                total.append((1 + (-(1 if own else -1) * (scale * _pooled(batch, i, n) + bias)).exp()).log())
    return sum(total) / len(world.images)


def _sparc(loss, batch, world, scale, bias):
    def group(t, patches):
        row = [cos(t, v) if loss.similarity == "cosine" else dot(t, v) for v in patches]
        if loss.weights == "minmax":
            weight = _minmax(row, 1 / len(patches) if loss.sigma is None else loss.sigma)
        else:
            factor = scale if loss.similarity == "cosine" else len(t) ** -0.5
            weight = softmax([x * (factor if loss.temperature is None else 1 / loss.temperature) for x in row])
        return weighted([w.detach() if loss.detach_weights else w for w in weight], patches)

    total, count = 0, 0
    for n in world.true:
        i, words = world.owner[n], world.words[n]
        grouped = [group(t, world.patches[i]) for t in words]
        each = []
        if loss.rivals in ("tokens", "both"):
            each.append(_diagonal([[scale * cos(c, t) for t in words] for c in grouped]) * len(words))
        if loss.rivals in ("images", "both"):
            others = [j for j in world.images if not world.out(j, n, "ignore")]
            pairs = zip(words, grouped, strict=True)
            rivals = [[scale * cos(group(t, world.patches[j]), t) for j in others] for t in words]
            each.append(sum(cross_entropy(scale * cos(c, t), r) for (t, c), r in zip(pairs, rivals, strict=True)))
        total = total + sum(each) / len(each) / (1 if loss.reduction == "token" else len(words))
        count += len(words)
    return total / (count if loss.reduction == "token" else len(world.true))


def focal_entropy(target: Tensor, rivals: list[Tensor], focal: float, smoothing: float) -> Tensor:
    """Cross entropy with smoothed labels, each class's part times (1 - its probability)^focal."""
    chance = softmax([target, *rivals])
    spread = smoothing / len(chance)
    label = [1 - smoothing + spread, *[spread] * len(rivals)]
    others = [sum(p for j, p in enumerate(chance) if j != k) for k in range(len(chance))]  # 1 - p is 0 where p is nearly 1
    return -sum(y * other**focal * p.log() for y, other, p in zip(label, others, chance, strict=True))


def _fsc_local(loss, batch, world, scale, bias):
    def score(n):
        patches, words = world.patches[world.owner[n]], world.words[n] if loss.start_token else world.words[n][1:]
        found = []
        for t in words:
            row = [dot(t, v).detach() if loss.detach_weights else dot(t, v) for v in patches]
            weight = _minmax(row, 1 / len(patches) if loss.sparsify else 0.0) if loss.weights == "minmax" else softmax(row)
            found.append((scale * cos(weighted(weight, patches), t)).exp())
        total = sum(found) / (len(found) if loss.words == "mean" else 1)
        return total.log()

    def speaks(n):
        return len(world.words[n]) > (0 if loss.start_token else 1)

    total = []
    for n in world.true:
        own = [k for k in world.texts if world.negative_of[k] == n and speaks(k) and speaks(n)]
        own = [k for k in own if loss.duplicates == "negative" or not world.known(world.owner[k], k)]
        if own:
            total.append(focal_entropy(score(n), [score(k) for k in own], loss.focal, loss.label_smoothing))
    return sum(total) / len(total) if total else 0 * (batch.image.patches_BPD.sum() + scale)


def reference(loss: Any, batch: Batch, scale: Tensor, bias: Tensor) -> Tensor:
    """The loss of the whole batch."""
    return BY_CLASS[type(loss).__name__](loss, batch, World(batch), scale, bias)


BY_CLASS: dict[str, Callable[..., Any]] = {
    "FilipLoss": _filip,
    "GloriaLoss": _gloria,
    "MgcaLoss": _mgca,
    "MgcaPrototypesLoss": _prototypes,
    "DreamlipLoss": _dreamlip,
    "FlairLoss": _flair,
    "LlipLoss": _llip,
    "SparcLoss": _sparc,
    "FscLocalLoss": _fsc_local,
}
