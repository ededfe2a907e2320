"""Losses on a caption's own negatives and on several right captions: loops, processes, edges, and what each is for."""

from __future__ import annotations

import math
from dataclasses import replace

import gloo
import pytest
import torch
from loss_variants import NEGATIVES_AND_POSITIVES as CASES

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.clip import ClipLoss
from wholegrain.losses.core import pair_scores, tiles
from wholegrain.losses.multi_positive import MultiPositiveLoss
from wholegrain.losses.negclip import NegclipLoss
from wholegrain.losses.own_negatives import OwnNegativesLoss, choice
from wholegrain.losses.paraphrases import ParaphrasesLoss
from wholegrain.verify.cases import Batch, make_batch, without_texts
from wholegrain.verify.definitions import reference_value

SCALE, BIAS = torch.tensor(7.0, dtype=torch.float64), torch.tensor(-1.5, dtype=torch.float64)


def call(loss, batch: Batch, scale=SCALE, group=None):
    return loss(batch.image, batch.text, batch.pairing, scale, BIAS, group=group)


def compare(loss, batch: Batch) -> None:
    ours, theirs = batch.fresh(), batch.fresh()
    scales = SCALE.clone().requires_grad_(), SCALE.clone().requires_grad_()
    output, (value, _) = call(loss, ours, scales[0]), reference_value(loss, theirs, scales[1], BIAS)
    torch.testing.assert_close(output.value, value, rtol=1e-10, atol=1e-12)
    leaves, others = [*ours.leaves().values(), scales[0]], [*theirs.leaves().values(), scales[1]]
    for leaf, other in zip(leaves, others, strict=True):
        got = torch.autograd.grad(output.value, leaf, retain_graph=True, allow_unused=True)[0]
        expected = torch.autograd.grad(value, other, retain_graph=True, allow_unused=True)[0] if value.requires_grad else None
        zero = torch.zeros_like(leaf)
        torch.testing.assert_close(zero if got is None else got, zero if expected is None else expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_loops(name, monkeypatch):
    compare(CASES[name], make_batch(0))
    compare(CASES[name], make_batch(4, captions=(2,), duplicates=False))
    monkeypatch.setattr(pair_scores, "CELLS", 90)
    monkeypatch.setattr(tiles, "TILE", {"cpu": 9})
    monkeypatch.setattr(tiles, "KEPT", 0)
    compare(CASES[name], make_batch(3))


def shares(rank, group, batch: Batch):
    found = {}
    for name, loss in CASES.items():
        mine = batch.fresh()
        scale = SCALE.clone().requires_grad_()
        output = call(loss, mine, scale, group)
        output.value.backward()
        grads = {key: torch.zeros_like(x) if x.grad is None else x.grad for key, x in mine.leaves().items()}
        found[name] = output.value.detach(), scale.grad, grads, output.parts
    return found


def test_two_processes_equal_one():
    batch = make_batch(10)
    parts = [batch.part(0, 2), batch.part(2, 6)]
    alone, joined = shares(0, None, batch), gloo.run(2, shares, [(part,) for part in parts])
    for name in CASES:
        value, knob, grads, shown = alone[name]
        torch.testing.assert_close(sum(one[name][0] for one in joined), value, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(sum(one[name][1] for one in joined), knob, rtol=1e-9, atol=1e-12)
        for key, grad in grads.items():
            pieces = [one[name][2][key] for one in joined]
            whole = torch.stack(pieces).sum(0) if key.startswith("learned.") else torch.cat(pieces)
            torch.testing.assert_close(whole, grad, rtol=1e-9, atol=1e-12)
        for key, part in shown.items():
            torch.testing.assert_close(sum(one[name][3][key] for one in joined), part, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_finite_at_the_edge(name):
    usual = make_batch(3).map(lambda x: x.float())
    filled = [usual.map(lambda x, to=to: torch.full_like(x, to)) for to in (0.0, 0.3, 3e4)]
    copies = replace(usual.pairing, text_id_N=usual.pairing.text_id_N * 0, image_id_B=usual.pairing.image_id_B * 0)
    no_words = replace(usual, text=replace(usual.text, mask_NL=usual.text.mask_NL & False))
    for batch in (*filled, no_words, without_texts(usual), replace(usual, pairing=copies)):
        batch = batch.fresh()
        value = call(CASES[name], batch, torch.tensor(100.0)).value
        value.backward()
        assert value.isfinite()
        assert all(x.grad is None or x.grad.isfinite().all() for x in batch.leaves().values())


@pytest.mark.parametrize("name", CASES)
def test_bfloat16_is_computed_in_float32(name):
    rounded = make_batch(9).map(lambda x: x.to(torch.bfloat16))
    exact = call(CASES[name], rounded.map(lambda x: x.double())).value
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = call(CASES[name], rounded, SCALE.float()).value
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), exact, rtol=2e-5, atol=2e-5)


# ---- what each is for --------------------------------------------------------------------------------------------------------


def one_caption(foils: int, cosine_true: float, cosine_false: float) -> Batch:
    """One image, one caption and its foils, at given cosines with the image."""
    angles = torch.tensor([cosine_true, *[cosine_false] * foils], dtype=torch.float64).acos()
    text = torch.stack([angles.cos(), angles.sin()], 1)
    number = torch.arange(1 + foils)
    pairing = Pairing(
        number * 0, (number > 0).long() - 1, number * 0, (number > 0).long() - 1, number, number[:1], kinds=("swap",)
    )
    return Batch(ImageFeatures(torch.tensor([[1.0, 0.0]], dtype=torch.float64)), TextFeatures(text), pairing)


@pytest.mark.parametrize("focal", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.02, 0.3])
def test_value_by_hand(focal, smoothing):
    batch = one_caption(3, 0.4, 0.3)
    raised = [math.exp(7 * c) for c in (0.4, 0.3, 0.3, 0.3)]
    chance = [x / sum(raised) for x in raised]
    label = [1 - smoothing + smoothing / 4, *[smoothing / 4] * 3]
    expected = sum(-y * (1 - p) ** focal * math.log(p) for y, p in zip(label, chance, strict=True))
    assert call(OwnNegativesLoss(focal, smoothing), batch).value.item() == pytest.approx(expected, rel=1e-12)


def test_cross_entropy_of_torch():
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 4, generator=draw, dtype=torch.float64)
    query = torch.arange(5).repeat_interleave(3)
    for smoothing in (0.0, 0.1):
        each, there = choice(logits[:, 0], logits[:, 1:].reshape(-1), query, smoothing=smoothing)
        expected = torch.nn.functional.cross_entropy(logits, torch.zeros(5).long(), reduction="none", label_smoothing=smoothing)
        torch.testing.assert_close(each, expected)
        assert there.all()


def test_focal_forgets_what_is_solved_and_smoothing_stops_pushing():
    solved, open_question = one_caption(3, 0.9, -0.9), one_caption(3, 0.4, 0.4)
    plain, focal = OwnNegativesLoss(), OwnNegativesLoss(focal=2.0)
    ratio = [call(focal, batch).value / call(plain, batch).value for batch in (solved, open_question)]
    assert ratio[0] < 1e-8
    assert ratio[1] == pytest.approx(0.75**2)
    batch = solved.fresh()  # with smoothing the gradient of a negative that is far below turns round
    call(OwnNegativesLoss(label_smoothing=0.3), batch).value.backward()
    pushed = one_caption(3, 0.9, -0.9).fresh()
    call(plain, pushed).value.backward()
    assert batch.text.pooled_ND.grad[1] @ pushed.text.pooled_ND.grad[1] < 0


def test_part_says_how_many_choose_rightly():
    assert call(OwnNegativesLoss(), one_caption(3, 0.4, 0.3)).parts["right"] == 1
    assert call(OwnNegativesLoss(), one_caption(3, 0.3, 0.4)).parts["right"] == 0
    assert call(OwnNegativesLoss(), one_caption(3, 0.3, 0.3)).parts["right"] == 0  # a tie is no choice


def test_other_images_play_no_part_unlike_in_negclip():
    batch = make_batch(2, duplicates=False)
    foreign = batch.pairing.owner_N > 0
    moved = batch.with_leaves({"pooled_ND": torch.where(foreign[:, None], -batch.text.pooled_ND, batch.text.pooled_ND)})
    first = Batch(batch.image, batch.text, batch.pairing).part(0, 1)

    def gradient_of_first(loss, whole):
        given = whole.fresh()
        call(loss, given).value.backward()
        return given.image.pooled_BD.grad[0]

    assert len(first.pairing.owner_N) > 1
    torch.testing.assert_close(gradient_of_first(OwnNegativesLoss(), batch), gradient_of_first(OwnNegativesLoss(), moved))
    difference = gradient_of_first(NegclipLoss(own_only=True), batch) - gradient_of_first(NegclipLoss(own_only=True), moved)
    assert difference.abs().max() > 1e-4


def test_negatives_known_to_be_true_are_left_out_also_across_processes():
    batch = make_batch(0, captions=(1, 1, 1, 1), negatives=1, duplicates=False)
    true, foil = batch.pairing.true_N.nonzero().squeeze(1), (~batch.pairing.true_N).nonzero().squeeze(1)[0]
    owner = int(batch.pairing.owner_N[foil])
    text_id, image_id = batch.pairing.text_id_N.clone(), batch.pairing.image_id_B.clone()
    image_id[3], text_id[foil] = image_id[owner], text_id[true[3]]  # a copy of the image, in another process, has this caption
    assert owner < 3
    copied = replace(batch, pairing=replace(batch.pairing, text_id_N=text_id, image_id_B=image_id))
    kept = (torch.arange(len(text_id)) != foil).nonzero().squeeze(1)
    without = Batch(batch.image, batch.text.select(kept), batch.pairing.select_texts(kept))
    alone = call(OwnNegativesLoss(), copied).value
    torch.testing.assert_close(alone, call(OwnNegativesLoss(), without).value)
    joined = gloo.run(2, shares, [(copied.part(0, 2),), (copied.part(2, 4),)])
    torch.testing.assert_close(sum(one["own"][0] for one in joined), alone)
    assert call(OwnNegativesLoss(duplicates="negative"), copied).value != alone


def test_a_caption_alone_costs_nothing():
    lone = Batch(ImageFeatures(torch.ones(1, 4)), TextFeatures(torch.ones(1, 4)), Pairing.one_to_one(1))
    for loss in (OwnNegativesLoss(), ParaphrasesLoss(), MultiPositiveLoss()):
        assert call(loss, lone, SCALE.float()).value == 0


def test_with_one_caption_an_image_several_positives_are_clip():
    batch = make_batch(1, captions=(1,) * 5, duplicates=False)
    for positives in ("each", "sum"):
        torch.testing.assert_close(call(MultiPositiveLoss(positives), batch).value, call(ClipLoss(), batch).value)


def test_floors_of_the_three_one_to_many_losses():
    """Everything right: captions of an image at its vector, other images at right angles."""
    eye, owner = torch.eye(3, dtype=torch.float64), torch.arange(3).repeat_interleave(4)
    pairing = Pairing(owner, owner * 0 - 1, owner * 0, owner * 0 - 1, torch.arange(12), torch.arange(3))
    batch = Batch(ImageFeatures(eye), TextFeatures(eye[owner]), pairing)
    sharp = torch.tensor(60.0, dtype=torch.float64)
    found = {name: call(loss, batch, sharp).parts["image_to_text"].item() for name, loss in (
        ("apart", ClipLoss()), ("each", MultiPositiveLoss()), ("sum", MultiPositiveLoss("sum")))}  # fmt: skip
    assert found == pytest.approx({"apart": 0.0, "each": math.log(4), "sum": 0.0}, abs=1e-12)


def test_sum_is_content_with_one_good_caption():
    """One caption fits, the other does not: "sum" leaves the other alone, "each" pulls it."""
    eye = torch.eye(4, dtype=torch.float64)
    owner = torch.tensor([0, 0, 1, 1])
    pairing = Pairing(owner, owner * 0 - 1, owner * 0, owner * 0 - 1, torch.arange(4), torch.arange(2))
    pull = {}
    for positives in ("sum", "each"):
        batch = Batch(ImageFeatures(eye[:2]), TextFeatures(eye[[0, 2, 1, 3]]), pairing).fresh()
        both = MultiPositiveLoss(positives)(batch.image, batch.text, batch.pairing, torch.tensor(20.0, dtype=torch.float64))
        to_image = ClipLoss()(batch.image, batch.text, batch.pairing, torch.tensor(20.0, dtype=torch.float64))
        (grad,) = torch.autograd.grad(both.value, batch.text.pooled_ND)
        assert to_image.value.isfinite()
        pull[positives] = -(grad[1] @ eye[0]).item()
    assert pull["each"] > pull["sum"] + 1


def test_paraphrases_pull_captions_of_an_image_together():
    batch = make_batch(1, captions=(2, 2, 2), negatives=0, duplicates=False)
    text = batch.text.pooled_ND.clone().requires_grad_()
    for _ in range(200):
        batch = replace(batch, text=replace(batch.text, pooled_ND=text))
        (grad,) = torch.autograd.grad(call(ParaphrasesLoss("text"), batch).value, text)
        text = (text - 0.1 * grad).detach().requires_grad_()
    unit = torch.nn.functional.normalize(text.detach(), dim=1)
    cosine = unit @ unit.T
    assert min(cosine[0, 1], cosine[2, 3], cosine[4, 5]) > max(cosine[0, 2:].max(), cosine[2, 4:].max()) + 0.5
