"""Every loss and setting against loops over single samples: value, every gradient, carried state."""

from __future__ import annotations

import pytest
import torch
from loss_variants import USUAL as CASES

from wholegrain.losses.core import contrastive, tiles
from wholegrain.verify.cases import make_batch
from wholegrain.verify.definitions import reference_value


def knobs() -> tuple[torch.Tensor, torch.Tensor]:
    scale = torch.tensor(7.0, dtype=torch.float64, requires_grad=True)
    return scale, torch.tensor(-1.5, dtype=torch.float64, requires_grad=True)


def grads(value, batch, scale, bias):
    leaves = {**batch.leaves(), "scale": scale, "bias": bias}
    found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    return {name: torch.zeros_like(x) if g is None else g for (name, x), g in zip(leaves.items(), found, strict=True)}


def compare(loss, batch, state=None):
    (a_scale, a_bias), (b_scale, b_bias) = knobs(), knobs()
    ours, theirs = batch.fresh(), batch.fresh()
    output = loss(ours.image, ours.text, ours.pairing, a_scale, a_bias, state)
    value, next_state = reference_value(loss, theirs, b_scale, b_bias, state)
    torch.testing.assert_close(output.value, value, rtol=1e-10, atol=1e-12)
    got, expected = grads(output.value, ours, a_scale, a_bias), grads(value, theirs, b_scale, b_bias)
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-8, atol=1e-11, msg=lambda m, name=name: f"{name}: {m}")
    if next_state is not None:
        torch.testing.assert_close(dict(output.state), next_state, rtol=1e-10, atol=1e-12)
    return output, expected


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_loops(name):
    output, expected = compare(CASES[name], make_batch(0))
    if name != "diversity-idle":
        assert output.value != 0
        assert any(g.abs().max() > 1e-6 for g in expected.values())


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("cmr")])
def test_carried_margin_enters_the_next_step(name):
    loss = CASES[name]
    first, _ = compare(loss, make_batch(0))
    second, _ = compare(loss, make_batch(1), first.state)
    fresh, _ = compare(loss, make_batch(1))
    assert (second.value == fresh.value) == (loss.margin == "fixed")


@pytest.mark.parametrize("name", [n for n in CASES if n.startswith(("clip", "negclip", "siglip", "imc", "m2m", "conditioned"))])
def test_many_small_blocks_agree_with_loops(name, monkeypatch):
    monkeypatch.setattr(contrastive, "CELLS", 40)
    monkeypatch.setattr(tiles, "TILE", {"cpu": 9})
    monkeypatch.setattr(tiles, "KEPT", 0)
    compare(CASES[name], make_batch(3))


@pytest.mark.parametrize("name", [n for n in CASES if n.startswith(("clip", "negclip", "imc", "cmr", "conditioned-own"))])
def test_no_negatives_at_all(name):
    compare(CASES[name], make_batch(2, captions=(2, 1, 2), negatives=0))


@pytest.mark.parametrize("name", CASES)
def test_one_image(name):
    compare(CASES[name], make_batch(4, captions=(2,), duplicates=False))
