"""``imc`` once more: CE-CLIP's intra-modal contrast in all its forms, caption by caption."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from wholegrain.losses.imc import ImcLoss
from wholegrain.verify.cases import SCALE
from wholegrain.verify.closed_form import ALIKE, FOILS, IMAGES, ClosedForm, all_alike
from wholegrain.verify.reference import Samples, cos, cross_entropy, lse, mean

VARIANTS = {
    "imc-own": ImcLoss(),
    "imc-sibling": ImcLoss(positive="sibling", scaled=False),
    "imc-paper": ImcLoss(variant="paper"),
    "imc-cross": ImcLoss(variant="cross_modal"),
    "imc-released": ImcLoss(variant="released"),
    "imc-first": ImcLoss(variant="first_release"),
    "imc-joint": ImcLoss(scores="joint"),
    "imc-joint-paper": ImcLoss(scores="joint", variant="paper"),
}


def known_breaks(loss: ImcLoss) -> dict[str, str]:
    """Check -> why these settings are known not to keep it."""
    found: dict[str, str] = {}
    if loss.variant in ("released", "first_release"):
        found["text_order"] = "the target is the first hard negative of the batch, whichever that is"
    if loss.variant == "own" and loss.positive == "sibling":
        found["text_order"] = "the positive is the next caption in the image's list"
    if loss.variant in ("own", "paper") and loss.scaled and loss.scores == "cosine":
        found["scale"] = "the scale is not learned from this term, so it gets no gradient"
    return found


def reference(loss: ImcLoss, x: Samples) -> Tensor:
    """The formula of ``losses/imc.py`` in float64, sample by sample."""
    if loss.scores == "joint":
        each = [_of_log_odds(loss, x, n) for n in x.true if x.different_foils(n)]
    elif loss.variant in ("own", "paper"):
        each = [_among_own(loss, x, n) for n in x.true if x.different_foils(n)]
    else:
        each = [_among_all(loss, x, n) for n in x.true if x.foils]
    return mean(each, x.text.pooled_ND)


def _of_log_odds(loss: ImcLoss, x: Samples, n: int) -> Tensor:
    i = x.owner[n]
    own = [x.log_odds(i, k) for k in x.different_foils(n)]
    return lse(own) if loss.variant == "paper" else cross_entropy(x.log_odds(i, n), own)


def _among_own(loss: ImcLoss, x: Samples, n: int) -> Tensor:
    text, s = x.text.pooled_ND, x.scale.detach() if loss.scaled else torch.ones_like(x.scale)
    own = [s * cos(text[n], text[k]) for k in x.different_foils(n)]
    if loss.variant == "paper":
        return lse(own)
    family = x.captions_of(x.owner[n])
    sibling = family[(family.index(n) + 1) % len(family)]
    alone = loss.positive == "self" or sibling == n
    return cross_entropy(s if alone else s * cos(text[n], text[sibling]), own)


def _among_all(loss: ImcLoss, x: Samples, n: int) -> Tensor:
    text, i, s = x.text.pooled_ND, x.owner[n], x.scale if loss.scaled else torch.ones_like(x.scale)
    image = s * x.cosine(i, n)
    if loss.variant == "cross_modal":
        return cross_entropy(image, [s * cos(text[n], text[k]) for k in x.foils if not x.known(i, k)])
    logits = [s * cos(text[n], text[k]) for k in x.foils]
    return lse([*logits, image] if loss.variant == "first_release" else logits) - logits[0]


def closed_forms(loss: ImcLoss) -> Iterator[ClosedForm]:
    """Problems whose answer is known on paper."""
    if loss.variant == "own":
        yield ClosedForm("a caption and its 3 foils alike: ln 4", all_alike(), math.log(1 + FOILS))
    elif loss.variant == "paper":
        peak = ALIKE if loss.scores == "joint" else SCALE if loss.scaled else 1.0
        yield ClosedForm("3 foils like their caption: their score + ln 3", all_alike(), peak + math.log(FOILS))
    else:
        rivals = FOILS * IMAGES + (loss.variant in ("cross_modal", "first_release"))
        yield ClosedForm(f"12 foils like everything: ln {rivals}", all_alike(), math.log(rivals))
    yield ClosedForm("no foils: 0", all_alike(0), 0.0)
