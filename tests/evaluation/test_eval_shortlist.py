"""Retrieval with a shortlist: the cosine chooses, the joint score orders, the cosine's order stays behind."""

from __future__ import annotations

import pytest
import torch

from wholegrain.errors import UserError
from wholegrain.evaluation.features.encode import Encoded
from wholegrain.evaluation.tasks.retrieval import RetrievalOptions, count_ranks, retrieval, true_pairs
from wholegrain.evaluation.tasks.shortlist import Shortlist
from wholegrain.features import ImageFeatures, TextFeatures

OWNER = [0, 0, 1, 2, 3, 4, 5, 5, 6]


class Joint:
    """A score that has nothing to do with the cosine; counts the pairs that it is asked for."""

    def __init__(self, seed=3):
        self.table = 5 * torch.randn(7, 9, generator=torch.Generator().manual_seed(seed))
        self.asked = 0

    def score(self, image, text):
        i, n = image.patches_BPD[:, 0, 0].long(), text.tokens_NLD[:, 0, 0].long()
        self.asked += len(i) * len(n)
        return self.table[i][:, n]


def case():
    torch.manual_seed(0)
    image = ImageFeatures(torch.randn(7, 4), patches_BPD=torch.arange(7.0)[:, None, None])
    text = TextFeatures(torch.randn(9, 4), torch.arange(9.0)[:, None, None], torch.ones(9, 1, dtype=torch.bool))
    keys, ids = tuple(f"k{b}" for b in range(7)), tuple(f"c{n}" for n in range(9))
    return Encoded(keys, image, ids, text, torch.tensor(OWNER), ("web",) * 9, ids)


def by_hand(encoded, model, size):
    """Ranks of the best true candidate of every image and every text, by sorting lists."""
    cosine = torch.nn.functional.cosine_similarity(encoded.image.pooled_BD[:, None], encoded.text.pooled_ND[None], dim=-1)
    found = []
    for table, joint, true in (
        (cosine, model.table, [[n for n, o in enumerate(OWNER) if o == b] for b in range(7)]),
        (cosine.T, model.table.T, [[o] for o in OWNER]),
    ):
        ranks = []
        for query, mine in enumerate(true):
            order = sorted(range(table.shape[1]), key=lambda c, q=query, t=table: -t[q, c].item())
            head = sorted(order[:size], key=lambda c, q=query, j=joint: -j[q, c].item())
            final = head + order[size:]
            best = min(final.index(c) for c in mine)
            ranks.append(1 + sum(c not in mine for c in final[:best]))
        found.append(ranks)
    return found


@pytest.mark.parametrize("size", [1, 2, 4, 100])
def test_ranks_are_those_of_sorted_lists(size):
    encoded, model = case(), Joint()
    pairs = true_pairs(encoded)
    expected = by_hand(encoded, model, size)
    for side, query in enumerate(("image", "text")):
        scorer = Shortlist(encoded.image, encoded.text, model, size, query)
        ranks = count_ranks(scorer, *pairs)[side]
        assert ranks.rank.tolist() == expected[side]
        whole = torch.cat([scores for _, scores in scorer.blocks(cells=20)])
        everything = torch.cartesian_prod(torch.arange(7), torch.arange(9)).unbind(1)
        torch.testing.assert_close(scorer.pairs(*everything).view(7, 9), whole)
    assert model.asked == min(size, 9) * 7 + min(size, 7) * 9


def test_a_list_of_everything_is_the_joint_score_itself():
    encoded, model = case(), Joint()
    plain, listed = (retrieval(encoded, RetrievalOptions(shortlist=size), model=model) for size in (0, 9))
    assert [f.value for f in plain.figures] == [f.value for f in listed.figures]
    assert [f.shuffled for f in plain.figures] == [f.shuffled for f in listed.figures]


def test_the_protocol_says_so_and_a_model_without_a_joint_score_is_refused():
    encoded = case()
    assert "first 2 candidates by cosine" in retrieval(encoded, RetrievalOptions(shortlist=2), model=Joint()).protocol
    assert "cosine" not in retrieval(encoded, model=Joint()).protocol
    with pytest.raises(UserError, match="shortlist = 5"):
        retrieval(encoded, RetrievalOptions(shortlist=5))
    with pytest.raises(UserError, match="shortlist = -1"):
        retrieval(encoded, RetrievalOptions(shortlist=-1), model=Joint())
