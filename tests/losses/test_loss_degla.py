"""DeGLA: the text-grounded contrast and the distillation, against the matrices of the paper, loops, and their limits."""

import json
import math
from dataclasses import replace

import gloo
import pytest
import torch
from loss_variants import variants_of
from tiny_training import make_dataset, make_model, make_recipe, train

from wholegrain.errors import UserError
from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.core.contract import unit
from wholegrain.losses.distillation import DistillationLoss
from wholegrain.losses.imc import ImcLoss
from wholegrain.losses.tgc import TgcLoss
from wholegrain.towers.io import load_model
from wholegrain.verify.cases import make_batch, permuted, without_texts
from wholegrain.verify.definitions import reference_value

SCALE = torch.tensor(7.0, dtype=torch.float64)
VARIANTS = variants_of("tgc", "distillation")


def call(loss, batch, scale=SCALE, group=None):
    return loss(batch.image, batch.text, batch.pairing, scale, None, None, group=group)


def regular(images=5, foils=3, width=6):
    """One caption an image, as many negatives each, sample by sample as the released loader lays them."""
    draw = torch.Generator().manual_seed(0)

    def normal(count):
        return torch.randn(count, width, generator=draw, dtype=torch.float64)

    caption, texts = torch.arange(images), images * (1 + foils)
    of = caption.repeat_interleave(foils)
    pairing = Pairing(
        torch.cat([caption, of]),
        torch.cat([caption * 0 - 1, of]),
        torch.zeros(texts, dtype=torch.int64),
        torch.cat([caption * 0 - 1, torch.arange(foils).repeat(images)]),
        torch.arange(texts),
        torch.arange(images),
        kinds=("a", "b", "c"),
    )
    image, text = ImageFeatures(normal(images)), TextFeatures(normal(texts))
    image, text = replace(image, teacher=ImageFeatures(normal(images))), replace(text, teacher=TextFeatures(normal(texts)))
    return replace(make_batch(0), image=image, text=text, pairing=pairing)


def test_tgc_is_the_masked_cross_entropy_of_the_paper():
    batch, images, foils = regular(), 5, 3
    text, teacher = unit(batch.text.pooled_ND), unit(batch.text.teacher.pooled_ND)
    logits = 10 * text[:images] @ torch.cat([teacher[:images], text[images:]]).T
    own = torch.eye(images, dtype=torch.bool)
    mask = torch.cat([own, own.repeat_interleave(foils, 1)], 1)
    expected = torch.nn.functional.cross_entropy(logits.masked_fill(~mask, -math.inf), torch.arange(images))
    torch.testing.assert_close(call(TgcLoss(), batch).value, expected)
    strayed = torch.cat([own, own.repeat(1, foils)], 1)  # the released mask: other captions' negatives
    other = torch.nn.functional.cross_entropy(logits.masked_fill(~strayed, -math.inf), torch.arange(images))
    assert (other - expected).abs() > 1e-3


def test_distillation_is_the_squared_error_of_unit_vectors():
    batch = regular()
    pairs = [(batch.image.pooled_BD, batch.image.teacher.pooled_BD), (batch.text.pooled_ND, batch.text.teacher.pooled_ND)]
    images, texts = (torch.nn.functional.mse_loss(unit(a), unit(b), reduction="sum") for a, b in pairs)
    torch.testing.assert_close(call(DistillationLoss(reduction="sum"), batch).value, images + texts)
    torch.testing.assert_close(call(DistillationLoss(), batch).value, images / 5 + texts / 20)
    torch.testing.assert_close(call(DistillationLoss(sides="text"), batch).value, texts / 20)


def test_tgc_with_the_model_as_its_own_teacher_is_imc():
    batch = make_batch(3)
    itself = replace(batch, text=replace(batch.text, teacher=TextFeatures(batch.text.pooled_ND.detach())))
    for duplicates in ("ignore", "negative"):
        plain = replace(itself, pairing=replace(itself.pairing, text_id_N=torch.arange(len(itself.pairing.owner_N))))
        torch.testing.assert_close(call(TgcLoss(0.0, duplicates), plain).value, call(ImcLoss(), plain).value)


@pytest.mark.parametrize("name", VARIANTS)
def test_values_gradients_and_order_agree_with_loops(name):
    batch, loss = make_batch(0).fresh(), VARIANTS[name]
    value = call(loss, batch).value
    expected, _ = reference_value(loss, batch, SCALE, SCALE)
    torch.testing.assert_close(value, expected)
    leaves = [batch.image.pooled_BD, batch.text.pooled_ND]
    got = torch.autograd.grad(value, leaves, allow_unused=True)
    for one, other in zip(got, torch.autograd.grad(expected, leaves, allow_unused=True), strict=True):
        torch.testing.assert_close(one, other)
    images, texts = (torch.randperm(n, generator=torch.Generator().manual_seed(1)) for n in (6, len(batch.pairing.owner_N)))
    torch.testing.assert_close(call(loss, permuted(make_batch(0), images, texts)).value, value)


def test_gradcheck():
    batch = make_batch(5, captions=(2, 1), width=3)

    def value(loss):
        def of(pooled_BD, pooled_ND):
            moved = batch.with_leaves({"pooled_BD": pooled_BD, "pooled_ND": pooled_ND})
            return call(loss, moved).value

        return of

    inputs = [x.clone().requires_grad_() for x in (batch.image.pooled_BD, batch.text.pooled_ND)]
    for name in VARIANTS:
        assert torch.autograd.gradcheck(value(VARIANTS[name]), inputs), name


def in_process(rank, group, batch, names):
    found = {}
    for name in names:
        fresh = batch.fresh()
        output = call(VARIANTS[name], fresh, group=group)
        if output.value.requires_grad:
            output.value.backward()
        grad = fresh.text.pooled_ND.grad
        found[name] = output.value.detach(), torch.zeros_like(fresh.text.pooled_ND) if grad is None else grad
    return found


def test_two_processes_equal_one():
    batch = make_batch(20)
    alone = in_process(0, None, batch, VARIANTS)
    shares = gloo.run(2, in_process, [(batch.part(0, 2), VARIANTS), (batch.part(2, 6), VARIANTS)])
    for name in VARIANTS:
        torch.testing.assert_close(shares[0][name][0] + shares[1][name][0], alone[name][0])
        torch.testing.assert_close(torch.cat([share[name][1] for share in shares]), alone[name][1])


def test_little_or_nothing_there():
    lone = regular(1)
    assert call(TgcLoss(), lone).value > 0
    for batch in (make_batch(2, captions=(2, 1), negatives=0), without_texts(make_batch(3))):
        assert call(TgcLoss(), batch).value == 0
    assert call(DistillationLoss(), without_texts(make_batch(3))).value.isfinite()
    zero = make_batch(3).map(torch.zeros_like).fresh()
    for name in VARIANTS:
        output = call(VARIANTS[name], zero)
        output.value.backward()
        assert output.value.isfinite(), name
    assert zero.text.pooled_ND.grad.isfinite().all()
    rounded = make_batch(9).map(lambda x: x.bfloat16())
    exact = rounded.map(lambda x: x.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for name in VARIANTS:
            got = call(VARIANTS[name], rounded, SCALE.float()).value
            assert got.dtype == torch.float32
            torch.testing.assert_close(got.double(), call(VARIANTS[name], exact).value, rtol=1e-5, atol=1e-5)


def test_a_missing_teacher_is_said():
    image, text = ImageFeatures(torch.eye(2)), TextFeatures(torch.eye(2))
    for loss in (TgcLoss(), DistillationLoss()):
        with pytest.raises(ValueError, match=r"teacher\.kind"):
            loss(image, text, Pairing.one_to_one(2), SCALE)
    with pytest.raises(ValueError, match="scale"):
        TgcLoss(scale=-1.0)


def test_the_recipe_trains_and_its_teacher_holds_the_model_back(tmp_path):
    dataset = make_dataset(tmp_path / "data")
    kept = []
    for number, weight in enumerate(("0.0", "0.5")):
        recipe = make_recipe("degla", "--optimiser.steps", "12", "--terms.distillation.weight", weight, "--optimiser.lr", "1e-2")
        trained = train(recipe, dataset, make_model(dataset), tmp_path / str(number), device="cpu", quiet=True)
        lines = [json.loads(line) for line in (tmp_path / str(number) / "metrics.jsonl").read_text().splitlines()]
        assert all(math.isfinite(line["loss"]) for line in lines)
        assert lines[0]["loss/distillation"] == pytest.approx(0, abs=1e-5)
        kept.append(lines[-1]["loss/distillation"])
        assert load_model(trained).head.kind == "plain"
    assert kept[1] < 0.5 * kept[0]
    none = make_recipe("degla", "--teacher.kind", "none")
    with pytest.raises(UserError, match='needs "teacher"'):
        train(none, dataset, make_model(dataset), tmp_path / "none", device="cpu", quiet=True)
