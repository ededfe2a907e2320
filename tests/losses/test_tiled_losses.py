"""The tiled softmax and sigmoid against whole matrices: values, gradients, memory, precision, processes."""

from __future__ import annotations

import itertools

import gloo
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy, softplus
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.clip import ClipLoss
from wholegrain.losses.core import tiles
from wholegrain.losses.core.contract import unit
from wholegrain.losses.core.gather import gather_texts
from wholegrain.losses.core.known_true import KnownTrue
from wholegrain.losses.core.tiled_sigmoid import tiled_sigmoid
from wholegrain.losses.core.tiled_softmax import tiled_softmax
from wholegrain.losses.core.tiles import Logits, Nothing
from wholegrain.losses.imc import ImcLoss
from wholegrain.losses.many_to_many import ManyToManyLoss
from wholegrain.losses.negclip import NegclipLoss
from wholegrain.losses.siglip import SiglipLoss


class Cells:
    """A mask that is held whole."""

    def __init__(self, mask_RC: Tensor) -> None:
        self.mask_RC = mask_RC

    def fill(self, tile: Tensor, rows: slice, columns: slice, value: float) -> None:
        tile.masked_fill_(self.mask_RC[rows, columns], value)

    def pairs(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        row, column = self.mask_RC[rows, columns].nonzero().unbind(1)
        return row, column


@pytest.fixture(autouse=True)
def usual_tiles(monkeypatch):
    monkeypatch.setattr(tiles, "TILE", dict(tiles.TILE))


def small_tiles(cells: int, keep: bool) -> None:
    tiles.TILE["cpu"] = cells
    tiles.KEPT = 2**24 if keep else 0


@pytest.fixture(autouse=True)
def usual_kept(monkeypatch):
    monkeypatch.setattr(tiles, "KEPT", tiles.KEPT)


def problem(seed: int, rows: int, columns: int, spread: float = 1.0) -> tuple[list[Tensor], Tensor, torch.Generator]:
    draw = torch.Generator().manual_seed(seed)
    leaves = [torch.randn(n, 3, generator=draw, dtype=torch.float64) * spread for n in (rows, columns)]
    leaves += [torch.tensor(1.7, dtype=torch.float64), torch.tensor(-0.6, dtype=torch.float64)]
    mask = torch.rand(rows, columns, generator=draw) < torch.rand((), generator=draw)
    return [x.requires_grad_() for x in leaves], mask, draw


def same_gradients(ours: Tensor, theirs: Tensor, leaves: list[Tensor]) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-11)
    got = torch.autograd.grad(ours, leaves, materialize_grads=True)
    expected = torch.autograd.grad(theirs, leaves, materialize_grads=True)
    for mine, other in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-10)


SIZES = {"seed": st.integers(0, 999), "rows": st.integers(1, 11), "columns": st.integers(1, 11), "cells": st.integers(1, 40)}


@settings(max_examples=60, deadline=None)
@given(**SIZES, keep=st.booleans(), smooth=st.booleans(), spread=st.sampled_from([1.0, 40.0]))
def test_softmax_is_that_of_the_whole_matrix(seed, rows, columns, cells, keep, smooth, spread):
    """Random masks, several positives a row, weights of every number that comes out; scores near and far from each other."""
    small_tiles(cells, keep)
    leaves, mask, draw = problem(seed, rows, columns, spread)
    row, column = torch.randint(rows, (7,), generator=draw), torch.randint(columns, (7,), generator=draw)
    found = tiled_softmax(Logits(*leaves), Cells(mask), row, column, sums=smooth)
    whole = leaves[2] * leaves[0] @ leaves[1].T + leaves[3]
    floored = whole.masked_fill(mask, torch.finfo(whole.dtype).min / 4)
    expected_pair = whole[row, column]
    ours, theirs = [], []
    for axis, stats, empty in ((1, found.by_row, mask.all(1)), (0, found.by_column, mask.all(0))):
        weights = torch.rand(len(empty), generator=draw, dtype=torch.float64) * ~empty
        torch.testing.assert_close(stats[0].detach(), floored.logsumexp(axis).detach(), rtol=1e-10, atol=1e-10)
        ours.append((torch.where(empty, 0.0, stats[0]) * weights).sum())
        theirs.append((torch.where(empty, 0.0, floored.logsumexp(axis)) * weights).sum())
        if smooth:
            assert stats[2].tolist() == (~mask).sum(axis).tolist()
            ours.append((stats[1] * weights).sum())
            theirs.append((whole.masked_fill(mask, 0).sum(axis) * weights).sum())
    weights = torch.rand(7, generator=draw, dtype=torch.float64)
    ours.append((found.pair_P * weights).sum())
    theirs.append((expected_pair * weights).sum())
    same_gradients(torch.stack(ours).sum(), torch.stack(theirs).sum(), leaves)


@settings(max_examples=40, deadline=None)
@given(**SIZES)
def test_sigmoid_is_that_of_the_whole_matrix(seed, rows, columns, cells):
    small_tiles(cells, keep=False)
    leaves, mask, draw = problem(seed, rows, columns)
    positive = torch.rand(rows, columns, generator=draw) < 0.2
    total, of_positive = tiled_sigmoid(Logits(*leaves), Cells(positive), Cells(mask))
    whole = leaves[2] * leaves[0] @ leaves[1].T + leaves[3]
    each = torch.where(positive, softplus(-whole), softplus(whole)) * (positive | ~mask)
    torch.testing.assert_close(of_positive, (each * positive).sum().detach())
    same_gradients(2.5 * total, 2.5 * each.sum(), leaves)


@pytest.mark.parametrize("cells", [1, 10, 1000])
def test_gradcheck(cells):
    small_tiles(cells, keep=False)
    leaves, mask, _ = problem(3, 5, 7)
    mask[2], mask[:, 4] = True, True
    row, column = torch.tensor([0, 2, 2, 4]), torch.tensor([1, 1, 4, 6])

    def normalisers(*inputs):
        found = tiled_softmax(Logits(*inputs), Cells(mask), row, column, sums=True)
        return found.by_row[0][~mask.all(1)], found.by_column[:, ~mask.all(0)], found.by_row[1:2], found.pair_P

    assert torch.autograd.gradcheck(normalisers, leaves, fast_mode=True)
    assert torch.autograd.gradcheck(
        lambda *inputs: tiled_sigmoid(Logits(*inputs), Cells(mask), Nothing())[0], leaves, fast_mode=True
    )


def test_gradients_that_nobody_asks_for():
    """A locked tower, a held scale: the other gradients are the same, whichever are left out."""
    small_tiles(10, keep=False)
    for kept in range(1, 16):
        leaves, mask, _ = problem(kept, 6, 5)
        wanted = [x for place, x in enumerate(leaves) if kept >> place & 1]
        some = [x if kept >> place & 1 else x.detach() for place, x in enumerate(leaves)]
        for compute in (
            lambda *x: tiled_softmax(Logits(*x), Nothing(), torch.tensor([0]), torch.tensor([0])).by_row.sum(),
            lambda *x, mask=mask: tiled_sigmoid(Logits(*x), Cells(mask), Nothing())[0],
        ):
            got, expected = torch.autograd.grad(compute(*some), wanted), torch.autograd.grad(compute(*leaves), wanted)
            for mine, other in zip(got, expected, strict=True):
                torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


def test_twice_is_refused_clearly():
    leaves, _, _ = problem(0, 3, 3)
    place = torch.arange(3)
    value = tiled_softmax(Logits(*leaves), Nothing(), place, place).by_row.sum()
    total, _ = tiled_sigmoid(Logits(*leaves), Cells(torch.eye(3, dtype=torch.bool)), Nothing())
    for output in (value, total):
        with pytest.raises(RuntimeError, match="no second derivative"):
            torch.autograd.grad(output, leaves[:1], create_graph=True)


@pytest.mark.parametrize("keep", [True, False])
def test_backward_may_be_taken_again(keep):
    small_tiles(10, keep)
    leaves, mask, _ = problem(1, 6, 6)
    place = torch.arange(6)
    value = tiled_softmax(Logits(*leaves), Cells(mask & ~torch.eye(6, dtype=torch.bool)), place, place).by_row.sum()
    first, second = (torch.autograd.grad(value, leaves, retain_graph=True) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


def batch(seed: int, images: int, dtype: torch.dtype = torch.float64, width: int = 8):
    """Unequal captions, hard negatives, and (ids are few) many duplicates of images and texts."""
    draw = torch.Generator().manual_seed(seed)
    caption = torch.randint(3, (images,), generator=draw) + 1
    owner = torch.arange(images).repeat_interleave(caption)
    of = torch.randint(len(owner), (images,), generator=draw)
    texts = len(owner) + images
    pairing = Pairing(
        torch.cat([owner, owner[of]]), torch.cat([torch.full_like(owner, -1), of]), torch.zeros(texts, dtype=torch.int64),
        torch.cat([torch.full_like(owner, -1), torch.zeros_like(of)]), torch.randint(texts, (texts,), generator=draw),
        torch.randint(3 * images, (images,), generator=draw), kinds=("any",),
    )  # fmt: skip
    image, branches = torch.randn(images, width, generator=draw), torch.randn(images, 2, width, generator=draw)
    text = torch.randn(texts, width, generator=draw)
    leaves = [x.to(dtype).requires_grad_() for x in (image, branches, text)]
    return ImageFeatures(leaves[0], leaves[1]), TextFeatures(leaves[2]), pairing, leaves


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 999), images=st.integers(1, 12), cells=st.integers(1, 40), minded=st.booleans(), ids=st.integers(1, 30)
)
def test_known_true_is_what_its_ids_say(seed, images, cells, minded, ids):
    draw = torch.Generator().manual_seed(seed)
    _, text, pairing, _ = batch(seed, images)
    pairing.text_id_N.remainder_(ids)
    pairing.image_id_B.remainder_(ids)
    everyone = gather_texts(text.pooled_ND, pairing)
    rows, columns = torch.randint(images, (9,), generator=draw), torch.randint(len(pairing.owner_N), (13,), generator=draw)
    duplicates = "ignore" if minded else "negative"
    known = KnownTrue(pairing, everyone, duplicates, image_R=rows, text_C=columns)

    def said(image: int, n: int) -> bool:
        if pairing.true_N[n] and pairing.owner_N[n] == image:
            return True
        return minded and any(
            pairing.text_id_N[m] == pairing.text_id_N[n] and pairing.image_id_B[pairing.owner_N[m]] == pairing.image_id_B[image]
            for m in pairing.true_N.nonzero().squeeze(1)
        )

    expected = torch.tensor([[said(int(i), int(n)) for n in columns] for i in rows])
    assert torch.equal(known(slice(None)), expected)
    tile, (high, wide) = torch.zeros(9, 13), tiles.tile_sides(9, 13, torch.device("cpu"))
    for here in tiles.cut(9, min(high, cells)):
        for there in tiles.cut(13, min(wide, 5)):
            known.fill(tile[here, there], here, there, 1.0)
            cells_of_tile = list(zip(*(x.tolist() for x in known.pairs(here, there)), strict=True))
            assert len(cells_of_tile) == len(set(cells_of_tile))
    assert torch.equal(tile.bool(), expected)


LOSSES = {
    "clip": ClipLoss(), "smooth": ClipLoss(label_smoothing=0.1), "negclip": NegclipLoss(), "own": NegclipLoss(own_only=True),
    "siglip": SiglipLoss(), "siglip-positive": SiglipLoss(duplicates="positive"), "imc": ImcLoss(variant="cross_modal"),
    "released": ImcLoss(variant="released"), "m2m": ManyToManyLoss(assignment="argmax", same_image="positive"),
    "m2m-all": ManyToManyLoss(assignment="positional", negatives="all"),
}  # fmt: skip

SHARED = {name: loss for name, loss in LOSSES.items() if name != "released"}  # which reads the order of the texts


@pytest.mark.parametrize("name", LOSSES)
def test_tiles_change_no_loss(name):
    scale, bias = torch.tensor(9.0, dtype=torch.float64, requires_grad=True), torch.tensor(-2.0, dtype=torch.float64)
    image, text, pairing, leaves = batch(4, 13)
    loss = LOSSES[name]
    for cells in (7, 64):
        small_tiles(2**20, keep=True)
        whole = loss(image, text, pairing, scale, bias).value
        small_tiles(cells, keep=False)
        same_gradients(loss(image, text, pairing, scale, bias).value, whole, [*leaves, scale])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("cells", [50, 10_000])
def test_low_precision_inputs_and_autocast(dtype, cells):
    """Forward and backward under autocast give what float64 gives, at a scale at which scores span a large range."""
    small_tiles(cells, keep=False)
    image, text, pairing, leaves = batch(5, 20, dtype)
    scale = torch.tensor(100.0, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = NegclipLoss()(image, text, pairing, scale).value
        got = torch.autograd.grad(value, [leaves[0], leaves[2], scale])
    exact = [x.detach().double().requires_grad_() for x in (leaves[0], leaves[2], scale)]
    expected = NegclipLoss()(ImageFeatures(exact[0]), TextFeatures(exact[1]), pairing, exact[2]).value
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-5)
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-4
    for mine, other in zip(got, torch.autograd.grad(expected, exact), strict=True):
        torch.testing.assert_close(mine.double(), other, rtol=tolerance, atol=tolerance * other.abs().max().item())


def test_equals_cross_entropy_in_float32():
    """Plain CLIP as everybody writes it, at a size of several tiles."""
    small_tiles(10_000, keep=False)
    draw = torch.Generator().manual_seed(0)
    image, text = (torch.randn(300, 32, generator=draw, requires_grad=True) for _ in range(2))
    scale, label = torch.tensor(30.0, requires_grad=True), torch.arange(300)
    logits = scale * unit(image) @ unit(text).T
    plain = (cross_entropy(logits, label) + cross_entropy(logits.T, label)) / 2
    ours = ClipLoss()(ImageFeatures(image), TextFeatures(text), Pairing.one_to_one(300), scale).value
    torch.testing.assert_close(ours, plain)
    for mine, other in zip(*(torch.autograd.grad(x, [image, text, scale]) for x in (ours, plain)), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


class Largest(TorchDispatchMode):
    """Notes the most numbers that any tensor had that was made meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for x in tree_leaves(made):
            if isinstance(x, Tensor) and x.untyped_storage().nbytes():
                self.numbers = max(self.numbers, x.untyped_storage().nbytes() // x.element_size())
        return made


@pytest.mark.parametrize("name", LOSSES)
def test_no_tensor_is_as_large_as_the_scores(name):
    """Forward, masks (with duplicates), backward: nothing grows beyond a tile, or the vectors, or the ids."""
    small_tiles(1024, keep=False)
    image, text, pairing, leaves = batch(6, 150, torch.float32)
    scale, bias = torch.tensor(9.0, requires_grad=True), torch.tensor(-2.0, requires_grad=True)
    with Largest() as largest:
        LOSSES[name](image, text, pairing, scale, bias).value.backward()
    assert leaves[2].grad is not None
    most = max(4 * 1024, max(x.numel() for x in leaves), len(pairing.owner_N) * 16)
    assert largest.numbers <= most < 150 * len(pairing.owner_N) / 6


def shares(rank, group, cells, images):
    """The same problem in pieces; every process takes its own images."""
    tiles.TILE["cpu"], tiles.KEPT = cells, 0
    image, text, pairing, leaves = batch(7, 9)
    mine = torch.arange(*images)
    here = ((pairing.owner_N >= images[0]) & (pairing.owner_N < images[1])).nonzero().squeeze(1)
    part = pairing.select_texts(here)
    part = Pairing(part.owner_N - images[0], *(getattr(part, k) for k in ("negative_of_N", "role_N", "kind_N", "text_id_N")),
                   part.image_id_B[mine], kinds=part.kinds)  # fmt: skip
    found = {}
    for name, loss in LOSSES.items():
        scale = torch.tensor(9.0, dtype=torch.float64, requires_grad=True)
        value = loss(
            image.select(mine), text.select(here), part, scale, torch.tensor(-2.0, dtype=torch.float64), group=group
        ).value
        found[name] = [value.detach(), *torch.autograd.grad(value, [*leaves, scale], materialize_grads=True)]
    return found


@pytest.mark.parametrize("cuts", [(0, 9), (0, 4, 9), (0, 1, 5, 5, 9)])
def test_processes_share_the_tiles(cuts):
    """Value and gradients of the summed loss, for 1, 2 and 4 processes with few tiles and with many, one without an image."""
    pieces = list(itertools.pairwise(cuts))
    by_rank = gloo.run(len(pieces), shares, [(30, piece) for piece in pieces])
    image, text, pairing, leaves = batch(7, 9)
    for name, loss in SHARED.items():
        scale = torch.tensor(9.0, dtype=torch.float64, requires_grad=True)
        value = loss(image, text, pairing, scale, torch.tensor(-2.0, dtype=torch.float64)).value
        expected = [value.detach(), *torch.autograd.grad(value, [*leaves, scale], materialize_grads=True)]
        for place, other in enumerate(expected):
            total = torch.stack([found[name][place] for found in by_rank]).sum(0)
            torch.testing.assert_close(total, other, rtol=1e-9, atol=1e-10, msg=lambda m, where=(name, place): f"{where}: {m}")


def test_compiled_code_may_call_a_loss():
    _, _, pairing, leaves = batch(8, 4)
    scale = torch.tensor(9.0, dtype=torch.float64)

    def step(image_BD, text_ND):
        return ClipLoss()(ImageFeatures(image_BD * 2), TextFeatures(text_ND), pairing, scale).value

    plain, compiled = step(leaves[0], leaves[2]), torch.compile(step, backend="eager")(leaves[0], leaves[2])
    same_gradients(compiled, plain, [leaves[0], leaves[2]])
