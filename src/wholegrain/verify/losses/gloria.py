"""``gloria`` once more: what each word finds in the patches, pair by pair."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from wholegrain.losses.gloria import GloriaLoss
from wholegrain.verify.closed_form import FOILS, IMAGES, ClosedForm, of_softmax
from wholegrain.verify.reference import Samples, cos, dot, softmax, symmetric_softmax, total, weighted

VARIANTS = {
    "gloria": GloriaLoss(),
    "gloria-sparc": GloriaLoss(variant="sparc", negatives="all"),
    "gloria-mean": GloriaLoss(aggregate="mean", duplicates="negative", pair_scale=0.0),
}


def reference(loss: GloriaLoss, x: Samples) -> Tensor:
    """The formula of ``losses/gloria.py`` in float64, sample by sample."""
    own = loss.variant == "own"

    def score(i: int, n: int) -> Tensor:
        words, patches = x.words[n], x.patches[i]
        table = [[dot(t, v) for v in patches] for t in words]  # [L][P]
        if own:
            columns = [softmax([row[p] for row in table]) for p in range(len(patches))]
            table = [[4 * columns[p][l] for p in range(len(patches))] for l in range(len(words))]
        else:
            table = [[a / len(words[0]) ** 0.5 for a in row] for row in table]
        found = [cos(weighted(softmax(row), patches), t) for row, t in zip(table, words, strict=True)]
        inside = total((5 * c).exp() for c in found)
        scale = 10 if own and loss.pair_scale else x.scale / 5
        return scale * (inside / len(words) if loss.aggregate == "mean" else inside).log()

    return symmetric_softmax(x, x.candidates(loss.negatives), score, duplicates=loss.duplicates)


def closed_forms(loss: GloriaLoss) -> Iterator[ClosedForm]:
    """Problems whose answer is known on paper."""
    return of_softmax(FOILS * IMAGES if loss.negatives == "all" else 0)
