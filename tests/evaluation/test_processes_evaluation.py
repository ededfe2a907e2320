"""Encoding that processes share: the features and figures of one process, bit for bit, and each does its part."""

import json

import gloo
import pytest
import torch
from launching import torchrun
from tiny_training import make_dataset, make_model, make_recipe

from wholegrain.cli.main import main
from wholegrain.data.dataset import Dataset
from wholegrain.errors import UserError
from wholegrain.evaluation.features.encode import encode_image_batches
from wholegrain.evaluation.features.sharing import sharing
from wholegrain.evaluation.features.split import encode_split
from wholegrain.towers.io import save_model
from wholegrain.workflows.validation import validation


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data"), count=22).folder


class Counted:
    """How many images and texts a model has encoded."""

    def __init__(self, model):
        self.images = self.texts = 0
        model.image_tower.register_forward_hook(lambda _, inputs, __: setattr(self, "images", self.images + len(inputs[0])))
        model.text_tower.register_forward_hook(lambda _, inputs, __: setattr(self, "texts", self.texts + len(inputs[0])))


def tensors(features):
    return {name: value for name, value in vars(features).items() if isinstance(value, torch.Tensor)}


def encoded_here(rank, group, data, cache):
    """Features of the split in batches of four, patches batch by batch, validation; and how much was done here."""
    dataset, model = Dataset(data), make_model(Dataset(data)).eval()
    counted = Counted(model)
    with sharing(group):
        found = encode_split(model, dataset, "val", batch=4)
        seen = counted.images, counted.texts
        patches = [
            image.patches_BPD for image in encode_image_batches(model, dataset, found.keys, frozenset({"patches"}), batch=5)
        ]
        kept = encode_split(model, dataset, "val", batch=4, cache=cache / (str(rank) if rank == 0 else "other"))
    count = validation(dataset, make_recipe()).shared(model, group)
    return tensors(found.image), tensors(found.text), patches, count(), tensors(kept.image), seen


@pytest.mark.slow
def test_shared_like_alone_bit_for_bit(data, tmp_path):
    ((image, text, patches, count, _, alone),) = gloo.run(1, encoded_here, [(data, tmp_path / "1")], seconds=300)
    assert alone[0] == 22
    for attempt in ("2", "2"):  # the second time one process has the features in its cache, and the other has not
        for other in gloo.run(2, encoded_here, [(data, tmp_path / attempt)] * 2, seconds=300):
            for mine, theirs in ((image, other[0]), (text, other[1]), (image, other[4])):
                assert mine.keys() == theirs.keys()
                assert all(torch.equal(value, theirs[name]) for name, value in mine.items())
            assert len(patches) == 5
            assert all(torch.equal(one, two) for one, two in zip(patches, other[2], strict=True))
            assert other[3] == count
            assert 0 < other[5][0] <= 12
            assert 0 < other[5][1] < alone[1]
    assert len(list((tmp_path / "2" / "0").iterdir())) == 1
    assert not (tmp_path / "2" / "other").exists(), "the first one writes"


def frozen_here(rank, group, data):
    """Validation where a tower is frozen: its features are kept from one evaluation to the next."""
    dataset, model = Dataset(data), make_model(Dataset(data)).eval()
    model.image_tower.tune("none")
    counted, look = Counted(model), validation(dataset, make_recipe())
    look.say = lambda sentence: None
    first, images = look.shared(model, group)(), counted.images
    return first == look.shared(model, group)(), counted.images == images, first


@pytest.mark.slow
def test_validation_with_a_frozen_tower(data):
    ((_, _, alone),) = gloo.run(1, frozen_here, [(data,)], seconds=300)
    assert gloo.run(2, frozen_here, [(data,)] * 2, seconds=300) == [(True, True, alone)] * 2


def fails_here(rank, group, data):
    """One process meets an image that cannot be read."""
    dataset, model = Dataset(data), make_model(Dataset(data)).eval()
    if rank == 1:

        def broken(key):
            raise UserError(f"{key} is broken")

        dataset.pixels = broken
    with sharing(group), pytest.raises(UserError, match="is broken"):
        encode_split(model, dataset, "val", batch=4)
    return True


@pytest.mark.slow
def test_what_one_cannot_read_ends_all(data):
    assert gloo.run(2, fails_here, [(data,)] * 2, seconds=300) == [True, True]


@pytest.mark.slow
def test_the_command_under_torchrun(data, tmp_path):
    save_model(make_model(Dataset(data)), tmp_path / "model")
    base = [
        "evaluate",
        tmp_path / "model",
        "--data",
        data,
        "--split",
        "val",
        "--suite",
        "retrieval,composition",
        "--device",
        "cpu",
    ]
    done = torchrun("-m", "wholegrain", *base, "--batch", "4", "--out", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("written:") == 1
    with pytest.raises(SystemExit) as end:
        main([*map(str, base), "--batch", "4", "--out", str(tmp_path / "one")])
    assert end.value.code == 0
    one, two = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two"))
    assert one["results"] == two["results"]
