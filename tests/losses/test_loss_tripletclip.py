"""TripletCLIP: the released formula as matrices, what it is beside CLIP, and twins on their way from the table into the batch."""

import math
from dataclasses import replace

import pytest
import torch
from tiny_runs import lines
from tiny_training import SIZE, make_model, make_recipe, picture, train
from torch.nn.functional import cross_entropy, normalize

from wholegrain.data.dataset import Dataset
from wholegrain.data.record import Caption, Record, Twin, caption_id, content_key
from wholegrain.data.shards import ShardWriter
from wholegrain.data.sidecars import write_sidecar
from wholegrain.errors import UserError
from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.clip import ClipLoss
from wholegrain.losses.tripletclip import TripletclipLoss
from wholegrain.objectives.schema import CaptionDraw
from wholegrain.training.loading.loader import DrawnSamples, PlanSampler, make_loader, names_of
from wholegrain.training.loading.plan import Plan
from wholegrain.training.run import twins_of
from wholegrain.verify.cases import make_batch

SCALE = torch.tensor(7.0, dtype=torch.float64)


def drawn(rows, seed):
    return torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def twins(pairs, order=None):
    """Images and captions of both sides, and their pairing, in any order."""
    order = torch.arange(2 * pairs) if order is None else order
    pairing = Pairing.one_to_one(2 * pairs)
    pairing = replace(pairing, side_B=(torch.arange(2 * pairs) >= pairs).long()[order])
    return ImageFeatures(drawn(2 * pairs, 0)[order]), TextFeatures(drawn(2 * pairs, 1)[order]), pairing


def test_it_is_the_sum_of_two_matrices_of_negclip():
    pairs = 5
    image, text, pairing = twins(pairs)
    x, y = normalize(image.pooled_BD), normalize(text.pooled_ND)
    expected, labels = 0.0, torch.arange(pairs)
    for mine, other in ((slice(0, pairs), slice(pairs, None)), (slice(pairs, None), slice(0, pairs))):
        rows = 7 * x[mine] @ torch.cat([y[mine], y[other]]).T
        expected += (cross_entropy(rows, labels) + cross_entropy(7 * y[mine] @ x[mine].T, labels)) / 2
    torch.testing.assert_close(TripletclipLoss()(image, text, pairing, SCALE).value, torch.as_tensor(expected))
    mixed = twins(pairs, torch.randperm(2 * pairs, generator=torch.Generator().manual_seed(3)))
    torch.testing.assert_close(TripletclipLoss()(*mixed, SCALE).value, torch.as_tensor(expected))


def test_all_images_as_rivals_are_twice_clip_and_no_twins_are_clip():
    image, text, pairing = twins(4)
    clip = ClipLoss()(image, text, pairing, SCALE).value
    torch.testing.assert_close(TripletclipLoss("all")(image, text, pairing, SCALE).value, 2 * clip)
    alone = replace(pairing, side_B=torch.zeros(8, dtype=torch.int64))
    torch.testing.assert_close(TripletclipLoss()(image, text, alone, SCALE).value, clip)
    with pytest.raises(ValueError, match=r"data\.twin_share"):
        TripletclipLoss()(image, text, replace(pairing, side_B=None), SCALE)


def test_a_caption_never_meets_its_false_image():
    """No gradient between a caption and the images of the other side but through their own rows."""
    image, text, pairing = twins(3)
    leaf = image.pooled_BD.clone().requires_grad_()
    output = TripletclipLoss()(ImageFeatures(leaf), text, pairing, SCALE)
    only = pairing.select_texts(torch.arange(3))  # captions of one side
    lone = TripletclipLoss()(ImageFeatures(leaf), text.select(torch.arange(3)), only, SCALE)
    assert torch.autograd.grad(lone.value, leaf, retain_graph=True)[0][3:].abs().max() == 0
    assert torch.autograd.grad(output.value, leaf)[0][3:].abs().max() > 0
    both = TripletclipLoss("all")(ImageFeatures(leaf), text.select(torch.arange(3)), only, SCALE)
    assert torch.autograd.grad(both.value, leaf)[0][3:].abs().max() > 1e-3


def test_sides_go_with_their_images():
    batch = make_batch(4)
    assert batch.part(1, 4).pairing.side_B.tolist() == batch.pairing.side_B.tolist()[1:4]
    assert Pairing.one_to_one(3).with_images(slice(2)).side_B is None


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Sixteen pictures in pairs of twins, each with the caption of its pair and one that is true of both; and four without a twin."""
    folder, rows, names = tmp_path_factory.mktemp("twins"), [], ("red", "green", "blue", "white")
    with ShardWriter(folder) as writer:
        for number in range(10):
            keys, texts = [], []
            for left, right in ((names[number % 4], names[(number + 1) % 4]), (names[(number + 1) % 4], names[number % 4])):
                image = picture(left, right, 2 * number + len(keys))
                keys.append(content_key(image))
                texts.append(f"{left} beside {right} {number}")
                captions = tuple(Caption(caption_id(t), t, "web") for t in (texts[-1], "two colours"))
                writer.add(Record(keys[-1], f"{keys[-1]}.png", (SIZE, SIZE), "train", None, captions), image)
            rows += [Twin(f"t{number}", "swap", tuple(keys), tuple(texts), "train")] if number < 8 else []
    write_sidecar(folder, "twins", rows)
    return Dataset(folder)


def batches(data, recipe, steps=2, workers=0):
    names, model = names_of(data, recipe.data), make_model(data)
    plan = Plan(data.layout("train"), 8, 0, recipe.data.twin_share, twins_of(data, recipe))
    samples = DrawnSamples(data, model.preprocess, recipe.data, names, 0)
    return list(make_loader(samples, PlanSampler(plan, 0, steps), model.tokenizer, names, workers=workers))


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_say_which_twin_is_which_and_draw_what_tells_them_apart(data, workers):
    recipe = make_recipe("tripletclip")
    side_of = {key: side for twin in data.twins for side, key in enumerate(twin.keys)}
    caption_of = {key: text for twin in data.twins for key, text in zip(twin.keys, twin.captions, strict=True)}
    for batch in batches(data, recipe, workers=workers):
        assert batch.pairing.side_B.tolist() == [side_of[key] for key in batch.keys]
        assert sorted(batch.pairing.side_B.tolist()) == [0] * 4 + [1] * 4
        assert [batch.texts[row] for row in batch.row_N] == [caption_of[key] for key in batch.keys]
    plain = make_recipe("clip")
    assert all(batch.pairing.side_B is None for batch in batches(data, plain))


def test_some_without_a_twin_stand_on_the_first_side(data):
    recipe = make_recipe("tripletclip", "--data.twin_share", "0.5")
    twin_of, lone = twins_of(data, recipe), set()
    for batch in batches(data, recipe):
        lone |= {key for key in batch.keys if key not in twin_of}
        assert all(side == 0 for key, side in zip(batch.keys, batch.pairing.side_B.tolist(), strict=True) if key not in twin_of)
    assert lone
    with pytest.raises(ValueError, match="of_twins"):
        CaptionDraw(of_twins=True, lead=1, name="x")


def test_the_recipe_trains_and_says_what_it_lacks(data, tmp_path):
    recipe = make_recipe("tripletclip", "--optimiser.steps", "30", "--optimiser.lr", "1e-2")
    train(recipe, data, make_model(data), tmp_path / "run", device="cpu", quiet=True)
    logged = lines(tmp_path / "run")
    assert all(math.isfinite(line["loss"]) for line in logged)
    assert sum(line["loss"] for line in logged[-5:]) < 0.8 * sum(line["loss"] for line in logged[:5])
    with pytest.raises(UserError, match=r'needs "twins".*data\.twin_share'):
        train(make_recipe("tripletclip", "--data.twin_share", "0.0"), data, make_model(data), tmp_path / "none", device="cpu", quiet=True)
