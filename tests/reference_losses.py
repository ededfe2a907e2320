"""Every loss once more, as loops over single samples in float64, written from the published formulas; and batches to try them on.

``reference(loss, batch, scale, bias, state)`` gives the loss of the whole batch and the next state. Everything is
differentiable, so gradients can be compared, too. Nothing here is shared with the library but the settings and the tensor types.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.clip import ClipLoss
from wholegrain.losses.cmr import CmrLoss
from wholegrain.losses.diversity import DiversityLoss
from wholegrain.losses.imc import ImcLoss
from wholegrain.losses.many_to_many import ManyToManyLoss
from wholegrain.losses.negclip import NegclipLoss
from wholegrain.losses.siglip import SiglipLoss
from wholegrain.losses.sparc import SparcLoss
from wholegrain.losses.text_conditioned import TextConditionedLoss

KINDS = ("relation", "attribute", "object")
ROLES = ("overview", "background", "style", "web")

CASES = {
    "clip": ClipLoss(),
    "clip-negative-smooth": ClipLoss(duplicates="negative", label_smoothing=0.1),
    "clip-smooth": ClipLoss(label_smoothing=0.2),
    "siglip": SiglipLoss(),
    "siglip-negative": SiglipLoss(duplicates="negative"),
    "siglip-positive": SiglipLoss(duplicates="positive"),
    "negclip": NegclipLoss(),
    "negclip-own": NegclipLoss(own_only=True, label_smoothing=0.1),
    "negclip-own-negative": NegclipLoss(own_only=True, duplicates="negative"),
    "imc-own": ImcLoss(),
    "imc-sibling": ImcLoss(positive="sibling", scaled=False),
    "imc-paper": ImcLoss(variant="paper"),
    "imc-cross": ImcLoss(variant="cross_modal"),
    "imc-released": ImcLoss(variant="released"),
    "cmr": CmrLoss(),
    "cmr-grid": CmrLoss(reduction="grid", gap="paired"),
    "cmr-max": CmrLoss(margin="max"),
    "cmr-fixed-cosine": CmrLoss(margin="fixed", units="cosine", fixed=0.2),
    "sparc": SparcLoss(),
    "sparc-token-sigma": SparcLoss(sigma=0.5, reduction="token", similarity="cosine"),
    "sparc-softmax": SparcLoss(weights="softmax"),
    "sparc-softmax-cosine": SparcLoss(weights="softmax", similarity="cosine"),
    "sparc-detached": SparcLoss(detach_weights=True, sigma=0.0),
    "m2m-role": ManyToManyLoss(roles=("background", "overview", "style", "web")),
    "m2m-positional": ManyToManyLoss(assignment="positional", duplicates="negative"),
    "m2m-argmax": ManyToManyLoss(assignment="argmax"),
    "m2m-all-positive": ManyToManyLoss(roles=("overview", "style"), negatives="all", same_image="positive"),
    "m2m-positive": ManyToManyLoss(roles=("overview",), same_image="positive"),
    "diversity": DiversityLoss(ceiling=-0.3),
    "diversity-idle": DiversityLoss(ceiling=0.9),
    "conditioned": TextConditionedLoss(),
    "conditioned-own": TextConditionedLoss(negatives="own", pool_temperature=0.3),
    "conditioned-all-minmax": TextConditionedLoss(negatives="all", weights="minmax", duplicates="negative"),
    "conditioned-sigmoid": TextConditionedLoss(kind="sigmoid", negatives="own"),
}


@dataclass(frozen=True)
class Batch:
    image: ImageFeatures
    text: TextFeatures
    pairing: Pairing

    def leaves(self) -> dict[str, Tensor]:
        named = {**vars(self.image), **vars(self.text)}
        return {name: x for name, x in named.items() if isinstance(x, Tensor) and x.is_floating_point()}

    def fresh(self) -> Batch:
        """The same numbers in new leaves that ask for a gradient."""

        def renew(features):
            new = {name: x.detach().clone().requires_grad_() for name, x in vars(features).items() if _floating(x)}
            return replace(features, **new)

        return Batch(renew(self.image), renew(self.text), self.pairing)

    def part(self, first: int, last: int) -> Batch:
        """The images ``first`` to ``last`` (exclusive) and their texts."""
        mine = ((self.pairing.owner_N >= first) & (self.pairing.owner_N < last)).nonzero().squeeze(1)
        pairing = self.pairing.select_texts(mine)
        pairing = replace(pairing, owner_N=pairing.owner_N - first, image_id_B=pairing.image_id_B[first:last])
        return Batch(self.image.select(torch.arange(first, last)), self.text.select(mine), pairing)


def _floating(x) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def make_batch(
    seed: int = 0,
    captions: tuple[int, ...] = (1, 3, 2, 1, 2, 1),
    negatives: int = 2,
    branches: int = 3,
    patches: int = 6,
    tokens: int = 5,
    width: int = 7,
    duplicates: bool = True,
) -> Batch:
    """Unequal captions and negatives; if asked for with duplicates: a copied image, and captions and foils used twice."""
    draw = torch.Generator().manual_seed(seed)
    rows: list[tuple[int, int, int, int]] = []  # owner, negative_of, role, kind
    for image, count in enumerate(captions):
        for place in range(count):
            role, mine = int(torch.randint(len(ROLES), (), generator=draw)), len(rows)
            rows.append((image, -1, role, -1))
            number = negatives if place == 0 and image == 0 else int(torch.randint(negatives + 1, (), generator=draw))
            for _ in range(number):
                rows.append((image, mine, role, int(torch.randint(len(KINDS) - 1, (), generator=draw))))
    owner, negative_of, role, kind = (torch.tensor(column) for column in zip(*rows, strict=True))
    texts, images = len(rows), len(captions)
    text_id, image_id = torch.arange(texts) + 100, torch.arange(images) + 500
    if duplicates:
        true = (negative_of < 0).nonzero().squeeze(1)
        image_id[-1] = image_id[0]
        text_id[true[-2]] = text_id[true[1]]
        foils = (negative_of >= 0).nonzero().squeeze(1)
        if len(foils) > 1:
            text_id[foils[0]] = text_id[negative_of[foils[0]]]
            text_id[foils[-1]] = text_id[true[1]]

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    image = ImageFeatures(normal(images, width), normal(images, branches, width), normal(images, patches, width), (1, patches))
    length = torch.randint(1, tokens + 1, (texts,), generator=draw)
    mask = torch.arange(tokens) < length[:, None]
    text = TextFeatures(normal(texts, width), normal(texts, tokens, width), mask)
    return Batch(image, text, Pairing(owner, negative_of, role, kind, text_id, image_id, ROLES, KINDS))


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


def reference(loss, batch: Batch, scale: Tensor, bias: Tensor, state=None) -> tuple[Tensor, dict[str, Tensor] | None]:
    """The loss of the whole batch, and the next state."""
    facts = Facts(batch)
    if isinstance(loss, CmrLoss):
        return _cmr(loss, batch, facts, scale, state)
    by_class = {
        ClipLoss: _clip, NegclipLoss: _negclip, SiglipLoss: _siglip, ImcLoss: _imc, SparcLoss: _sparc,
        ManyToManyLoss: _many_to_many, DiversityLoss: _diversity, TextConditionedLoss: _conditioned,
    }  # fmt: skip
    return by_class[type(loss)](loss, batch, facts, scale, bias), None


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


def _clip(loss, batch, facts, scale, bias):
    def score(i, n):
        return scale * cos(batch.image.pooled_BD[i], batch.text.pooled_ND[n])

    return _pairs(facts, score, facts.true, loss.duplicates, loss.label_smoothing)


def _negclip(loss, batch, facts, scale, bias):
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


def _siglip(loss, batch, facts, scale, bias):
    def logit(i, m):
        return scale * cos(batch.image.pooled_BD[i], batch.text.pooled_ND[m]) + bias

    return _cells(facts, logit, facts.true, loss.duplicates)


def _imc(loss, batch, facts, scale, bias):
    text, s = batch.text.pooled_ND, scale if loss.scaled else torch.ones_like(scale)
    if loss.variant in ("own", "paper"):
        s = s.detach()
    losses = []
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
        elif loss.variant == "released" and facts.foils:
            logits = [s * cos(text[n], text[k]) for k in facts.foils]
            losses.append(lse(logits) - logits[0])
    return torch.stack(losses).mean() if losses else 0 * text.sum()


def _cmr(loss, batch, facts, scale, state):
    s = scale if loss.units == "logit" else 1.0
    margin = state["margin_K"].tolist() if state else [loss.fixed if loss.margin == "fixed" else 0.0] * len(KINDS)

    def score(n):
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


def _sparc(loss, batch, facts, scale, bias):
    captions, all_tokens = [], 0
    for n in facts.true:
        patches = list(batch.image.patches_BPD[facts.owner[n]])
        tokens = [t for t, real in zip(batch.text.tokens_NLD[n], batch.text.mask_NL[n].tolist(), strict=True) if real]
        grouped = []
        for t in tokens:
            similarity = [cos(t, v) if loss.similarity == "cosine" else (t * v).sum() for v in patches]
            if loss.weights == "minmax":
                weight = _minmax(similarity, 1 / len(patches) if loss.sigma is None else loss.sigma)
            else:
                factor = scale if loss.similarity == "cosine" else len(t) ** -0.5
                total = lse([factor * x for x in similarity])
                weight = [(factor * x - total).exp() for x in similarity]
            grouped.append(sum((w.detach() if loss.detach_weights else w) * v for w, v in zip(weight, patches, strict=True)))
        each = []
        for j in range(len(tokens)):
            others = [k for k in range(len(tokens)) if k != j]
            target = scale * cos(grouped[j], tokens[j])
            each.append(entropy(target, [scale * cos(grouped[j], tokens[k]) for k in others]) / 2)
            each[-1] = each[-1] + entropy(target, [scale * cos(grouped[k], tokens[j]) for k in others]) / 2
        captions.append(torch.stack(each).sum() / (len(each) if loss.reduction == "caption" else 1))
        all_tokens += len(each)
    return torch.stack(captions).sum() / (all_tokens if loss.reduction == "token" else len(captions))


def _many_to_many(loss, batch, facts, scale, bias):
    branch, text, count = batch.image.branches_BHD, batch.text.pooled_ND, batch.image.branches_BHD.shape[1]
    position, chosen = {}, {}
    for n in facts.true:
        i = facts.owner[n]
        earlier = [m for m in facts.true if m < n and facts.owner[m] == i]
        name = ROLES[facts.role[n]]
        position[n] = name if loss.assignment == "role" else len(earlier)
        bound = None
        if loss.assignment == "role" and name in loss.roles[:count]:
            bound = loss.roles.index(name)
        if loss.assignment == "positional" and len(earlier) < count:
            bound = len(earlier)
        free = max(range(count), key=lambda h, i=i, n=n: cos(branch[i, h], text[n]).item())
        chosen[n] = free if bound is None else bound
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


def _diversity(loss, batch, facts, scale, bias):
    branch = batch.image.branches_BHD
    count = branch.shape[1]
    cosines = [cos(branch[i, g], branch[i, h]) for i in facts.images for g in range(count) for h in range(count) if g != h]
    return (torch.stack(cosines).mean() - loss.ceiling).clamp_min(0)


def _conditioned(loss, batch, facts, scale, bias):
    def score(i, n):
        patches, text = list(batch.image.patches_BPD[i]), batch.text.pooled_ND[n]
        similarity = [cos(v, text) for v in patches]
        if loss.weights == "softmax":
            total = lse([x / loss.pool_temperature for x in similarity])
            weight = [(x / loss.pool_temperature - total).exp() for x in similarity]
        else:
            weight = _minmax(similarity, 1 / len(patches))
        return scale * cos(sum(w * v for w, v in zip(weight, patches, strict=True)), text)

    texts = facts.true if loss.negatives == "none" else facts.true + facts.foils
    if loss.kind == "sigmoid":
        return _cells(facts, lambda i, n: score(i, n) + bias, texts, loss.duplicates, loss.negatives == "own")
    return _pairs(facts, score, texts, loss.duplicates, own_only=loss.negatives == "own")
