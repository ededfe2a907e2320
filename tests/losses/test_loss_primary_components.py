"""Long-CLIP's primary component matching: the reduction, its gradient where eigenvectors have none, and the recipe's two texts."""

import math
from dataclasses import replace

import pytest
import torch
from tiny_runs import lines
from tiny_training import COLOURS, SIZE, make_model, make_recipe, picture, train

from wholegrain.data.dataset import Dataset
from wholegrain.data.record import Caption, Record, caption_id, content_key
from wholegrain.data.shards import ShardWriter
from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.clip import ClipLoss
from wholegrain.losses.primary_components import PrimaryComponentsLoss, reduced
from wholegrain.objectives.schema import CaptionDraw, DataRecipe
from wholegrain.towers.io import load_model
from wholegrain.training.loading.draw import draw_texts
from wholegrain.training.loading.frozen import drawable_texts
from wholegrain.training.loading.streams import stream
from wholegrain.verify.cases import make_batch

SCALE = torch.tensor(7.0, dtype=torch.float64)


def drawn(rows, width, seed=0):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("rows", "width", "kept"), [(6, 9, 2), (20, 5, 3), (4, 8, 1)])
def test_the_reduction_is_the_best_of_its_rank_by_singular_values(rows, width, kept):
    x = drawn(rows, width)
    left, values, right = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    expected = x.mean(0) + left[:, :kept] @ torch.diag(values[:kept]) @ right[:kept]
    torch.testing.assert_close(reduced(x, kept), expected)
    assert (reduced(x, kept) - x).norm() > 0.1


@pytest.mark.parametrize(("rows", "width", "kept"), [(6, 4, 2), (3, 6, 1), (3, 6, 2), (4, 3, 3)])
def test_the_gradient_of_the_reduction(rows, width, kept):
    """Of few rows most eigenvalues are 0, and eigenvectors have no gradient; the reduction has."""
    assert torch.autograd.gradcheck(lambda x: reduced(x, kept), [drawn(rows, width).requires_grad_()])


def test_equal_eigenvalues_give_a_finite_gradient():
    x = torch.eye(4, 6, dtype=torch.float64).requires_grad_()  # three equal eigenvalues, of which one is kept
    reduced(x, 1).square().sum().backward()
    assert x.grad.isfinite().all()


def test_enough_components_are_clip():
    batch = make_batch(4)
    for settings in ({}, {"label_smoothing": 0.1}, {"duplicates": "negative"}):
        both = [loss(batch.image, batch.text, batch.pairing, SCALE).value for loss in (PrimaryComponentsLoss(**settings), ClipLoss(**settings))]
        torch.testing.assert_close(*both)
    few = PrimaryComponentsLoss(components=2)(batch.image, batch.text, batch.pairing, SCALE).value
    assert (few - both[1]).abs() > 1e-2


def test_what_lies_beside_the_components_is_free():
    """Images at +-1 in two directions and +-0.3 in a third, of which captions speak: only CLIP sees the third turned."""
    strong = torch.eye(4, 8, dtype=torch.float64)[[0, 0, 1, 1]] * torch.tensor([1, -1, 1, -1.0])[:, None]
    weak = torch.zeros(4, 8, dtype=torch.float64)
    weak[:, 5] = 0.3 * torch.tensor([1.0, 1.0, -1.0, -1.0])
    text, pairing = TextFeatures(strong + weak), Pairing.one_to_one(4)
    for loss, sees in ((ClipLoss(), True), (PrimaryComponentsLoss(components=2), False), (PrimaryComponentsLoss(components=3), True)):
        one, turned = (loss(ImageFeatures(strong + sign * weak), text, pairing, SCALE).value for sign in (1, -1))
        assert bool((one - turned).abs() > 1e-3) == sees


def test_a_loss_that_is_no_number_does_not_raise():
    batch = make_batch(4)
    broken = replace(batch.image, pooled_BD=batch.image.pooled_BD * torch.nan)
    assert PrimaryComponentsLoss(components=2)(broken, batch.text, batch.pairing, SCALE).value.isnan()
    with pytest.raises(ValueError, match="1 or more"):
        PrimaryComponentsLoss(components=0)


LONG = "A red cup stands on a table. Behind it is a window. It is open."
RECORD = Record("k", "k.png", (4, 4), captions=(Caption("a", LONG, "detail"), Caption("b", "A cup", "web")))
TWO = (CaptionDraw(("detail",), 1, name="long"), CaptionDraw(("any",), 2, lead=1, name="short"))


def test_the_first_sentences_of_what_was_drawn():
    roles = {"long": 0, "short": 1}
    texts = draw_texts(RECORD, {}, DataRecipe(TWO), roles, {}, stream(0, 0, 0))
    assert [(text.text, text.role) for text in texts] == [(LONG, 0), ("A red cup stands on a table", 1)]
    both = (CaptionDraw(("any",), 2, name="long"), replace(TWO[1], lead=2))
    texts = draw_texts(RECORD, {}, DataRecipe(both), roles, {}, stream(0, 0, 0))
    assert sorted(text.text for text in texts if text.role) == ["A cup", "A red cup stands on a table. Behind it is a window"]
    assert len(draw_texts(RECORD, {}, DataRecipe((both[0], replace(TWO[1], count=1))), roles, {}, stream(0, 0, 0))) == 3
    for wrong in ({"lead": 1}, {"lead": -1, "name": "x"}, {"lead": 1, "sentences": (1, 1), "name": "x"}):
        with pytest.raises(ValueError, match=r"lead|name"):
            CaptionDraw(**wrong)


@pytest.fixture(scope="module")
def long_captions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("long")
    with ShardWriter(folder) as writer:
        for number in range(12):
            first, second = list(COLOURS)[number % 4], list(COLOURS)[number // 4]
            image = picture(first, second, number)
            text = f"{first} above {second}. It is number {number}."
            caption = Caption(caption_id(text), text, "detail")
            writer.add(Record(content_key(image), f"{content_key(image)}.png", (SIZE, SIZE), "train", None, (caption,)), image)
    return Dataset(folder)


def test_the_recipe_trains_both_texts_and_lists_them_for_frozen_towers(long_captions, tmp_path):
    recipe = make_recipe("long_clip", "--optimiser.steps", "12", "--optimiser.lr", "1e-2", "--terms.primary_components.settings.components", "3")
    trained = train(recipe, long_captions, make_model(long_captions), tmp_path / "run", device="cpu", quiet=True)
    logged = lines(tmp_path / "run")
    assert all(math.isfinite(line["loss/clip"]) and math.isfinite(line["loss/primary_components"]) for line in logged)
    assert logged[-1]["loss"] < logged[0]["loss"]
    assert load_model(trained).head.kind == "plain"
    texts = drawable_texts(long_captions, long_captions.keys("train"), recipe.data)
    assert {len(text.split(". ")) for text in texts} == {1, 2}
    assert len(texts) > 12
