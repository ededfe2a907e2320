"""``fsc_local`` once more: a caption among its own negatives, by what its words gather from the patches."""

from __future__ import annotations

from torch import Tensor

from wholegrain.losses.fsc_local import FscLocalLoss
from wholegrain.verify.losses.own_negatives import closed_forms, focal_entropy
from wholegrain.verify.reference import Samples, cos, dot, mean, minmax, required, softmax, total, weighted

__all__ = ["VARIANTS", "closed_forms", "known_breaks", "reference"]

VARIANTS = {
    "fsc-local": FscLocalLoss(),
    "fsc-local-sparse": FscLocalLoss(sparsify=True, detach_weights=False, start_token=True, duplicates="negative"),
    "fsc-local-softmax": FscLocalLoss(weights="softmax", detach_weights=False, words="mean", focal=0.0, label_smoothing=0.0),
}


def known_breaks(loss: FscLocalLoss) -> dict[str, str]:
    return {"gradients": "the alignment weights are constants in the backward pass"} if loss.detach_weights else {}


def reference(loss: FscLocalLoss, x: Samples) -> Tensor:
    """The formula of ``losses/fsc_local.py`` in float64, sample by sample."""
    def words(n: int) -> list[Tensor]:
        return x.words[n] if loss.start_token else x.words[n][1:]

    def score(n: int) -> Tensor:
        patches, found = x.patches[x.owner[n]], []
        for t in words(n):
            row = [dot(t, v).detach() if loss.detach_weights else dot(t, v) for v in patches]
            weight = minmax(row, 1 / len(patches) if loss.sparsify else 0.0) if loss.weights == "minmax" else softmax(row)
            found.append((x.scale * cos(weighted(weight, patches), t)).exp())
        return (total(found) / (len(found) if loss.words == "mean" else 1)).log()

    each: list[Tensor] = []
    for n in x.true:
        own = [k for k in x.foils_of(n, loss.duplicates) if words(k) and words(n)]
        if own:
            each.append(focal_entropy(score(n), [score(k) for k in own], loss.focal, loss.label_smoothing))
    return mean(each, required(x.image.patches_BPD), x.scale)
