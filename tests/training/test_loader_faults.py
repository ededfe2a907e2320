"""What goes wrong while data are loaded: broken images, missing and short shards, workers that die."""

import json
import os
import signal

import pytest
import torch
from tiny_training import make_dataset, make_model, make_recipe, train

from wholegrain.cli.main import main
from wholegrain.data.dataset import BrokenImageError, Dataset
from wholegrain.errors import MachineError, UserError
from wholegrain.towers.io import load_model
from wholegrain.training.checkpoints import checkpoint
from wholegrain.training.loading.loader import DrawnSamples, OnDevice, PlanSampler, make_loader, names_of
from wholegrain.training.loading.plan import Plan

ALL = ("--data.broken_share", "0.2")


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path / "data", splits=("train",))


def spoil(dataset, keys):
    """Overwrites the middle of these pictures in their shards."""
    index = dataset._index
    for key in keys:
        row = dataset._row(key)
        shard = dataset.folder / "shards" / index["shard_names"][index["shard"][row]]
        with shard.open("r+b") as file:
            file.seek(int(index["image_offset"][row]) + 20)
            file.write(b"spoiled" * 4)
    return Dataset(dataset.folder)


def loader_of(dataset, recipe, stop=6, workers=0, rank=0, world=1, on_broken=None):
    model, names = make_model(dataset), names_of(dataset, recipe.data)
    plan = Plan(dataset.layout("train"), 8, 0)
    samples = DrawnSamples(dataset, model.preprocess, recipe.data, names, 0, plan.keys)
    return make_loader(samples, PlanSampler(plan, 0, stop, rank, world), model.tokenizer, names, workers=workers, on_broken=on_broken)


def test_another_image_takes_the_place_of_a_broken_one_the_same_for_all(dataset):
    whole = list(loader_of(dataset, make_recipe("ce_clip")))
    bad = dataset.keys("train")[3:5]
    spoiled, told = spoil(dataset, bad), []
    with pytest.raises(BrokenImageError, match=rf"image {bad[0]} in .* cannot be decoded .* prepare the data set again"):
        spoiled.pixels(bad[0])
    recipe = make_recipe("ce_clip", *ALL)
    loader = loader_of(spoiled, recipe, on_broken=lambda new, known: told.append((dict(new), dict(known))))
    alone = list(loader)
    assert set(loader.broken) == set(bad)
    assert [set(new) for new, _ in told] in ([set(bad)], [{bad[0]}, {bad[1]}], [{bad[1]}, {bad[0]}])
    replaced = 0
    for before, after in zip(whole, alone, strict=True):
        assert not set(after.keys) & set(bad)
        assert all(a == b or b in bad for a, b in zip(after.keys, before.keys, strict=True))
        assert {key for key, _ in after.broken} == set(before.keys) & set(bad)
        replaced += sum(key in bad for key in before.keys)
    assert replaced >= 2
    for one, other in zip(alone, loader_of(spoiled, recipe, workers=2), strict=True):
        assert (one.keys, one.texts, one.broken) == (other.keys, other.texts, other.broken)
        assert torch.equal(one.views[0].pixels_BCHW, other.views[0].pixels_BCHW)
    halves = [list(loader_of(spoiled, recipe, rank=rank, world=2)) for rank in (0, 1)]
    assert [a.keys + b.keys for a, b in zip(*halves, strict=True)] == [batch.keys for batch in alone]


def test_more_broken_images_than_the_share_stop_the_run(dataset):
    spoiled = spoil(dataset, dataset.keys("train")[:8])
    with pytest.raises(
        UserError, match=r"^[5-8] unreadable images are more than data.broken_share allows \(4\); the last: image .*decoded"
    ):
        list(loader_of(spoiled, make_recipe("clip", *ALL)))
    with pytest.raises(UserError, match=r"^\d unreadable images are more than data.broken_share allows \(0\)"):
        list(loader_of(spoiled, make_recipe("clip", "--data.broken_share", "0"), workers=1))
    everything = spoil(dataset, dataset.keys("train"))
    with pytest.raises(UserError, match=r"^image .* cannot be decoded"):
        list(loader_of(everything, make_recipe("clip", "--data.broken_share", "1")))


def test_a_run_notes_broken_images_and_goes_on(dataset, tmp_path):
    bad = dataset.keys("train")[2]
    spoiled = spoil(dataset, [bad])
    train(make_recipe("clip", *ALL), spoiled, make_model(spoiled), tmp_path / "run", device="cpu", quiet=True)
    assert list(json.loads((tmp_path / "run" / "broken_images.json").read_text())) == [bad]


@pytest.mark.parametrize("how", ["gone", "short"])
def test_a_shard_that_is_missing_or_short_ends_the_command_with_one_sentence(dataset, tmp_path, capsys, how):
    (shard,) = (dataset.folder / "shards").glob("*.tar")
    if how == "gone":
        shard.unlink()
    else:
        os.truncate(shard, shard.stat().st_size // 3)
    words = ["train", "clip", "--data", str(dataset.folder), "--out", str(tmp_path / "run"), "--steps", "2", "--batch", "8"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--workers", "1", "--device", "cpu", "--quiet"])
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert ended.value.code == 2
    assert shard.name in said
    assert ("is missing, though the index names it" if how == "gone" else "so it was cut short") in said


class Dying(Dataset):
    """A picture that kills the process that reads it, as the kernel does when memory runs out."""

    def pixels(self, key):
        if (self.folder / "deadly").exists() and key == (self.folder / "deadly").read_text():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().pixels(key)


@pytest.mark.slow
def test_a_dead_worker_is_one_sentence_and_the_run_is_saved_and_resumes_bit_for_bit(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)
    recipe = make_recipe("clip", "--optimiser.steps", "8")
    whole = train(recipe, dataset, make_model(dataset), tmp_path / "whole", device="cpu", quiet=True)
    deadly, plan = Dying(dataset.folder), Plan(dataset.layout("train"), 8, recipe.seed)
    (dataset.folder / "deadly").write_text(plan.batch(2)[5][0])
    monkeypatch.setattr("wholegrain.training.loading.loader._AHEAD", 1)
    with pytest.raises(
        MachineError, match=r"^A process that loads data was killed, most likely because memory ran out.*--resume"
    ):
        train(recipe, deadly, make_model(dataset), tmp_path / "cut", device="cpu", quiet=True, workers=1)
    saved, _ = checkpoint.load_newest(tmp_path / "cut" / "checkpoints")
    assert saved is not None
    assert saved.step == 2
    (dataset.folder / "deadly").unlink()
    cut = train(recipe, deadly, load_model(tmp_path / "cut"), tmp_path / "cut", device="cpu", quiet=True, resume=True)
    for name, value in load_model(whole).state_dict().items():
        assert torch.equal(value, load_model(cut).state_dict()[name]), name


def test_batches_pass_through_where_there_is_no_gpu(dataset):
    loader = loader_of(dataset, make_recipe("clip"), stop=3)
    assert [batch.keys for batch in OnDevice(loader, torch.device("cpu"))] == [batch.keys for batch in loader]
