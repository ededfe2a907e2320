"""Image-text matching as loops over single pairs, in Python's own numbers: who is drawn, and what each pair costs.

As in :mod:`wholegrain.verify.references`: differentiable, and nothing is shared with the losses but their settings and the
network that scores a pair, which is called for one pair at a time.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from wholegrain.losses.core.contract import State
from wholegrain.verify.cases import Batch

_ALL = 2**64 - 1


def _mixed(x: int) -> int:
    """The finaliser of splitmix64 on unsigned integers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _ALL
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _ALL
    return x ^ (x >> 31)


def _gumbel(key: int, row: int, column: int) -> float:
    cell = _mixed((_mixed((row + _mixed(key)) & _ALL) + _mixed(column & _ALL)) & _ALL)
    return -math.log(-math.log(((cell >> 11) + 0.5) / 2**53))


def log_odds(batch: Batch, i: int, n: int) -> Tensor:
    """What the network says of image i and text n alone."""
    one, other = torch.tensor([i]), torch.tensor([n])
    assert batch.image.match is not None
    return batch.image.match(batch.image.select(one), batch.text.select(other))[0]


def itm(loss: Any, batch: Batch, facts: Any, scale: Tensor, bias: Tensor, state: State | None) -> tuple[Tensor, Any]:
    """The loss of the whole batch, and the next state; ``facts`` is ``references.Facts``."""
    seed, step = (0, 0) if state is None else state["draw"].tolist()
    key = (_mixed((_mixed(seed & _ALL) + step) & _ALL) + 1) & _ALL

    def out(i: int, n: int) -> bool:
        return facts.left_out(i, n, loss.duplicates)

    def logit(i: int, n: int) -> float:
        v, t = batch.image.pooled_BD[i], batch.text.pooled_ND[n]
        return (scale * (v @ t) / (v.norm() * t.norm())).item() if loss.sampling == "contrastive" else 0.0

    def text_key(n: int) -> int:
        return (facts.text_id[n] + _mixed(facts.image_id[facts.owner[n]])) & _ALL

    no = []
    for i in sorted({facts.owner[n] for n in facts.true}):
        noisy = {n: logit(i, n) + _gumbel(key, facts.image_id[i], text_key(n)) for n in facts.true if not out(i, n)}
        no += [(i, max(noisy, key=noisy.__getitem__))] if noisy else []
    for n in facts.true:
        noisy = {i: logit(i, n) + _gumbel(key + 1, facts.image_id[i], text_key(n)) for i in facts.images if not out(i, n)}
        no += [(max(noisy, key=noisy.__getitem__), n)] if noisy else []
    if loss.negatives == "own":
        foils = [(facts.owner[k], k) for k in facts.foils]
        no += [(i, k) for i, k in foils if loss.duplicates == "negative" or not facts.known(i, k)]
    costs = [torch.log1p((-log_odds(batch, facts.owner[n], n)).exp()) for n in facts.true]
    costs += [torch.log1p(log_odds(batch, i, n).exp()) for i, n in no]
    return torch.stack(costs).mean(), {"draw": torch.tensor([seed, step + 1])}
