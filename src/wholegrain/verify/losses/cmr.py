"""``cmr`` once more: CE-CLIP's rank loss, negative by negative, with margins as Python numbers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from wholegrain.losses.cmr import CmrLoss
from wholegrain.losses.core.contract import State
from wholegrain.verify.cases import KINDS
from wholegrain.verify.closed_form import ClosedForm, all_alike
from wholegrain.verify.reference import Samples, total

VARIANTS = {
    "cmr": CmrLoss(),
    "cmr-grid": CmrLoss(reduction="grid", gap="paired"),
    "cmr-max": CmrLoss(margin="max"),
    "cmr-fixed-cosine": CmrLoss(margin="fixed", units="cosine", fixed=0.2),
    "cmr-joint": CmrLoss(scores="joint"),
    "cmr-joint-max": CmrLoss(scores="joint", margin="max", upper=3.0),
}


def reference(loss: CmrLoss, x: Samples) -> tuple[Tensor, State]:
    """The formula of ``losses/cmr.py`` in float64, sample by sample."""
    s = x.scale if loss.units == "logit" else 1.0
    margin = [loss.fixed if loss.margin == "fixed" else 0.0] * len(KINDS)
    if x.state and loss.margin != "fixed":
        margin = x.state["margin_K"].tolist()

    def score(n: int) -> Tensor:
        return x.log_odds(x.owner[n], n) if loss.scores == "joint" else s * x.cosine(x.owner[n], n)

    hinges: list[Tensor] = []
    scores: list[list[tuple[float, float]]] = [[] for _ in KINDS]  # by kind: of a caption and of its foil
    for n in x.true:
        for k in x.different_foils(n):
            hinges.append((score(k) - score(n) + margin[x.kind[k]]).clamp_min(0))
            scores[x.kind[k]].append((score(n).item(), score(k).item()))
    cells = len(x.true) * len(KINDS) if loss.reduction == "grid" else max(len(hinges), 1)
    value = total(hinges) / cells if hinges else 0 * x.text.pooled_ND.sum()
    mean_true = sum(score(n).item() for n in x.true) / len(x.true)
    following = [_next_margin(loss, old, pairs, mean_true) for old, pairs in zip(margin, scores, strict=True)]
    return value, {"margin_K": torch.tensor(following, dtype=torch.float64)}


def _next_margin(loss: CmrLoss, old: float, pairs: list[tuple[float, float]], mean_true: float) -> float:
    """Of one kind, of whose captions and foils ``pairs`` are the scores."""
    if loss.margin == "fixed" or not pairs:
        return old
    mean_false = sum(false for _, false in pairs) / len(pairs)
    mean_paired = sum(true for true, _ in pairs) / len(pairs)
    gap = (mean_true if loss.gap == "all" else mean_paired) - mean_false
    if loss.margin == "max":
        gap = max(true - false for true, false in pairs) / 5
    return min(max(gap, 0.0), loss.upper)


def closed_forms(loss: CmrLoss) -> Iterator[ClosedForm]:
    """Problems whose answer is known on paper."""
    margin = loss.fixed if loss.margin == "fixed" else 0.0
    yield ClosedForm(f"foils like their caption: the first margin, {margin:g}", all_alike(), margin)
    if loss.margin != "fixed":
        yield ClosedForm("foils like their caption, margins of 4 carried: 4", all_alike(), 4.0, margin=4.0)
    yield ClosedForm("no foils: 0", all_alike(0), 0.0)
