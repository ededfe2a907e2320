"""Which branch a text gets: the best matching, groups of roles, what is left over."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.core.contract import unit
from wholegrain.losses.many_to_many import ManyToManyLoss
from wholegrain.verify.cases import ROLES, Batch, make_batch, permuted

SCALE = torch.tensor(7.0, dtype=torch.float64)


def one_image(cosines: torch.Tensor) -> Batch:
    """Branches at right angles; text n has cosine ``cosines[n, h]`` with branch h."""
    texts, branches = cosines.shape
    rest = (1 - cosines.square().sum(1)).sqrt()
    text = torch.cat([cosines, torch.diag(rest)], 1)
    branch = torch.eye(branches, branches + texts, dtype=cosines.dtype)
    number = torch.arange(texts)
    pairing = Pairing(number * 0, number * 0 - 1, number % len(ROLES), number * 0 - 1, number, number[:1], ROLES)
    return Batch(ImageFeatures(branch[:1], branch[None]), TextFeatures(text), pairing)


def branches_of(loss: ManyToManyLoss, batch: Batch) -> list[int]:
    return loss.assign(unit(batch.image.branches_BHD), unit(batch.text.pooled_ND), batch.pairing)[1].tolist()


def test_the_best_matching_gives_up_a_favourite():
    """Both texts like branch 0 best; together they do better if the second leaves it."""
    batch = one_image(torch.tensor([[0.6, 0.1, 0.0], [0.5, 0.4, 0.0]], dtype=torch.float64))
    assert branches_of(ManyToManyLoss("argmax"), batch) == [0, 0]
    assert branches_of(ManyToManyLoss("hungarian"), batch) == [0, 1]
    assert branches_of(ManyToManyLoss("positional"), batch) == [0, 1]


@pytest.mark.parametrize("texts", [1, 3, 4])
def test_the_best_of_all_matchings(texts):
    for seed in range(5):
        draw = torch.Generator().manual_seed(seed)
        cosines = torch.rand(texts, 4, generator=draw, dtype=torch.float64) * 0.4
        best = max(permutations(range(4), texts), key=lambda p: sum(cosines[n, h].item() for n, h in enumerate(p)))
        assert branches_of(ManyToManyLoss("hungarian"), one_image(cosines)) == list(best)


def test_texts_left_over_choose_freely():
    cosines = torch.tensor([[0.5, 0.1], [0.1, 0.5], [0.4, 0.2], [0.1, 0.3]], dtype=torch.float64)
    assert branches_of(ManyToManyLoss("hungarian"), one_image(cosines)) == [0, 1, 0, 1]
    assert branches_of(ManyToManyLoss("positional"), one_image(cosines)) == [0, 1, 0, 1]


def test_equal_branches_are_all_used_by_the_matching_alone():
    cosines = torch.full((3, 3), 0.3, dtype=torch.float64)
    assert sorted(branches_of(ManyToManyLoss("hungarian"), one_image(cosines))) == [0, 1, 2]
    assert branches_of(ManyToManyLoss("argmax"), one_image(cosines)) == [0, 0, 0]


def test_the_matching_needs_no_order_of_texts_and_images():
    batch = make_batch(6)
    images, texts = (torch.randperm(n, generator=torch.Generator().manual_seed(1)) for n in (6, len(batch.pairing.owner_N)))
    moved, loss = permuted(batch, images, texts), ManyToManyLoss("hungarian")
    value, other = (loss(b.image, b.text, b.pairing, SCALE).value for b in (batch, moved))
    torch.testing.assert_close(value, other, rtol=1e-12, atol=1e-12)


def test_images_without_captions_and_without_any():
    loss = ManyToManyLoss("hungarian")
    batch = make_batch(6, captions=(1, 0, 3, 1))
    assert loss(batch.image, batch.text, batch.pairing, SCALE).value.isfinite()
    none = torch.arange(0)
    assert loss(batch.image, batch.text.select(none), batch.pairing.select_texts(none), SCALE).value == 0


def test_a_group_of_roles_shares_a_branch():
    batch = one_image(torch.full((4, 2), 0.1, dtype=torch.float64) + torch.tensor([[0.1, 0]] * 4, dtype=torch.float64))
    roles = (ROLES[1], f"{ROLES[0]}|{ROLES[3]}")
    assert branches_of(ManyToManyLoss(roles=roles), batch) == [1, 0, 0, 1]  # ROLES[2] is in no group and takes its favourite
    plain = ManyToManyLoss(roles=roles).assign(batch.image.branches_BHD, batch.text.pooled_ND, batch.pairing)[0].tolist()
    assert plain[0] == plain[3] == 1
    assert len(set(plain)) == 3
    rest = ManyToManyLoss(roles=(ROLES[1], "*"))
    assert branches_of(rest, batch) == [1, 0, 1, 1]
