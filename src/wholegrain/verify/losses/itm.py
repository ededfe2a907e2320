"""``itm`` once more: who is drawn, in Python's own numbers, and what each pair costs."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from wholegrain.losses.core.contract import State
from wholegrain.losses.itm import ItmLoss
from wholegrain.verify.cases import alike
from wholegrain.verify.closed_form import ALIKE, FOILS, IMAGES, ClosedForm, all_alike
from wholegrain.verify.reference import Samples, mean, softplus

VARIANTS = {
    "itm": ItmLoss(),
    "itm-uniform": ItmLoss(sampling="uniform", duplicates="negative", seed=3),
    "itm-drawn": ItmLoss(negatives="none"),
}
_ALL = 2**64 - 1


def known_breaks(loss: ItmLoss) -> dict[str, str]:
    found = {"ids": "pairs are drawn by hashes of their ids, so that all processes draw the same"}
    if loss.duplicates == "negative":
        found["duplicates"] = "which pairs are drawn hangs on their ids, so copies are drawn otherwise"
    return found


def _mixed(x: int) -> int:
    """The finaliser of splitmix64 on unsigned integers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _ALL
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _ALL
    return x ^ (x >> 31)


def _gumbel(key: int, row: int, column: int) -> float:
    cell = _mixed((_mixed((row + _mixed(key)) & _ALL) + _mixed(column & _ALL)) & _ALL)
    return -math.log(-math.log(((cell >> 11) + 0.5) / 2**53))


def reference(loss: ItmLoss, x: Samples) -> tuple[Tensor, State]:
    """The formula of ``losses/itm.py`` in float64, sample by sample."""
    seed, step = (0, 0) if x.state is None else x.state["draw"].tolist()
    no = _drawn(loss, x, (_mixed((_mixed(seed & _ALL) + step) & _ALL) + 1) & _ALL)
    if loss.negatives == "own":
        no += [(x.owner[k], k) for n in x.true for k in x.foils_of(n, loss.duplicates)]
    costs = [softplus(-x.log_odds(x.owner[n], n)) for n in x.true] + [softplus(x.log_odds(i, n)) for i, n in no]
    return mean(costs), {"draw": torch.tensor([seed, step + 1])}


def _drawn(loss: ItmLoss, x: Samples, key: int) -> list[tuple[int, int]]:
    """The drawn pairs: a text for each image that has one, an image for each text."""

    def noisy(i: int, n: int, key: int) -> float:
        logit = (x.scale * x.cosine(i, n)).item() if loss.sampling == "contrastive" else 0.0
        text_key = (x.text_id[n] + _mixed(x.image_id[x.owner[n]])) & _ALL
        return logit + _gumbel(key, x.image_id[i], text_key)

    drawn: list[tuple[int, int]] = []
    for i in sorted({x.owner[n] for n in x.true}):
        scores = {n: noisy(i, n, key) for n in x.true if not x.left_out(i, n, loss.duplicates)}
        drawn += [(i, max(scores, key=scores.__getitem__))] if scores else []
    for n in x.true:
        scores = {i: noisy(i, n, key + 1) for i in x.images if not x.left_out(i, n, loss.duplicates)}
        drawn += [(max(scores, key=scores.__getitem__), n)] if scores else []
    return drawn


def closed_forms(loss: ItmLoss) -> Iterator[ClosedForm]:
    """Problems whose answer is known on paper."""
    yes, no = math.log1p(math.exp(-ALIKE)), math.log1p(math.exp(ALIKE))
    foils = FOILS * IMAGES if loss.negatives == "own" else 0
    value = (IMAGES * yes + (2 * IMAGES + foils) * no) / (3 * IMAGES + foils)
    description = f"all alike, log-odds 2: 4 pairs of ln(1 + e^-2), 8 drawn and {foils} given of ln(1 + e^2)"
    yield ClosedForm(description, all_alike(), value)
    yield ClosedForm("one image and its caption: ln(1 + e^-2)", alike(1, 0), yes)
