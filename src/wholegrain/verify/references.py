"""Every packaged loss once more, as loops over single samples, written from the published formulas.

``reference(loss, batch, scale, bias, state)`` gives the loss of the whole batch and the next state. Everything is differentiable,
so gradients can be compared, too. Nothing here is shared with the losses but their settings and the tensor types.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, permutations
from typing import Any

import torch
from torch import Tensor

from wholegrain.losses.core.contract import State
from wholegrain.verify import joint_references, match_references, teacher_references
from wholegrain.verify.cases import KINDS, ROLES, Batch


def cos(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt())


def lse(logits: list[Tensor]) -> Tensor:
    return torch.stack(logits).logsumexp(0)


def entropy(target: Tensor, rivals: list[Tensor], smoothing: float = 0.0) -> Tensor:
    """Cross entropy with the target's share 1 - smoothing + smoothing / all."""
    everything = [target, *rivals]
    nll = [lse(everything) - x for x in everything]
    return (1 - smoothing) * nll[0] + smoothing * torch.stack(nll).mean()


class Facts:
    """Who owns what, as Python numbers."""

    def __init__(self, batch: Batch) -> None:
        p = batch.pairing
        self.owner, self.text_id, self.image_id = p.owner_N.tolist(), p.text_id_N.tolist(), p.image_id_B.tolist()
        self.negative_of, self.kind, self.role = p.negative_of_N.tolist(), p.kind_N.tolist(), p.role_N.tolist()
        self.true = [n for n, of in enumerate(self.negative_of) if of < 0]
        self.foils = [n for n, of in enumerate(self.negative_of) if of >= 0]
        self.images = range(len(self.image_id))

    def known(self, image: int, text: int) -> bool:
        copies = [n for n in self.true if self.image_id[self.owner[n]] == self.image_id[image]]
        return any(self.text_id[n] == self.text_id[text] for n in copies)

    def left_out(self, image: int, text: int, duplicates: str) -> bool:
        own = text in self.true and self.owner[text] == image
        return own or (duplicates != "negative" and self.known(image, text))

    def different_foils(self, caption: int) -> list[int]:
        return [k for k in self.foils if self.negative_of[k] == caption and self.text_id[k] != self.text_id[caption]]


def has_reference(loss: object) -> bool:
    """Whether there is a loop reference for a loss of this class."""
    return type(loss).__name__ in BY_CLASS and type(loss).__module__.startswith("wholegrain.losses.")


def reference(
    loss: Any, batch: Batch, scale: Tensor, bias: Tensor, state: State | None = None
) -> tuple[Tensor, dict[str, Tensor] | None]:
    """The loss of the whole batch, and the next state."""
    found = BY_CLASS[type(loss).__name__](loss, batch, Facts(batch), scale, bias, state)
    return found if isinstance(found, tuple) else (found, None)


def _pairs(facts: Facts, score, texts: list[int], duplicates: str, smoothing: float = 0.0, own_only: bool = False) -> Tensor:
    """Symmetric softmax: mean over true pairs; score(i, n) is scaled; ``texts`` are an image's candidates."""
    losses = []
    for n in facts.true:
        i = facts.owner[n]
        row = [m for m in texts if not facts.left_out(i, m, duplicates)]
        row = [m for m in row if not (own_only and m in facts.foils and facts.owner[m] != i)]
        column = [j for j in facts.images if not facts.left_out(j, n, duplicates)]
        target = score(i, n)
        losses.append(entropy(target, [score(i, m) for m in row], smoothing))
        losses.append(entropy(target, [score(j, n) for j in column], smoothing))
    return torch.stack(losses).sum() / (2 * len(facts.true))


def _clip(loss, batch, facts, scale, bias, state):
    def score(i, n):
        return scale * cos(batch.image.pooled_BD[i], batch.text.pooled_ND[n])

    if loss.temperature is not None:
        scale = torch.full_like(scale, 1 / loss.temperature)
    return _pairs(facts, score, facts.true, loss.duplicates, loss.label_smoothing)


def _negclip(loss, batch, facts, scale, bias, state):
    def score(i, n):
        return scale * cos(batch.image.pooled_BD[i], batch.text.pooled_ND[n])

    return _pairs(facts, score, facts.true + facts.foils, loss.duplicates, loss.label_smoothing, loss.own_only)


def _cells(facts: Facts, logit, texts: list[int], duplicates: str, own_only: bool = False) -> Tensor:
    total = []
    for i in facts.images:
        for m in texts:
            own = m in facts.true and facts.owner[m] == i
            known = facts.known(i, m)
            if own_only and m in facts.foils and facts.owner[m] != i:
                continue
            if not own and known and duplicates == "ignore":
                continue
            z = 1 if own or (known and duplicates == "positive") else -1
            total.append(torch.log1p((-z * logit(i, m)).exp()))
    return torch.stack(total).sum() / len(facts.images)


def _siglip(loss, batch, facts, scale, bias, state):
    def logit(i, m):
        return scale * cos(batch.image.pooled_BD[i], batch.text.pooled_ND[m]) + bias

    sum_by_images = _cells(facts, logit, facts.true, loss.duplicates)
    return sum_by_images * len(facts.images) / len(facts.true) if loss.per == "text" else sum_by_images


def _imc(loss, batch, facts, scale, bias, state):
    text, s = batch.text.pooled_ND, scale if loss.scaled else torch.ones_like(scale)
    if loss.variant in ("own", "paper"):
        s = s.detach()
    losses = []
    if loss.scores == "joint":
        for n in facts.true:
            own = [match_references.log_odds(batch, facts.owner[n], k) for k in facts.different_foils(n)]
            if own:
                losses.append(
                    lse(own) if loss.variant == "paper" else entropy(match_references.log_odds(batch, facts.owner[n], n), own)
                )
        return torch.stack(losses).mean() if losses else 0 * text.sum()
    for n in facts.true:
        own = facts.different_foils(n)
        among_own, i = [s * cos(text[n], text[k]) for k in own], facts.owner[n]
        if loss.variant == "paper" and own:
            losses.append(lse(among_own))
        elif loss.variant == "own" and own:
            family = [m for m in facts.true if facts.owner[m] == i]
            sibling = family[(family.index(n) + 1) % len(family)]
            alone = loss.positive == "self" or sibling == n
            losses.append(entropy(s if alone else s * cos(text[n], text[sibling]), among_own))
        elif loss.variant == "cross_modal" and facts.foils:
            rivals = [s * cos(text[n], text[k]) for k in facts.foils if not facts.known(i, k)]
            losses.append(entropy(s * cos(batch.image.pooled_BD[i], text[n]), rivals))
        elif loss.variant in ("released", "first_release") and facts.foils:
            logits = [s * cos(text[n], text[k]) for k in facts.foils]
            image = [s * cos(batch.image.pooled_BD[i], text[n])] if loss.variant == "first_release" else []
            losses.append(lse([*logits, *image]) - logits[0])
    return torch.stack(losses).mean() if losses else 0 * text.sum()


def _cmr(loss, batch, facts, scale, bias, state):
    s = scale if loss.units == "logit" else 1.0
    margin = (
        state["margin_K"].tolist()
        if state and loss.margin != "fixed"
        else [loss.fixed if loss.margin == "fixed" else 0.0] * len(KINDS)
    )

    def score(n):
        if loss.scores == "joint":
            return match_references.log_odds(batch, facts.owner[n], n)
        return s * cos(batch.image.pooled_BD[facts.owner[n]], batch.text.pooled_ND[n])

    foils = {n: facts.different_foils(n) for n in facts.true}
    gaps = [[] for _ in KINDS]  # (true, false) scores by kind
    hinges = []
    for n, own in foils.items():
        for k in own:
            hinges.append((score(k) - score(n) + margin[facts.kind[k]]).clamp_min(0))
            gaps[facts.kind[k]].append((score(n).item(), score(k).item()))
    cells = len(facts.true) * len(KINDS) if loss.reduction == "grid" else max(len(hinges), 1)
    value = torch.stack(hinges).sum() / cells if hinges else 0 * batch.text.pooled_ND.sum()
    mean_true = sum(score(n).item() for n in facts.true) / len(facts.true)
    for kind, pairs in enumerate(gaps):
        if loss.margin == "fixed" or not pairs:
            continue
        mean_false = sum(false for _, false in pairs) / len(pairs)
        mean_paired = sum(true for true, _ in pairs) / len(pairs)
        gap = (mean_true if loss.gap == "all" else mean_paired) - mean_false
        if loss.margin == "max":
            gap = max(true - false for true, false in pairs) / 5
        margin[kind] = min(max(gap, 0.0), loss.upper)
    return value, {"margin_K": torch.tensor(margin, dtype=torch.float64)}


def _minmax(similarity: list[Tensor], sigma: float) -> list[Tensor]:
    low, high = min(similarity), max(similarity)
    weight = [(x - low) / (high - low) for x in similarity]
    weight = [x if x >= sigma else 0 * x for x in weight]
    return [x / sum(weight) for x in weight]


def _many_to_many(loss, batch, facts, scale, bias, state):
    branch, text, count = batch.image.branches_BHD, batch.text.pooled_ND, batch.image.branches_BHD.shape[1]
    position, chosen = {}, {}
    for n in facts.true:
        i = facts.owner[n]
        earlier = [m for m in facts.true if m < n and facts.owner[m] == i]
        name = ROLES[facts.role[n]]
        listed = [h for role in (name, "*") for h, entry in enumerate(loss.roles) if role in entry.split("|")]
        position[n] = (*listed, name)[0] if loss.assignment == "role" else len(earlier)
        bound = None
        if loss.assignment == "role" and listed and listed[0] < count:
            bound = listed[0]
        if loss.assignment == "positional" and len(earlier) < count:
            bound = len(earlier)
        free = max(range(count), key=lambda h, i=i, n=n: cos(branch[i, h], text[n]).item())
        chosen[n] = free if bound is None else bound
    if loss.assignment == "hungarian":
        for i in facts.images:
            chosen |= _best_matching(branch[i], {n: text[n] for n in facts.true if facts.owner[n] == i})
        position = chosen
    total = []
    for n in facts.true:
        i, b = facts.owner[n], chosen[n]
        scope = [m for m in facts.true if loss.negatives == "all" or position[m] == position[n]]
        rivals = [scale * cos(branch[i, b], text[m]) for m in scope if not facts.left_out(i, m, loss.duplicates)]
        targets = [m for m in scope if facts.owner[m] == i] if loss.same_image == "positive" else [n]
        row = torch.stack([entropy(scale * cos(branch[i, b], text[m]), rivals) for m in targets]).mean()
        others = [j for j in facts.images if not facts.left_out(j, n, loss.duplicates)]
        seen = range(count) if loss.negatives == "all" else [b]
        column = entropy(scale * cos(branch[i, b], text[n]), [scale * cos(branch[j, h], text[n]) for j in others for h in seen])
        total.append((row + column) / 2)
    return torch.stack(total).mean()


def _best_matching(branches: Tensor, texts: dict[int, Tensor]) -> dict[int, int]:
    """The best of all one-to-one matchings, by trying every one; texts that get no branch are not in it."""
    names, number = list(texts), min(len(texts), len(branches))

    def worth(pairs) -> float:
        return sum(cos(branches[h], texts[n]).item() for n, h in pairs)

    every = (
        zip(some, places, strict=True)
        for some in permutations(names, number)
        for places in combinations(range(len(branches)), number)
    )
    return dict(max((tuple(pairs) for pairs in every), key=worth, default=()))


def _diversity(loss, batch, facts, scale, bias, state):
    branch = batch.image.branches_BHD
    count = branch.shape[1]
    cosines = [cos(branch[i, g], branch[i, h]) for i in facts.images for g in range(count) for h in range(count) if g != h]
    return (torch.stack(cosines).mean() - loss.ceiling).clamp_min(0)


def _conditioned(loss, batch, facts, scale, bias, state):
    def score(i, n):
        patches, text = list(batch.image.patches_BPD[i]), batch.text.pooled_ND[n]
        similarity = [cos(v, text) for v in patches]
        if loss.weights == "softmax":
            total = lse([x / loss.pool_temperature for x in similarity])
            weight = [(x / loss.pool_temperature - total).exp() for x in similarity]
        else:
            weight = _minmax(similarity, 1 / len(patches))
        pooled = torch.stack([w * v for w, v in zip(weight, patches, strict=True)]).sum(0)
        return scale * cos(pooled, text)

    texts = facts.true if loss.negatives == "none" else facts.true + facts.foils
    if loss.kind == "sigmoid":
        return _cells(facts, lambda i, n: score(i, n) + bias, texts, loss.duplicates, loss.negatives == "own")
    return _pairs(facts, score, texts, loss.duplicates, own_only=loss.negatives == "own")


def _own_negatives(loss, batch, facts, scale, bias, state):
    def score(n):
        return scale * cos(batch.image.pooled_BD[facts.owner[n]], batch.text.pooled_ND[n])

    total = []
    for n in facts.true:
        own = [k for k in facts.foils if facts.negative_of[k] == n]
        own = [k for k in own if loss.duplicates == "negative" or not facts.known(facts.owner[k], k)]
        if own:
            total.append(joint_references.focal_entropy(score(n), [score(k) for k in own], loss.focal, loss.label_smoothing))
    return sum(total) / len(total) if total else 0 * (batch.text.pooled_ND.sum() + scale)


def _paraphrases(loss, batch, facts, scale, bias, state):
    image, text, total = batch.image.pooled_BD, batch.text.pooled_ND, []
    for n in facts.true:
        i = facts.owner[n]
        rivals = [m for m in facts.true if not facts.left_out(i, m, loss.duplicates)]
        for p in facts.true:
            if p == n or facts.owner[p] != i or facts.text_id[p] == facts.text_id[n]:
                continue
            seekers = {"image": [image[i]], "text": [text[n]], "both": [image[i], text[n]]}[loss.finds]
            each = [entropy(scale * cos(v, text[p]), [scale * cos(v, text[m]) for m in rivals]) for v in seekers]
            total.append(sum(each) / len(each))
    return sum(total) / len(total) if total else 0 * (text.sum() + scale)


def _multi_positive(loss, batch, facts, scale, bias, state):
    def score(i, n):
        return scale * cos(batch.image.pooled_BD[i], batch.text.pooled_ND[n])

    rows, columns = [], []
    for i in facts.images:
        own = [n for n in facts.true if facts.owner[n] == i]
        everything = [score(i, m) for m in facts.true if m in own or not facts.left_out(i, m, loss.duplicates)]
        if own and loss.positives == "each":
            rows.append(sum(lse(everything) - score(i, n) for n in own) / len(own))
        elif own:
            rows.append(lse(everything) - lse([score(i, n) for n in own]))
    for n in facts.true:
        others = [j for j in facts.images if not facts.left_out(j, n, loss.duplicates)]
        columns.append(entropy(score(facts.owner[n], n), [score(j, n) for j in others]))
    return (sum(rows) / len(rows) + sum(columns) / len(columns)) / 2


def _joint(loss, batch, facts, scale, bias, state):
    return joint_references.reference(loss, batch, scale, bias)


BY_CLASS: dict[str, Callable[..., Any]] = {
    "ClipLoss": _clip,
    "NegclipLoss": _negclip,
    "SiglipLoss": _siglip,
    "ImcLoss": _imc,
    "CmrLoss": _cmr,
    "ManyToManyLoss": _many_to_many,
    "DiversityLoss": _diversity,
    "TextConditionedLoss": _conditioned,
    "ItmLoss": match_references.itm,
    "OwnNegativesLoss": _own_negatives,
    "ParaphrasesLoss": _paraphrases,
    "MultiPositiveLoss": _multi_positive,
    **dict.fromkeys(joint_references.BY_CLASS, _joint),
    **dict.fromkeys(teacher_references.BY_CLASS, teacher_references.reference),
}
