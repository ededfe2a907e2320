"""Retrieval: an independent loop, closed forms, ties, truths, unequal captions, and degenerate models at chance."""

from math import comb

import numpy as np
import pytest
import torch
from eval_fakes import FakeModel, encoded, vector
from PIL import Image

from wholegrain.data.record import caption_id
from wholegrain.errors import UserError
from wholegrain.evaluation.features.feature_store import FeatureStore
from wholegrain.evaluation.scores.similarity import Scorer, index_vectors, similarity
from wholegrain.evaluation.tasks.retrieval import DIAGONAL, RetrievalOptions, count_ranks, retrieval, true_pairs
from wholegrain.features import ImageFeatures, TextFeatures

OWNER = [0, 1, 1, 1, 2, 2, 2, 2, 2, 3, 4, 5, 5]  # 1, 3, 5, 1, 1, 2 captions


def random_case(seed=0, images=6, owner=OWNER, width=16):
    g = torch.Generator().manual_seed(seed)
    return encoded(torch.randn(images, width, generator=g), torch.randn(len(owner), width, generator=g), owner)


def loop_ranks(scores, true):
    """Rank of the best true candidate of each row among the false ones, by sorting in Python."""
    out = []
    for row, good in zip(scores.tolist(), true.tolist(), strict=True):
        order = sorted(range(len(row)), key=lambda j: -row[j])
        false_before = 0
        for j in order:
            if good[j]:
                break
            false_before += 1
        out.append(false_before + 1)
    return np.array(out)


@pytest.mark.parametrize("seed", range(5))
def test_ranks_equal_a_loop_and_do_not_depend_on_block_size(seed, monkeypatch):
    case = random_case(seed)
    scores = similarity(case.image, case.text)
    true = torch.zeros(6, len(OWNER), dtype=torch.bool)
    pairs = true_pairs(case)
    true[pairs] = True
    to_text, to_image = count_ranks(Scorer(case.image, case.text), *pairs)
    assert (to_text.rank == loop_ranks(scores, true)).all()
    assert (to_image.rank == loop_ranks(scores.T, true.T)).all()
    whole = Scorer.blocks
    monkeypatch.setattr(Scorer, "blocks", lambda self: whole(self, cells=1))
    small = count_ranks(Scorer(case.image, case.text), *pairs)
    assert (small[0].better == to_text.better).all()
    assert (small[1].better == to_image.better).all()


def test_recall_by_hand():
    # image 0 ranks its caption second, image 1 first; caption 0 ranks its image second, caption 1 first
    image = torch.eye(2)
    text = torch.tensor([[0.6, 0.8], [0.1, 0.995]])
    result = retrieval(encoded(image, text, [0, 1]))
    assert result.metrics["text_retrieval_recall@1"] == 1.0  # 0.6 > 0.1 and 0.995 > 0.8
    assert result.metrics["image_retrieval_recall@1"] == 0.5  # caption 0 prefers image 1
    assert result.metrics["image_retrieval_mean_rank"] == 1.5
    assert result.figure("image_retrieval_recall@1").chance == 0.5
    assert result.figure("image_retrieval_recall@5").value == 1.0


def test_a_second_true_caption_does_not_push_the_first_one_down():
    image = torch.eye(2)
    text = torch.tensor([[1.0, 0.0], [0.99, 0.1], [0.2, 0.9]])
    to_text, _ = count_ranks(Scorer(ImageFeatures(image), TextFeatures(text)), *true_pairs(encoded(image, text, [0, 0, 1])))
    assert to_text.rank.tolist() == [1, 1]


@pytest.mark.parametrize("kind", ["constant", "one caption", "one image"])
def test_degenerate_models_expect_chance(kind):
    case = random_case(3)
    image, text = case.image.pooled_BD, case.text.pooled_ND
    image = torch.ones_like(image) if kind in ("constant", "one image") else image
    text = torch.ones_like(text) if kind in ("constant", "one caption") else text
    result = retrieval(encoded(image, text, OWNER))
    tied_directions = {
        "constant": ("text_retrieval", "image_retrieval"),
        "one caption": ("text_retrieval",),
        "one image": ("image_retrieval",),
    }
    for direction in tied_directions[kind]:
        for k in (1, 5):
            figure = result.figure(f"{direction}_recall@{k}_expected")
            assert figure.value == pytest.approx(figure.chance, abs=1e-9)
        assert result.figure(f"{direction}_recall@1").value == 0
        assert result.figure(f"{direction}_tie_rate").value == 1
        for name in ("mean_rank", "median_rank"):
            rank = result.figure(f"{direction}_{name}")
            assert rank.value == pytest.approx(rank.chance)
    if kind == "one image":  # blind to the picture: every image ranks the captions alike, so only luck finds its own
        assert result.figure("text_retrieval_recall@1").value <= 5 / 6


def test_random_models_and_shuffled_images_score_chance_on_average():
    values, controls, chance = [], [], None
    for seed in range(60):
        figure = retrieval(random_case(seed), RetrievalOptions(by_role=False), seed=seed).figure("text_retrieval_recall@1")
        values.append(figure.value)
        controls.append(figure.shuffled)
        chance = figure.chance
    assert np.mean(values) == pytest.approx(chance, abs=0.06)
    assert np.mean(controls) == pytest.approx(chance, abs=0.06)


def test_an_oracle_falls_to_chance_when_its_images_are_shuffled():
    owner = list(range(100))
    result = retrieval(encoded(torch.eye(100), torch.eye(100), owner))
    figure = result.figure("image_retrieval_recall@1")
    assert figure.value == 1
    assert figure.shuffled <= 0.05
    assert figure.chance == pytest.approx(0.01)


def test_chance_is_the_closed_form():
    case = random_case(1)
    figure = retrieval(case).figure("text_retrieval_recall@5")
    counts, n = np.bincount(OWNER), len(OWNER)
    assert figure.chance == pytest.approx(np.mean([1 - comb(n - p, 5) / comb(n, 5) for p in counts]))


def test_order_of_images_and_captions_does_not_matter():
    case = random_case(7)
    before = retrieval(case).metrics
    order, mixed = torch.randperm(6, generator=torch.Generator().manual_seed(1)), torch.randperm(len(OWNER))
    after = retrieval(case.only_images(order).only_texts(mixed)).metrics
    assert before == pytest.approx(after)


def test_the_same_text_under_two_images_is_true_of_both():
    image, text = torch.eye(3), torch.tensor([[0.9, 1.0, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1.0]])
    case = encoded(image, text, [0, 1, 2], texts=["a cup", "a cup", "a star"])
    assert retrieval(case).metrics["image_retrieval_recall@1"] == 1
    assert retrieval(case, RetrievalOptions(owner_only=True)).metrics["image_retrieval_recall@1"] == pytest.approx(2 / 3)


def test_truths_count_and_keys_outside_are_passed_over():
    case = encoded(torch.eye(2), torch.tensor([[0.0, 1.0], [0.0, 1.0]]), [0, 1], texts=["a", "b"])
    assert retrieval(case).metrics["image_retrieval_recall@1"] == 0.5
    truths = {caption_id("a"): ("key00001", "elsewhere")}
    result = retrieval(case, truths=truths)
    assert result.metrics["image_retrieval_recall@1"] == 1
    assert result.figure("image_retrieval_recall@1").chance == pytest.approx((1 + 0.5) / 2)


def test_one_caption_and_subset_and_roles():
    case = encoded(torch.eye(3), torch.eye(3)[[0, 1, 1, 2]], [0, 0, 1, 2], roles=["web", "detail", "web", "web"])
    assert (
        retrieval(case, RetrievalOptions(by_role=False)).metrics["image_retrieval_recall@1"] == 0.75
    )  # the second caption of image 0 describes image 1
    single = retrieval(case, RetrievalOptions(one_caption=True, by_role=False))
    assert single.metrics["image_retrieval_recall@1"] == 1
    assert single.figure("image_retrieval_recall@1").count == 3
    roles = retrieval(case)
    assert roles.metrics["detail/image_retrieval_recall@1"] == 0
    assert roles.metrics["web/image_retrieval_recall@1"] == 1
    assert roles.figure("detail/text_retrieval_recall@1").count == 1  # images without such a caption ask nothing
    assert retrieval(case, RetrievalOptions(subset=2)).figure("text_retrieval_recall@1").count == 2
    with pytest.raises(UserError, match="role"):
        retrieval(case, RetrievalOptions(["style"]))


def test_branches_score_by_the_mean_of_their_cosines():
    g = torch.Generator().manual_seed(0)
    branches, text = torch.randn(4, 3, 8, generator=g), torch.randn(5, 8, generator=g)
    image = ImageFeatures(branches.mean(1), branches)
    mean = torch.nn.functional.cosine_similarity(branches[:, :, None], text[None, None], dim=-1).mean(1)
    assert torch.allclose(similarity(image, TextFeatures(text)), mean, atol=1e-6)
    single = ImageFeatures(branches[:, 0], branches[:, :1])
    assert torch.equal(index_vectors(single), index_vectors(ImageFeatures(branches[:, 0])))


def test_a_joint_scorer_is_used_for_every_pair():
    class Joint:
        def score(self, image, text):
            return -torch.cdist(image.pooled_BD, text.pooled_ND)

    case = random_case(2)
    scorer = Scorer(case.image, case.text, Joint())
    whole = Joint().score(case.image, case.text)
    image_M, text_M = torch.tensor([3, 0, 3]), torch.tensor([1, 2, 9])
    assert torch.allclose(scorer.pairs(image_M, text_M), whole[image_M, text_M])
    true = torch.zeros_like(whole, dtype=torch.bool)
    true[true_pairs(case)] = True
    assert (count_ranks(scorer, *true_pairs(case))[0].rank == loop_ranks(whole, true)).all()


def test_features_that_are_not_finite_are_refused():
    case = random_case()
    case.image.pooled_BD[2] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        retrieval(case)


def test_items_hold_every_query_and_give_the_figures_back():
    result = retrieval(random_case(4))
    rows = result.items.to_pylist()
    mine = [r["image_retrieval_recall@1"] for r in rows if r["overall"] and r["image_retrieval_recall@1"] is not None]
    assert len(mine) == len(OWNER)
    assert np.mean(mine) == result.metrics["image_retrieval_recall@1"]
    assert {r["cluster"] for r in rows} == {f"key{b:05d}" for b in range(6)}


def test_cached_features_keep_what_a_joint_scorer_learned(tmp_path):
    image = ImageFeatures(torch.randn(3, 4), learned={"mix_DA": torch.randn(4, 2)})
    store = FeatureStore(FakeModel(vector, vector), tmp_path)
    store._write("images", ["a", "b", "c"], image, {})
    again = store.images(None, ["c", "a"])
    assert torch.equal(again.pooled_BD, image.pooled_BD[[2, 0]])
    assert torch.equal(again.learned["mix_DA"], image.learned["mix_DA"])
    assert again.grid is None


def test_the_diagonal_protocol_is_the_diagonal_of_a_square_of_first_captions():
    case = random_case(3)
    first = [OWNER.index(image) for image in range(6)]
    image = torch.nn.functional.normalize(case.image.pooled_BD.double(), dim=1).numpy()
    text = torch.nn.functional.normalize(case.text.pooled_ND.double(), dim=1).numpy()[first]
    square = image @ text.T
    found = retrieval(case, DIAGONAL)
    for k in (1, 5):
        hits = [(square[n] > square[n, n]).sum() < k for n in range(6)]
        assert found.metrics[f"text_retrieval_recall@{k}"] == pytest.approx(np.mean(hits))
        hits = [(square[:, n] > square[n, n]).sum() < k for n in range(6)]
        assert found.metrics[f"image_retrieval_recall@{k}"] == pytest.approx(np.mean(hits))
    assert found.figure("text_retrieval_recall@1").chance == pytest.approx(1 / 6)
    assert found.figure("image_retrieval_recall@1").count == 6
    # a caption that a second image has, too, is no answer for it: the diagonal alone counts
    twin = encoded(torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]]), [0, 1], texts=["same", "same"])
    assert retrieval(twin, DIAGONAL).metrics["image_retrieval_recall@1"] == 0.5
    assert retrieval(twin, RetrievalOptions(one_caption=True)).metrics["image_retrieval_recall@1"] == 1.0


def test_the_diagonal_protocol_stands_beside_the_ordinary_one_by_its_name(tmp_path):
    from eval_fakes import FakeDataset, record

    from wholegrain.evaluation.benchmarks.caption_retrieval import score_captions
    from wholegrain.evaluation.benchmarks.items import CaptionSet, Picture
    from wholegrain.evaluation.suite import EvaluationOptions, evaluate

    data = FakeDataset([record(n, [f"a {n}", f"b {n}"]) for n in range(4)])
    model = FakeModel(vector, vector)
    found = evaluate(model, data, EvaluationOptions(progress=False), tasks="retrieval,retrieval_diagonal")
    assert [result.task for result in found] == ["retrieval", "retrieval_diagonal"]
    assert found[1].figure("image_retrieval_recall@1").count == 4
    assert found[0].figure("image_retrieval_recall@1").count == 8
    assert "retrieval_diagonal" not in [result.task for result in evaluate(model, data, EvaluationOptions(progress=False))]
    for n in range(4):
        Image.fromarray(np.full((8, 8, 3), 20 * n, np.uint8)).save(tmp_path / f"{n}.png")
    pictures = tuple(Picture(tmp_path / f"{n}.png") for n in range(4))
    several = CaptionSet("mine", pictures, tuple((f"a {n}", f"b {n}") for n in range(4)), "of mine")
    results = score_captions(several, model, FeatureStore(model))
    assert [result.task for result in results] == ["mine", "mine_diagonal", "mine_faithfulness"]
    assert results[1].figure("text_retrieval_recall@1").chance == pytest.approx(1 / 4)
    single = CaptionSet("mine", pictures, tuple((f"a {n}",) for n in range(4)), "of mine")
    assert [result.task for result in score_captions(single, model, FeatureStore(model))] == ["mine"]
