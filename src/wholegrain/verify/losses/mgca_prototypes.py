"""``mgca_prototypes`` once more: balanced clusters in Python's own numbers, and each side's guess of the other's."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

from wholegrain.losses.mgca_prototypes import MgcaPrototypesLoss
from wholegrain.verify.cases import PROTOTYPES
from wholegrain.verify.closed_form import ClosedForm, all_alike
from wholegrain.verify.reference import Samples, cos, softmax, total

VARIANTS = {
    "prototypes": MgcaPrototypesLoss(epsilon=0.2),
    "prototypes-one": MgcaPrototypesLoss(epsilon=0.5, rounds=1, temperature=0.5),
}


def known_breaks(loss: MgcaPrototypesLoss) -> dict[str, str]:
    return {
        "gradients": "the targets are constants in the backward pass",
        "duplicates": "the targets are balanced over the whole batch, in which every sample meets every other",
    }


def _balanced(rows: list[list[Tensor]], epsilon: float, rounds: int) -> list[list[float]]:
    weight = [[math.exp(a.item() / epsilon) for a in row] for row in rows]
    samples, clusters = len(rows), len(rows[0])
    for _ in range(rounds):
        for k in range(clusters):
            filled = sum(row[k] for row in weight)
            for row in weight:
                row[k] /= filled * clusters
        weight = [[a / (sum(row) * samples) for a in row] for row in weight]
    return [[a / sum(row) for a in row] for row in weight]


def reference(loss: MgcaPrototypesLoss, x: Samples) -> Tensor:
    """The formula of ``losses/mgca_prototypes.py`` in float64, sample by sample."""
    centres = list(x.image.learned["prototypes_KD"])
    image = [[cos(v, c) for c in centres] for v in x.image.pooled_BD]
    text = [[cos(x.text.pooled_ND[n], c) for c in centres] for n in x.true]
    of_image, of_text = (_balanced(rows, loss.epsilon, loss.rounds) for rows in (image, text))

    def entropy(target: list[float], row: list[Tensor]) -> Tensor:
        return -total(q * p.log() for q, p in zip(target, softmax([a / loss.temperature for a in row]), strict=True))

    pairs = [(place, x.owner[n]) for place, n in enumerate(x.true)]
    each = [entropy(of_image[i], text[place]) + entropy(of_text[place], image[i]) for place, i in pairs]
    return total(each) / (2 * len(each))


def closed_forms(loss: MgcaPrototypesLoss) -> Iterator[ClosedForm]:
    """Problems whose answer is known on paper."""
    yield ClosedForm(f"everything alike: ln {PROTOTYPES}, the number of prototypes", all_alike(), math.log(PROTOTYPES))
