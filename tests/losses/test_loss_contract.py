"""What every packaged loss takes: scale and bias as tensors or as plain numbers."""

from __future__ import annotations

from dataclasses import fields
from typing import get_args, get_type_hints

import pytest
import torch
from loss_variants import ALL

from wholegrain.errors import UserError
from wholegrain.losses.clip import ClipLoss
from wholegrain.objectives.resolve import packaged, resolve_loss
from wholegrain.objectives.schema import Term
from wholegrain.verify.cases import as_type, make_batch

LOSSES = {name: resolve_loss(Term(name)) for name in packaged()} | ALL


@pytest.mark.parametrize("name", LOSSES)
def test_scale_and_bias_may_be_plain_numbers(name):
    loss, batch = LOSSES[name], make_batch(0).map(lambda x: x.detach())
    state = loss.initial_state(batch.pairing.kinds) if hasattr(loss, "initial_state") else None
    inputs = batch.image, batch.text, batch.pairing
    expected = loss(*inputs, torch.tensor(14.3, dtype=torch.float64), torch.tensor(-2.0, dtype=torch.float64), state)
    for got in (loss(*inputs, 14.3, -2.0, state), loss(*inputs, scale=14.3, bias=-2, state=state)):
        torch.testing.assert_close(got.value, expected.value, rtol=0, atol=0)


def test_a_plain_scale_is_as_exact_as_the_images_and_float32_at_least():
    for kind, wanted in ((torch.float64, torch.float64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32)):
        batch = as_type(make_batch(1), kind)
        assert ClipLoss()(batch.image, batch.text, batch.pairing, 14.3).value.dtype == wanted


@pytest.mark.parametrize("name", packaged())
def test_every_number_among_the_settings_has_a_range_and_recipes_are_held_to_it(name):
    kind = type(resolve_loss(Term(name)))
    numbers = {f.name for f in fields(kind) if {int, float} & {get_type_hints(kind)[f.name], *get_args(get_type_hints(kind)[f.name])}}
    assert set(getattr(kind, "ranges", {})) == numbers
    for setting, (least, most) in getattr(kind, "ranges", {}).items():
        for beyond in (least - 1, 2 * most + 1):
            with pytest.raises(UserError, match=f"{setting} is .*must be from"):
                resolve_loss(Term(name, settings={setting: beyond}))
