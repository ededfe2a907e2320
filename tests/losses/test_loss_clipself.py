"""CLIPSelf: crops on the grid, what is left out, and the recipe's training from end to end (what verify holds it to is tried with all losses)."""

import json

import pytest
import torch
from tiny_training import make_dataset, make_model, make_recipe, train

from wholegrain.errors import UserError
from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.clipself import ClipselfLoss, covers, shown_share
from wholegrain.training.encoder import _box

SMALL = ("--data.views", "[{ count = 2, crop_scale = [0.2, 0.6] }]", "--teacher.views", "3")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("halves") / "data")


def test_covers_are_shares_of_patches():
    """Counted on a fine raster of the picture."""
    box = torch.tensor([[[0.125, 0.25, 0.875, 1.0], [-0.5, 0.5, 0.25, 2.0]]], dtype=torch.float64)
    fine, rows, columns = 240, 3, 4
    centre = (torch.arange(fine, dtype=torch.float64) + 0.5) / fine
    for k in range(2):
        x0, y0, x1, y1 = box[0, k]
        inside = ((centre >= y0) & (centre < y1))[:, None] & ((centre >= x0) & (centre < x1))[None]
        counted = inside.double().unflatten(0, (rows, -1)).unflatten(2, (columns, -1)).mean((1, 3))
        assert torch.allclose(covers(box, (rows, columns))[0, k], counted.flatten(), atol=1e-12)
    assert shown_share(box).tolist() == [[1.0, pytest.approx(1 / 9)]]


def call(boxes, taught, patches, inside=0.9):
    crops = tuple(
        ImageFeatures(torch.full((1, 2), 9.0), teacher=ImageFeatures(torch.tensor([t])), box_B4=torch.tensor([b])) for b, t in zip(boxes, taught, strict=True)
    )
    image = ImageFeatures(torch.ones(1, 2), patches_BPD=patches, grid=(1, 2), views=crops, teacher=ImageFeatures(torch.ones(1, 2)))
    return ClipselfLoss(inside=inside)(image, TextFeatures(torch.ones(1, 2)), Pairing.one_to_one(1), torch.tensor(10.0)).value


def test_a_crop_that_the_student_does_not_see_is_left_out():
    patches = torch.tensor([[[5.0, 0.0], [0.0, 0.1]]])  # of any length
    left, outside = [0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.5, 1.0]
    assert float(call([left, outside], [[1.0, 0.0], [1.0, 0.0]], patches)) == pytest.approx(0.0)
    assert float(call([left, outside], [[1.0, 0.0], [1.0, 0.0]], patches, inside=0.4)) == pytest.approx(0.5)
    assert float(call([outside], [[1.0, 0.0]], patches)) == 0.0
    whole = [0.0, 0.0, 1.0, 1.0]
    assert float(call([whole], [[1.0, 0.0]], patches)) == pytest.approx(1 - 0.5**0.5)  # both halves alike, whatever their lengths


def test_boxes_of_views_are_in_the_first_views_sides():
    from types import SimpleNamespace

    views = [SimpleNamespace(crops_B4=torch.tensor([box])) for box in ([10.0, 20.0, 50.0, 40.0], [20.0, 20.0, 30.0, 50.0])]
    assert _box(SimpleNamespace(views=views), 1).tolist() == [[0.25, 0.0, 0.5, 1.5]]


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_training_brings_patches_to_the_teachers_crops(dataset, tmp_path):
    recipe = make_recipe("clipself", "--optimiser.steps", "40", "--optimiser.lr", "3e-3", *SMALL)
    model = make_model(dataset)
    text = {name: value.clone() for name, value in model.text_tower.state_dict().items()}
    train(recipe, dataset, model, tmp_path / "run", device="cpu", quiet=True)
    found = losses(tmp_path / "run")
    assert sum(found[-5:]) < 0.7 * sum(found[:5])
    assert all(torch.equal(value, text[name]) for name, value in model.text_tower.state_dict().items())


def test_what_the_student_need_not_see_changes_nothing(dataset, tmp_path):
    """Encoding the crops by the student, too, gives the same steps; so does accumulating them over micro-batches."""
    ways = {"lean": (), "all": ("--teacher.student_views", "0"), "parts": ("--optimiser.micro_batch", "4")}
    found = {}
    for name, options in ways.items():
        train(make_recipe("clipself", "--optimiser.steps", "4", *SMALL, *options), dataset, make_model(dataset), tmp_path / name, device="cpu", quiet=True)
        found[name] = losses(tmp_path / name)
    assert found["all"] == pytest.approx(found["lean"], rel=1e-5)
    assert found["parts"] == pytest.approx(found["lean"], rel=1e-5)


def test_without_teacher_or_crops_it_is_refused(dataset, tmp_path):
    for override, said in (
        (("--teacher.kind", "none", "--teacher.student_views", "0"), "teacher"),
        (("--data.views", "[]"), "views"),
        (("--teacher.kind", "none"), "student_views"),
    ):
        with pytest.raises(UserError, match=said):
            train(make_recipe("clipself", *override), dataset, make_model(dataset), tmp_path / "run", device="cpu", quiet=True)
    assert not (tmp_path / "run").exists()
