"""Phrases that are said more than once, by several texts or several processes: scored once, with the gradients of all."""

from __future__ import annotations

from dataclasses import replace

import gloo
import torch

from wholegrain.losses import whole_and_grain
from wholegrain.losses.whole_and_grain import WholeAndGrainLoss
from wholegrain.verify.cases import Batch, make_batch


def value(batch: Batch, group=None) -> torch.Tensor:
    scale = torch.tensor(7.0, dtype=torch.float64)
    return WholeAndGrainLoss()(batch.image, batch.text, batch.pairing, scale, group=group).value


def said_again(batch: Batch) -> tuple[torch.Tensor, torch.Tensor, Batch]:
    """Phrases out of five: the five, which of them each phrase is, and the batch of these."""
    draw = torch.Generator().manual_seed(4)
    weight = batch.text.phrase_weight_NK
    table = torch.randn(5, batch.text.pooled_ND.shape[1], generator=draw, dtype=torch.float64, requires_grad=True)
    which = torch.randint(5, weight.shape, generator=draw)
    return table, which, replace(batch, text=replace(batch.text, phrases_NKD=table[which], phrase_weight_NK=weight))


def with_ids(batch: Batch, which: torch.Tensor) -> Batch:
    return replace(batch, text=replace(batch.text, phrase_id_NK=2**61 + which))


def test_equal_phrases_are_scored_once_with_the_same_value_and_gradient(monkeypatch):
    table, _, batch = said_again(make_batch(2))
    plain = value(batch)
    (slope,) = torch.autograd.grad(plain, table)
    sizes, usual = [], whole_and_grain.phrase_cosines
    monkeypatch.setattr(whole_and_grain, "phrase_cosines", lambda p, q, t: sizes.append(len(q)) or usual(p, q, t))
    table, which, batch = said_again(make_batch(2))
    once = value(with_ids(batch, which))
    assert sizes == [len(which[batch.text.phrase_weight_NK > 0].unique())]
    torch.testing.assert_close(once, plain, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(once, table)[0], slope, rtol=1e-12, atol=1e-12)


def share_here(rank, group, seed):
    """This process's share, and its part of the gradient of the five phrases; in process 2 of 3 nothing is said."""
    batch = make_batch(seed, captions=(2, 1, 3, 2, 1, 1), negatives=2)
    table, which, batch = said_again(batch)
    batch = with_ids(batch, which)
    text = torch.where((batch.pairing.owner_N >= 4)[:, None], 0.0, batch.text.phrase_weight_NK)
    batch = replace(batch, text=replace(batch.text, phrase_weight_NK=text))
    here = batch if group is None else batch.part(2 * rank, 2 * rank + 2)
    share = value(here, group)
    return [share.detach(), *torch.autograd.grad(share, table, allow_unused=True)]


def test_phrases_that_several_processes_say_are_one():
    shares = gloo.run(3, share_here, [(1,)] * 3)
    alone = share_here(0, None, 1)
    for place, whole in enumerate(alone):
        parts = [share[place] for share in shares if share[place] is not None]
        torch.testing.assert_close(sum(parts), whole, rtol=1e-11, atol=1e-11)
