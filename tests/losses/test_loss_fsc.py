"""FSC-CLIP's local loss: what a word gathers, what counts as a word, and the released formula."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.fsc_local import FscLocalLoss
from wholegrain.losses.own_negatives import OwnNegativesLoss
from wholegrain.verify.cases import Batch, make_batch, padded_with

SCALE = torch.tensor(20.0, dtype=torch.float64)


def call(loss, batch: Batch, scale=SCALE):
    return loss(batch.image, batch.text, batch.pairing, scale)


def full_batch(images: int = 4, foils: int = 3, seed: int = 0) -> Batch:
    """Every caption has the same number of foils, texts in the order captions, first foils, second foils, …"""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int):
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    texts, number = images * (1 + foils), torch.arange(images * (1 + foils))
    negative = number >= images
    caption = number % images
    pairing = Pairing(
        caption, torch.where(negative, caption, -1), number * 0, negative.long() - 1, number, number[:images], kinds=("swap",)
    )
    length = torch.randint(2, 6, (texts,), generator=draw)
    mask = torch.arange(6) < length[:, None]
    text = TextFeatures(normal(texts, 5), normal(texts, 6, 5), mask)
    return Batch(ImageFeatures(normal(images, 5), patches_BPD=normal(images, 9, 5), grid=(3, 3)), text, pairing)


def released(batch: Batch, images: int, focal: float = 2.0, smoothing: float = 0.02):
    """The formula of the released code for a batch without a missing negative, in whole-batch tensors."""
    tokens, mask = batch.text.tokens_NLD, batch.text.mask_NL.clone()
    mask[:, 0] = False
    patches = batch.image.patches_BPD.repeat(len(tokens) // images, 1, 1)
    weight = (tokens @ patches.mT).detach()
    low, high = weight.amin(2, keepdim=True), weight.amax(2, keepdim=True)
    weight = (weight - low) / (high - low)
    weight = weight / weight.sum(2, keepdim=True)
    cosine = torch.nn.functional.cosine_similarity(weight @ patches, tokens, dim=2)
    score = (SCALE * cosine).masked_fill(~mask, float("-inf")).logsumexp(1)
    log_p = score.view(-1, images).T.log_softmax(1)
    label = torch.full_like(log_p, smoothing / log_p.shape[1])
    label[:, 0] += 1 - smoothing
    return -(label * log_p * (1 - log_p.exp()) ** focal).sum(1).mean()


def test_equals_the_released_formula_with_its_gradients():
    ours, theirs = full_batch().fresh(), full_batch().fresh()
    value, expected = call(FscLocalLoss(), ours).value, released(theirs, 4)
    torch.testing.assert_close(value, expected)
    value.backward()
    expected.backward()
    torch.testing.assert_close(ours.image.patches_BPD.grad, theirs.image.patches_BPD.grad)
    torch.testing.assert_close(ours.text.tokens_NLD.grad, theirs.text.tokens_NLD.grad)


def test_weights_have_no_gradient_unless_asked_for():
    batch, free = full_batch().fresh(), full_batch().fresh()
    call(FscLocalLoss(), batch).value.backward()
    call(FscLocalLoss(detach_weights=False), free).value.backward()
    assert (batch.text.tokens_NLD.grad - free.text.tokens_NLD.grad).abs().max() > 1e-4


def test_the_start_token_is_no_word():
    batch = full_batch()
    tokens = batch.text.tokens_NLD.clone()
    tokens[:, 0] = 100.0
    moved = replace(batch, text=replace(batch.text, tokens_NLD=tokens))
    assert call(FscLocalLoss(), batch).value == call(FscLocalLoss(), moved).value
    assert call(FscLocalLoss(start_token=True), batch).value != call(FscLocalLoss(start_token=True), moved).value


@pytest.mark.parametrize("filling", [1e6, float("nan")])
def test_padding_is_never_read(filling):
    plain, padded = full_batch().fresh(), padded_with(full_batch(), filling).fresh()
    value, other = call(FscLocalLoss(), plain).value, call(FscLocalLoss(), padded).value
    torch.testing.assert_close(value, other)
    value.backward()
    other.backward()
    torch.testing.assert_close(padded.image.patches_BPD.grad, plain.image.patches_BPD.grad)
    assert (padded.text.tokens_NLD.grad[~padded.text.mask_NL] == 0).all()


def test_a_sum_over_words_rewards_length_and_a_mean_does_not():
    """A negative that says the caption twice: by the sum it wins by ln 2, by the mean it ties."""
    draw = torch.Generator().manual_seed(0)
    patches = torch.randn(1, 9, 5, generator=draw, dtype=torch.float64)
    words = torch.randn(3, 5, generator=draw, dtype=torch.float64)
    tokens = torch.zeros(2, 7, 5, dtype=torch.float64)
    tokens[0, 1:4], tokens[1, 1:7] = words, words.repeat(2, 1)
    mask = torch.tensor([[True] * 4 + [False] * 3, [True] * 7])
    zero, lone = torch.zeros(2, dtype=torch.int64), torch.tensor([-1, 0])
    pairing = Pairing(zero, lone, zero, lone + 0, torch.tensor([1, 2]), zero[:1], kinds=("add",))
    pairing = replace(pairing, kind_N=torch.tensor([-1, 0]))
    batch = Batch(
        ImageFeatures(patches[:, 0], patches_BPD=patches, grid=(3, 3)), TextFeatures(tokens[:, 0], tokens, mask), pairing
    )
    settings = {"focal": 0.0, "label_smoothing": 0.0}
    assert call(FscLocalLoss(words="sum", **settings), batch).value.exp().item() == pytest.approx(3.0)
    assert call(FscLocalLoss(words="mean", **settings), batch).value.exp().item() == pytest.approx(2.0)


def test_it_does_not_look_at_pooled_vectors():
    batch = full_batch()
    other = batch.with_leaves({"pooled_ND": -batch.text.pooled_ND, "pooled_BD": batch.image.pooled_BD + 1})
    assert call(FscLocalLoss(), batch).value == call(FscLocalLoss(), other).value
    assert call(OwnNegativesLoss(), batch).value != call(OwnNegativesLoss(), other).value


def test_refuses_what_it_cannot_do_without():
    batch = make_batch(0)
    with pytest.raises(ValueError, match="patches_BPD"):
        FscLocalLoss()(ImageFeatures(batch.image.pooled_BD), batch.text, batch.pairing, SCALE)
    with pytest.raises(ValueError, match="tokens_NLD"):
        FscLocalLoss()(batch.image, TextFeatures(batch.text.pooled_ND), batch.pairing, SCALE)


def test_it_learns_to_choose_the_caption():
    batch = full_batch(images=3, foils=2)
    tokens = batch.text.tokens_NLD.clone().requires_grad_()
    optimiser = torch.optim.Adam([tokens], 0.05)
    loss, right = FscLocalLoss(), []
    for _ in range(60):
        output = call(loss, replace(batch, text=replace(batch.text, tokens_NLD=tokens)))
        optimiser.zero_grad()
        output.value.backward()
        optimiser.step()
        right.append(output.parts["right"].item())
    assert right[-1] == 1 > right[0]
