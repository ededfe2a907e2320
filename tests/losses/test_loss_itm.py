"""Image-text matching: against loops, closed forms, gradients, who is drawn, processes, order, padding, precision."""

from __future__ import annotations

import math
from dataclasses import replace

import gloo
import pytest
import torch
from loss_variants import MATCHING

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses import itm
from wholegrain.losses.core import matching
from wholegrain.losses.core.hashed_noise import gumbel, mixed
from wholegrain.losses.imc import ImcLoss
from wholegrain.losses.itm import ItmLoss
from wholegrain.verify.cases import as_type, make_batch, padded_with, permuted, without_texts
from wholegrain.verify.definitions import reference_value
from wholegrain.verify.subject import evaluate

ITM = [name for name in MATCHING if name.startswith("itm")]


def run(loss, batch, step=0, **more):
    state = loss.initial_state(batch.pairing.kinds) if hasattr(loss, "initial_state") else None
    if isinstance(loss, ItmLoss):
        state = {"draw": torch.tensor([loss.seed, step])}
    return evaluate(loss, batch, state=state, **more)


@pytest.mark.parametrize("name", MATCHING)
@pytest.mark.parametrize("seed", [0, 1])
def test_agrees_with_loops(name, seed, monkeypatch):
    if seed:  # in several blocks of the draw, and in runs of two pairs
        monkeypatch.setattr(itm, "CELLS", 7)
        monkeypatch.setattr(matching, "CELLS", 160)
    loss, batch = MATCHING[name], make_batch(seed)
    result, given = run(loss, batch), batch.fresh()
    scale = torch.tensor(7.0, dtype=torch.float64)
    state = loss.initial_state(batch.pairing.kinds) if hasattr(loss, "initial_state") else None
    value, after = reference_value(loss, given, scale, scale, state)
    torch.testing.assert_close(result.value, value.detach(), rtol=1e-10, atol=1e-12)
    value.backward()
    for leaf, x in given.leaves().items():
        expected = torch.zeros_like(x) if x.grad is None else x.grad
        torch.testing.assert_close(result.grads[leaf], expected, rtol=1e-8, atol=1e-10, msg=lambda m, leaf=leaf: f"{leaf}: {m}")
    assert result.grads["learned.match_DD"].abs().max() > 1e-4
    if after is not None:
        torch.testing.assert_close(result.state, after, check_dtype=False)


def pairs_asked(loss, image_BD, text_ND, step=0, pairing=None):
    """The (image, text) pairs that a loss asks the network about, in order."""
    asked = []

    def match(image, text):
        asked.extend(zip(image.patches_BPD[:, 0, 0].int().tolist(), text.tokens_NLD[:, 0, 0].int().tolist(), strict=True))
        return 0 * text.tokens_NLD.sum((1, 2))

    number = torch.arange(len(image_BD), dtype=torch.float)[:, None, None]
    image = ImageFeatures(image_BD, patches_BPD=number, match=match)
    tokens = torch.arange(len(text_ND), dtype=torch.float)[:, None, None]
    text = TextFeatures(text_ND, tokens, torch.ones(len(text_ND), 1, dtype=torch.bool))
    pairing = pairing or Pairing.one_to_one(len(image_BD))
    loss(image, text, pairing, torch.tensor(2.0), state={"draw": torch.tensor([0, step])})
    return asked


def test_one_text_an_image_and_one_image_a_text_by_the_contrastive_probabilities():
    kinds = torch.eye(4).repeat(50, 1)  # image i and text n are alike if i = n (mod 4): S = 2, else 0
    alike, steps = 0, 3
    for step in range(steps):
        asked = pairs_asked(ItmLoss(), kinds, kinds, step=step)
        assert asked[:200] == [(b, b) for b in range(200)]
        assert [i for i, _ in asked[200:400]] == [n for _, n in asked[400:]] == list(range(200))
        assert all(i != n for i, n in asked[200:])
        assert len({n for _, n in asked[200:400]}) > 100  # a draw of its own for each
        alike += sum((i - n) % 4 == 0 for i, n in asked[200:])
    chance = 49 * math.exp(2) / (49 * math.exp(2) + 150)
    assert alike / (400 * steps) == pytest.approx(chance, abs=0.04)


def test_steps_and_seeds_draw_otherwise_and_the_same_step_draws_the_same():
    same = torch.ones(12, 4)
    first = pairs_asked(ItmLoss(), same, same)
    assert pairs_asked(ItmLoss(), same, same) == first
    assert pairs_asked(ItmLoss(), same, same, step=1) != first
    with torch.random.fork_rng():
        torch.manual_seed(123)  # torch's own generator, which differs between processes, plays no part
        assert pairs_asked(ItmLoss(), same, same) == first


def test_uniform_sampling_does_not_look():
    kinds = torch.eye(4).repeat(50, 1)
    asked = pairs_asked(ItmLoss(sampling="uniform"), kinds, kinds)[200:]
    assert sum((i - n) % 4 == 0 for i, n in asked) / 400 == pytest.approx(49 / 199, abs=0.06)


def test_known_pairs_are_never_drawn_as_no():
    pairing = Pairing.one_to_one(4)
    pairing = replace(pairing, text_id_N=torch.tensor([0, 0, 2, 3]), image_id_B=torch.tensor([0, 1, 2, 2]))
    seen = {pair for step in range(30) for pair in pairs_asked(ItmLoss(), torch.ones(4, 3), torch.ones(4, 3), step, pairing)[4:]}
    assert seen == {(i, n) for i in range(4) for n in range(4) if i // 2 != n // 2}
    as_code = ItmLoss(duplicates="negative")
    seen = {pair for step in range(30) for pair in pairs_asked(as_code, torch.ones(4, 3), torch.ones(4, 3), step, pairing)[4:]}
    assert seen == {(i, n) for i in range(4) for n in range(4) if i != n}


def test_foils_are_no_pairs_of_their_own_image():
    pairing = Pairing.one_to_one(3)
    more = {
        "owner_N": [0, 1, 2, 1, 2],
        "negative_of_N": [-1, -1, -1, 1, 2],
        "role_N": [0] * 5,
        "kind_N": [-1, -1, -1, 0, 0],
        "text_id_N": [0, 1, 2, 9, 2],  # the second foil is word for word its caption
    }
    pairing = replace(pairing, **{name: torch.tensor(x) for name, x in more.items()}, kinds=("swap",))
    asked = pairs_asked(ItmLoss(), torch.ones(3, 3), torch.ones(5, 3), pairing=pairing)
    assert len(asked) == 3 + 3 + 3 + 1
    assert asked[-1] == (1, 3)
    assert len(pairs_asked(ItmLoss(negatives="none"), torch.ones(3, 3), torch.ones(5, 3), pairing=pairing)) == 9


def test_closed_forms():
    patches, tokens, mask = torch.ones(4, 2, 3), torch.ones(4, 2, 3), torch.ones(4, 2, dtype=torch.bool)
    for z in (0.0, 2.0, -3.0):
        image = ImageFeatures(
            torch.eye(4), patches_BPD=patches, match=lambda image, text, z=z: torch.full((len(text.mask_NL),), z)
        )
        output = ItmLoss()(image, TextFeatures(torch.eye(4), tokens, mask), Pairing.one_to_one(4), torch.tensor(5.0))
        yes, no = math.log1p(math.exp(-z)), math.log1p(math.exp(z))
        assert output.value.item() == pytest.approx((yes + 2 * no) / 3, rel=1e-6)
        assert output.parts["yes"].item() == pytest.approx(yes, rel=1e-6)
        assert output.parts["right_no"].item() == float(z <= 0)


@pytest.mark.parametrize("name", ITM)
def test_gradcheck(name):
    batch, loss = make_batch(5, captions=(2, 1), patches=3, tokens=3, width=4), MATCHING[name]
    leaves = batch.fresh().leaves()
    names = ("patches_BPD", "tokens_NLD", "learned.match_DD", "learned.match_1")

    def value(*parts):
        there = batch.with_leaves(dict(zip(names, parts, strict=True)))
        return loss(there.image, there.text, there.pairing, torch.tensor(7.0)).value

    assert torch.autograd.gradcheck(value, [leaves[name] for name in names], fast_mode=True)


@pytest.mark.parametrize("name", MATCHING)
def test_order_and_padding_play_no_part(name):
    copies = "uniform" not in name  # copies of an image are told apart by their scores alone
    batch, draw = make_batch(6, duplicates=copies), torch.Generator().manual_seed(0)
    plain = run(MATCHING[name], batch)
    images, texts = (torch.randperm(len(x), generator=draw) for x in (batch.pairing.image_id_B, batch.pairing.owner_N))
    moved = run(MATCHING[name], permuted(batch, images, texts))
    torch.testing.assert_close(moved.value, plain.value)
    torch.testing.assert_close(moved.grads["tokens_NLD"], plain.grads["tokens_NLD"][texts])
    for filling in (torch.nan, torch.inf):
        other = run(MATCHING[name], padded_with(batch, filling))
        torch.testing.assert_close(other.value, plain.value)
        assert other.grads["tokens_NLD"].isfinite().all()


@pytest.mark.parametrize("name", MATCHING)
def test_what_may_be_missing(name):
    batch = make_batch(3)
    for case in (
        without_texts(batch),
        make_batch(4, captions=(1,), duplicates=False),
        make_batch(2, captions=(1, 0), negatives=0, duplicates=False),
    ):
        result = run(MATCHING[name], case)
        assert result.value.isfinite()
        assert all(grad.isfinite().all() for grad in result.grads.values())
    nothing = replace(batch, image=replace(batch.image, match=None))
    with pytest.raises(ValueError, match="fusion"):
        run(MATCHING[name], nothing)


@pytest.mark.parametrize("name", MATCHING)
def test_half_precision_gives_the_answer_of_the_rounded_inputs(name):
    rounded = as_type(make_batch(9), torch.bfloat16)
    exact = run(MATCHING[name], as_type(rounded, torch.float64))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = run(MATCHING[name], rounded)
    assert result.value.dtype == torch.float32
    torch.testing.assert_close(result.value.double(), exact.value, rtol=2e-5, atol=2e-5)


def in_process(rank, group, batch, names):
    return {name: run(MATCHING[name], batch, group=group) for name in names}


@pytest.mark.parametrize("bounds", [[(0, 2), (2, 6)], [(0, 6), (6, 6)]])
def test_processes_equal_one(bounds):
    batch = make_batch(10)
    parts = [batch.part(*bound) for bound in bounds]
    by_rank = gloo.run(2, in_process, [(part, list(MATCHING)) for part in parts])
    for name, loss in MATCHING.items():
        alone = run(loss, batch)
        shares = [results[name] for results in by_rank]
        torch.testing.assert_close(sum(share.value for share in shares), alone.value, rtol=1e-10, atol=1e-12)
        for leaf, expected in alone.grads.items():
            got = [share.grads[leaf] for share in shares]
            rows = expected.ndim > 0 and not leaf.startswith("learned.")
            joined = torch.cat(got) if rows else sum(got)
            torch.testing.assert_close(joined, expected, rtol=1e-9, atol=1e-11, msg=lambda m, x=f"{name} {leaf}": f"{x}: {m}")


def test_joint_imc_refuses_what_has_no_meaning():
    with pytest.raises(ValueError, match="joint"):
        ImcLoss(variant="released", scores="joint")
    with pytest.raises(ValueError, match="joint"):
        ImcLoss(positive="sibling", scores="joint")
    assert ImcLoss(scores="joint").needs >= {"match", "patches", "tokens", "negatives"}


def test_noise_is_gumbel_and_belongs_to_the_pair():
    rows, columns = torch.arange(300), torch.arange(400) + 7
    noise = gumbel(torch.tensor(5), rows, columns)
    assert noise.mean().item() == pytest.approx(0.57722, abs=0.01)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.03)
    assert abs(torch.corrcoef(torch.stack([noise[:, :-1].flatten(), noise[:, 1:].flatten()]))[0, 1].item()) < 0.01
    some = gumbel(torch.tensor(5), rows[[4, 2]], columns[[9, 1, 3]])
    assert torch.equal(some, noise[[4, 2]][:, [9, 1, 3]])
    assert not torch.equal(gumbel(torch.tensor(6), rows, columns), noise)
    assert len(mixed(torch.arange(5000)).unique()) == 5000
