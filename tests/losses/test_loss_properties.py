"""What holds for every loss: gradients, order of samples, padding, precision, and inputs at the edge."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from loss_variants import FINE_GRAINED
from loss_variants import USUAL as CASES

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.core.contract import NEEDS, unit
from wholegrain.verify.cases import Batch, as_type, lean, make_batch, padded_with, permuted

SCALE, BIAS = torch.tensor(7.0, dtype=torch.float64), torch.tensor(-1.5, dtype=torch.float64)
NOT_A_GRADIENT = ("sparc-detached",)  # the gradient leaves something out on purpose
EVERY = CASES | FINE_GRAINED
SCALE_HELD = ("imc-own", "imc-paper")  # the scale is not learned from these


def call(loss, batch: Batch, scale=SCALE, bias=BIAS):
    state = loss.initial_state(batch.pairing.kinds) if hasattr(loss, "initial_state") else None
    return loss(batch.image, batch.text, batch.pairing, scale, bias, state)


@pytest.mark.parametrize("name", [name for name in CASES if name not in NOT_A_GRADIENT])
def test_gradcheck(name):
    batch = make_batch(5, captions=(2, 1, 1), branches=2, patches=4, tokens=3, width=4).fresh()
    leaves = batch.leaves()
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=name not in SCALE_HELD)
    bias = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)

    def value(scale, bias, *inputs):
        given = dict(zip(leaves, inputs, strict=True))
        image = replace(batch.image, **{key: x for key, x in given.items() if hasattr(batch.image, key)})
        text = replace(batch.text, **{key: x for key, x in given.items() if hasattr(batch.text, key)})
        return CASES[name](image, text, batch.pairing, scale, bias).value

    assert torch.autograd.gradcheck(value, (scale, bias, *leaves.values()), fast_mode=True)


@pytest.mark.parametrize("name", [name for name in CASES if name != "imc-released"])
def test_order_of_images_and_texts_does_not_matter(name):
    batch = make_batch(6)
    draw = torch.Generator().manual_seed(1)
    images = torch.randperm(len(batch.pairing.image_id_B), generator=draw)
    texts = torch.randperm(len(batch.pairing.owner_N), generator=draw)
    if CASES[name] in (CASES["m2m-positional"], CASES["imc-sibling"], CASES["m2m-argmax"]):
        texts = torch.arange(len(texts))  # these read the order of an image's texts
    moved = permuted(batch, images, texts)
    torch.testing.assert_close(call(CASES[name], moved).value, call(CASES[name], batch).value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in EVERY if "tokens" in EVERY[name].needs])
@pytest.mark.parametrize("filling", [1e6, float("nan"), float("inf")])
def test_padding_is_never_read(name, filling):
    plain, padded = make_batch(7).fresh(), padded_with(make_batch(7), filling).fresh()
    value, other = call(EVERY[name], plain).value, call(EVERY[name], padded).value
    torch.testing.assert_close(value, other, rtol=1e-12, atol=1e-12)
    value.backward()
    other.backward()
    real, length = plain.text.mask_NL, plain.text.mask_NL.shape[1]
    torch.testing.assert_close(padded.text.tokens_NLD.grad[:, :length][real], plain.text.tokens_NLD.grad[real])
    assert (padded.text.tokens_NLD.grad[~padded.text.mask_NL] == 0).all()
    torch.testing.assert_close(padded.image.patches_BPD.grad, plain.image.patches_BPD.grad)


@pytest.mark.parametrize("name", EVERY)
def test_a_loss_reads_no_more_than_it_says(name):
    """And works when the rest is not there."""
    batch, needs = make_batch(8), EVERY[name].needs
    assert needs <= NEEDS
    assert call(EVERY[name], lean(batch, needs), bias=BIAS if "bias" in needs else None).value == call(EVERY[name], batch).value


@pytest.mark.parametrize("name", FINE_GRAINED)
def test_what_is_lacking_is_named(name):
    batch = make_batch(8)
    lacking = Batch(ImageFeatures(batch.image.pooled_BD), TextFeatures(batch.text.pooled_ND), batch.pairing)
    with pytest.raises(ValueError, match="needs"):
        call(FINE_GRAINED[name], lacking)


@pytest.mark.parametrize("name", [name for name in EVERY if name != "filip-quarter"])  # ranks of rounded numbers may tie
def test_low_precision_inputs_are_computed_in_float32(name):
    rounded = as_type(make_batch(9), torch.bfloat16)
    exact = call(EVERY[name], as_type(rounded, torch.float64)).value
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = call(EVERY[name], rounded, SCALE.float(), BIAS.float())
    assert output.value.dtype == torch.float32
    within = 2e-5 if name in CASES else 5e-5
    torch.testing.assert_close(output.value.double(), exact, rtol=within, atol=within)
    assert all(part.dtype == torch.float32 for part in output.parts.values())


def edge_batches() -> dict[str, Batch]:
    usual = as_type(make_batch(3), torch.float32)

    def filled(number: float) -> Batch:
        return usual.map(lambda x: torch.full_like(x, number))

    lone = Batch(usual.image.select(torch.tensor([0])), usual.text.select(torch.tensor([0])), Pairing.one_to_one(1))
    copies = replace(usual.pairing, text_id_N=usual.pairing.text_id_N * 0, image_id_B=usual.pairing.image_id_B * 0)
    none = torch.arange(0)
    textless = Batch(usual.image, usual.text.select(none), usual.pairing.select_texts(none))
    unmasked = replace(usual, text=replace(usual.text, mask_NL=torch.zeros_like(usual.text.mask_NL)))
    return {
        "constant": filled(0.3), "zero": filled(0.0), "large": filled(3e4), "one pair": lone, "no texts": textless,
        "all copies": replace(usual, pairing=copies), "no tokens": unmasked,
    }  # fmt: skip


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("edge", edge_batches())
def test_finite_at_the_edge(name, edge):
    batch = edge_batches()[edge].fresh()
    scale, bias = torch.tensor(100.0, requires_grad=True), torch.tensor(-10.0, requires_grad=True)
    output = call(EVERY[name], batch, scale, bias)
    output.value.backward()
    assert output.value.isfinite()
    for key, leaf in {**batch.leaves(), "scale": scale, "bias": bias}.items():
        assert leaf.grad is None or leaf.grad.isfinite().all(), key
    assert all(x.isfinite().all() for x in (output.state or {}).values())


def test_unit_vectors_of_zero_have_no_gradient():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    unit(x)[:, 0].sum().backward()
    assert x.grad[0].tolist() == [0.0, 0.0]
    torch.testing.assert_close(x.grad[1], torch.tensor([16.0, -12.0]) / 125)
