"""Losses where the answer is known on paper."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.clip import ClipLoss
from wholegrain.losses.cmr import CmrLoss
from wholegrain.losses.diversity import DiversityLoss
from wholegrain.losses.imc import ImcLoss
from wholegrain.losses.many_to_many import ManyToManyLoss
from wholegrain.losses.negclip import NegclipLoss
from wholegrain.losses.siglip import SiglipLoss
from wholegrain.losses.sparc import SparcLoss, minmax_weights
from wholegrain.losses.text_conditioned import TextConditionedLoss, text_conditioned_scores
from wholegrain.verify.cases import KINDS, ROLES, make_batch

TEN = torch.tensor(10.0, dtype=torch.float64)


def with_foils(images: int, foils: int) -> Pairing:
    """One caption an image, then all its foils: captions first, as in CE-CLIP."""
    captions, number = torch.arange(images), images * foils
    of = captions.repeat_interleave(foils)
    kind = torch.arange(number) % foils
    return Pairing(
        torch.cat([captions, of]),
        torch.cat([captions * 0 - 1, of]),
        torch.zeros(images + number, dtype=torch.int64),
        torch.cat([captions * 0 - 1, kind]),
        torch.arange(images + number),
        captions,
        ("web",),
        tuple(f"kind {k}" for k in range(foils)),
    )


def alike(images: int, texts: int) -> tuple[ImageFeatures, TextFeatures]:
    ones = torch.ones(8, dtype=torch.float64)
    image = ImageFeatures(ones.expand(images, 8), ones.expand(images, 3, 8), ones.expand(images, 4, 8), (2, 2))
    return image, TextFeatures(ones.expand(texts, 8), ones.expand(texts, 5, 8), torch.ones(texts, 5, dtype=torch.bool))


def random_one_to_one(images: int = 6) -> tuple[ImageFeatures, TextFeatures, Pairing]:
    draw = torch.Generator().manual_seed(0)
    v, t = (torch.randn(images, 8, generator=draw, dtype=torch.float64) for _ in range(2))
    return ImageFeatures(v, v[:, None]), TextFeatures(t), Pairing.one_to_one(images)


def test_uniform_scores_give_the_logarithm_of_the_candidates():
    image, text = alike(4, 4 + 12)
    pairing = with_foils(4, 3)
    parts = NegclipLoss()(image, text, pairing, TEN).parts
    assert parts["image_to_text"].item() == pytest.approx(math.log(16))
    assert parts["text_to_image"].item() == pytest.approx(math.log(4))
    assert NegclipLoss(own_only=True)(image, text, pairing, TEN).parts["image_to_text"].item() == pytest.approx(math.log(7))
    assert ClipLoss()(image, text, pairing, TEN).value.item() == pytest.approx(math.log(4))
    assert ManyToManyLoss()(image, text, pairing, TEN).value.item() == pytest.approx(math.log(4))
    everywhere = ManyToManyLoss(negatives="all")(image, text, pairing, TEN).parts["text_to_image"]
    assert everywhere.item() == pytest.approx(math.log(1 + 3 * 3))
    own = TextConditionedLoss(negatives="own")(image, text, pairing, TEN).parts["image_to_text"]
    assert own.item() == pytest.approx(math.log(7))
    assert SparcLoss()(image, text, pairing, TEN).value.item() == pytest.approx(math.log(5))


def test_one_to_one_is_plain_clip():
    image, text, pairing = random_one_to_one()
    v, t = (torch.nn.functional.normalize(x) for x in (image.pooled_BD, text.pooled_ND))
    logits, labels = 10 * v @ t.T, torch.arange(6)
    for smoothing in (0.0, 0.1):
        both = [torch.nn.functional.cross_entropy(x, labels, label_smoothing=smoothing) for x in (logits, logits.T)]
        value = ClipLoss(label_smoothing=smoothing)(image, text, pairing, TEN).value
        torch.testing.assert_close(value, sum(both) / 2)
    torch.testing.assert_close(NegclipLoss()(image, text, pairing, TEN).value, ClipLoss()(image, text, pairing, TEN).value)
    for assignment in ("role", "positional", "argmax"):
        one_branch = ManyToManyLoss(assignment=assignment, roles=("web",))(image, text, pairing, TEN).value
        torch.testing.assert_close(one_branch, ClipLoss()(image, text, pairing, TEN).value)


def test_siglip_is_the_papers_sum():
    image, text, pairing = random_one_to_one()
    v, t = (torch.nn.functional.normalize(x) for x in (image.pooled_BD, text.pooled_ND))
    bias = torch.tensor(-2.0, dtype=torch.float64)
    signs = 2 * torch.eye(6, dtype=torch.float64) - 1
    expected = -torch.nn.functional.logsigmoid(signs * (10 * v @ t.T + bias)).sum() / 6
    torch.testing.assert_close(SiglipLoss()(image, text, pairing, TEN, bias).value, expected)


def test_duplicates_are_neither_positive_nor_negative():
    image, text, pairing = random_one_to_one()
    same = replace(pairing, text_id_N=torch.tensor([0, 1, 2, 3, 4, 0]))
    text.pooled_ND[5] = text.pooled_ND[0]
    ignored, counted = ClipLoss(), ClipLoss(duplicates="negative")
    assert ignored(image, text, same, TEN).value < counted(image, text, same, TEN).value
    torch.testing.assert_close(counted(image, text, same, TEN).value, ignored(image, text, pairing, TEN).value)
    pair = torch.tensor([0, 5])
    one_text = replace(Pairing.one_to_one(2), text_id_N=torch.zeros(2, dtype=torch.int64))
    assert ignored(image.select(pair), text.select(pair), one_text, TEN).value == 0  # one caption: nothing to tell apart


def test_released_imc_stands_at_ln_4b_when_texts_are_alike():
    image, text = alike(8, 8 + 32)
    value = ImcLoss(variant="released")(image, text, with_foils(8, 4), TEN).value
    assert value.item() == pytest.approx(math.log(4 * 8))
    assert ImcLoss()(image, text, with_foils(8, 4), TEN).value.item() == pytest.approx(math.log(5))
    assert ImcLoss(variant="paper")(image, text, with_foils(8, 4), TEN).value.item() == pytest.approx(10 + math.log(4))


def test_released_imc_pulls_every_caption_to_one_foil_and_own_does_not():
    draw = torch.Generator().manual_seed(0)
    raw = torch.randn(4 + 8, 8, generator=draw, dtype=torch.float64, requires_grad=True)
    image, pairing = ImageFeatures(torch.ones(4, 8, dtype=torch.float64)), with_foils(4, 2)

    def moved(variant: str) -> torch.Tensor:
        """How a step down the loss changes each caption's cosine with each foil: ``[captions, foils]``."""
        (grad,) = torch.autograd.grad(ImcLoss(variant=variant)(image, TextFeatures(raw), pairing, TEN).value, raw)
        before, foils = raw.detach()[:4, None], raw.detach()[4:]
        after = before - 1e-4 * grad[:4, None]
        return torch.cosine_similarity(after, foils, dim=-1) - torch.cosine_similarity(before, foils, dim=-1)

    assert (moved("released")[:, 0] > 0).all()
    nearest = torch.cosine_similarity(raw[:4, None], raw[4:].view(4, 2, 8), dim=-1).argmax(1)
    assert (moved("own").view(4, 4, 2)[range(4), range(4), nearest] < 0).all()


def test_imc_own_forgets_the_scale():
    batch = make_batch(0).fresh()
    scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    ImcLoss()(batch.image, batch.text, batch.pairing, scale).value.backward()
    assert scale.grad is None or scale.grad == 0


def rank_batch(*foil_cosines: float) -> tuple[ImageFeatures, TextFeatures, Pairing]:
    """One image, its caption at cosine 1, and a foil of each kind at the given cosines."""
    vectors = [(1.0, 0.0), *((c, math.sqrt(1 - c * c)) for c in foil_cosines)]
    text = TextFeatures(torch.tensor(vectors, dtype=torch.float64))
    return ImageFeatures(torch.tensor([[2.0, 0.0]], dtype=torch.float64)), text, with_foils(1, len(foil_cosines))


def test_cmr_hinge_and_margin_by_hand():
    hundred, loss = torch.tensor(100.0, dtype=torch.float64), CmrLoss()
    image, text, pairing = rank_batch(0.96, 0.5)  # gaps of 4 and 50 logits
    first = loss(image, text, pairing, hundred)
    assert first.value == 0
    assert first.state["margin_K"].tolist() == pytest.approx([4.0, 10.0])  # bounded by 10 logits = 0.10 cosine
    image, text, pairing = rank_batch(0.98, 0.95)  # gaps of 2 and 5
    second = loss(image, text, pairing, hundred, state=first.state)
    assert second.value.item() == pytest.approx(((4 - 2) + (10 - 5)) / 2)
    assert {k: v.item() for k, v in second.parts.items()} == pytest.approx({"margin/kind 0": 4.0, "margin/kind 1": 10.0})
    assert second.state["margin_K"].tolist() == pytest.approx([2.0, 5.0])


def test_cmr_has_no_gradient_once_the_gap_exceeds_the_margin():
    image, text, pairing = rank_batch(0.5, 0.2)
    raw = text.pooled_ND.clone().requires_grad_()
    CmrLoss()(image, TextFeatures(raw), pairing, TEN, state={"margin_K": torch.tensor([4.9, 7.9])}).value.backward()
    assert (raw.grad == 0).all()


def test_cmr_keeps_the_margin_of_an_absent_kind():
    batch = make_batch(0)  # draws kinds 0 and 1, never 2
    for loss in (CmrLoss(), CmrLoss(margin="max"), CmrLoss(gap="paired")):
        state = {"margin_K": torch.tensor([1.0, 2.0, 3.25])}
        after = loss(batch.image, batch.text, batch.pairing, TEN, state=state).state["margin_K"]
        assert after[2] == 3.25
        assert ((after >= 0) & (after <= 10)).all()
    assert CmrLoss().initial_state(KINDS)["margin_K"].tolist() == [0, 0, 0]
    assert CmrLoss(margin="fixed").initial_state(KINDS)["margin_K"].tolist() == [2, 2, 2]


def test_cmr_grid_counts_absent_cells():
    image, text, pairing = rank_batch(0.9, 0.8)
    half = pairing.select_texts(torch.tensor([0, 1]))
    state = {"margin_K": torch.tensor([5.0, 5.0])}
    valid, grid = (
        CmrLoss(reduction=r)(image, text.select(torch.tensor([0, 1])), half, TEN, state=state).value for r in ("valid", "grid")
    )
    assert valid.item() == pytest.approx(4.0)
    assert grid.item() == pytest.approx(2.0)


def test_sparc_with_one_token_is_zero():
    batch = make_batch(1)
    one = torch.zeros_like(batch.text.mask_NL)
    one[:, 0] = True
    text = replace(batch.text, mask_NL=one)
    tokens = text.tokens_NLD.requires_grad_()
    value = SparcLoss()(batch.image, text, batch.pairing, TEN).value
    value.backward()
    assert abs(value.item()) < 1e-12
    assert tokens.grad.abs().max() < 1e-12


def test_sparc_weights_do_not_know_the_length_or_offset_of_a_token():
    draw = torch.Generator().manual_seed(0)
    similarity = torch.randn(5, 9, generator=draw, dtype=torch.float64)
    weights = minmax_weights(similarity)
    torch.testing.assert_close(weights.sum(-1), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(minmax_weights(3 * similarity + 2), weights)
    assert minmax_weights(torch.full((2, 4), 0.3)).tolist() == [[0.25] * 4] * 2


def test_sparc_without_threshold_has_a_closed_form():
    """c = mean patch + covariance t / (mean similarity - least similarity)."""
    draw = torch.Generator().manual_seed(0)
    patches = torch.randn(1, 9, 6, generator=draw, dtype=torch.float64)
    tokens = torch.randn(1, 4, 6, generator=draw, dtype=torch.float64)
    grouped = SparcLoss(sigma=0.0).group_patches(patches, tokens, TEN)[1]
    v, t = patches[0], tokens[0]
    mean, centred = v.mean(0), v - v.mean(0)
    similarity = t @ v.T
    expected = mean + (t @ (centred.T @ centred / 9)) / (similarity.mean(1) - similarity.amin(1))[:, None]
    torch.testing.assert_close(grouped[0], expected)


def test_sparc_control_shifts_the_images():
    batch = make_batch(2, captions=(1, 1, 1), negatives=0, duplicates=False)
    output = SparcLoss(control=True)(batch.image, batch.text, batch.pairing, TEN)
    shifted = batch.image.select(torch.tensor([1, 2, 0]))
    torch.testing.assert_close(output.parts["shuffled"], SparcLoss()(shifted, batch.text, batch.pairing, TEN).value)
    assert not output.parts["shuffled"].requires_grad


def test_roles_go_to_their_branches_in_any_order():
    """An image's background text is read by the background branch wherever it stands in the list."""
    batch = make_batch(0, duplicates=False)
    roles = ("style", "overview", "background")
    unit_branches = torch.nn.functional.normalize(batch.image.branches_BHD, dim=-1)
    true = batch.pairing.true_N
    pairing, text = batch.pairing.select_texts(true), torch.nn.functional.normalize(batch.text.pooled_ND[true], dim=-1)
    _, branch = ManyToManyLoss(roles=roles).assign(unit_branches, text, pairing)
    for n, role in enumerate(pairing.role_N.tolist()):
        if ROLES[role] in roles:
            assert branch[n] == roles.index(ROLES[role])
        else:
            assert branch[n] == (unit_branches[pairing.owner_N[n]] @ text[n]).argmax()


def test_diversity_is_a_hinge_on_the_mean_cosine():
    text, pairing = TextFeatures(torch.ones(2, 2)), Pairing.one_to_one(2)
    half = torch.tensor([[1.0, 0.0], [0.5, math.sqrt(0.75)]])  # cosine 0.5
    image = ImageFeatures(torch.ones(2, 2), torch.stack([half, torch.ones(2, 2)]))  # 0.5 and 1: mean 0.75
    assert DiversityLoss()(image, text, pairing, TEN).value.item() == pytest.approx(0.05)
    assert DiversityLoss(ceiling=0.8)(image, text, pairing, TEN).value == 0
    single = ImageFeatures(torch.ones(2, 2), torch.ones(2, 1, 2))
    assert DiversityLoss()(single, text, pairing, TEN).value == 0


def test_text_conditioned_scores_between_mean_and_best_patch():
    draw = torch.Generator().manual_seed(0)
    patches, text = torch.randn(3, 9, 6, generator=draw), torch.randn(4, 6, generator=draw)
    cosine = torch.cosine_similarity(patches[:, None], text[:, None], dim=-1)
    torch.testing.assert_close(text_conditioned_scores(patches, text, temperature=1e-4), cosine.amax(-1))
    pooled = torch.nn.functional.normalize(patches.mean(1), dim=-1) @ torch.nn.functional.normalize(text, dim=-1).T
    torch.testing.assert_close(text_conditioned_scores(patches, text, temperature=1e6), pooled, rtol=1e-4, atol=1e-5)
    few = torch.randn(3, 4, 16, generator=draw)  # fewer patches than dimensions takes the other way to the length
    direct = torch.cat([text_conditioned_scores(few[i : i + 1], torch.ones(1, 16)) for i in range(3)])
    weight = (torch.cosine_similarity(few, torch.ones(16), dim=-1) / 0.1).softmax(-1)
    expected = torch.cosine_similarity((weight[..., None] * few).sum(1), torch.ones(16), dim=-1)
    torch.testing.assert_close(direct.squeeze(1), expected)


def test_text_conditioning_needs_the_text_in_the_picture():
    """One patch carries the caption: conditioned scores are low for every other image, though all mean vectors are alike."""
    words = torch.eye(4, dtype=torch.float64)
    patches = torch.stack([torch.stack([words[i], -words[i]]) for i in range(4)])
    image, text = ImageFeatures(patches.mean(1) + 1, patches_BPD=patches), TextFeatures(words)
    scale = torch.tensor(50.0, dtype=torch.float64)
    assert ClipLoss()(image, text, Pairing.one_to_one(4), scale).value.item() == pytest.approx(math.log(4))
    assert TextConditionedLoss()(image, text, Pairing.one_to_one(4), scale).value.item() < 1e-6
