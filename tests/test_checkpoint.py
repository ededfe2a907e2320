"""Checkpoints: complete, whole or absent, verified, and few."""

import json
import random

import numpy as np
import pytest
import torch
from tiny_training import make_dataset, make_model, make_recipe

from wholegrain.errors import UserError
from wholegrain.objectives.objective import Objective
from wholegrain.training import checkpoint
from wholegrain.training.step import make_optimiser


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data"))


def parts(dataset, seed=0, steps=0):
    model, recipe = make_model(dataset, seed), make_recipe("ce_clip")
    optimiser, objective = make_optimiser(model, recipe.optimiser), Objective(recipe.terms)
    for _ in range(steps):
        sum(p.square().sum() for p in model.parameters() if p.requires_grad).backward()
        optimiser.step()
    objective.load_state_dict({"cmr/margin_K": torch.tensor([1.0 + seed, 2.0])})
    return model, optimiser, objective


def test_everything_comes_back(dataset, tmp_path):
    saved = checkpoint.pack(7, *parts(dataset, 0, 3), best={"value": 0.5})
    checkpoint.save(saved, tmp_path, keep=2)
    drawn = (torch.rand(2), np.random.rand(), random.random())
    found, notes = checkpoint.load_newest(tmp_path)
    assert notes == ()
    assert (found.step, found.facts["best"]) == (7, {"value": 0.5})
    others = parts(dataset, 1)
    checkpoint.unpack(found, *others)
    again = (torch.rand(2), np.random.rand(), random.random())
    assert torch.equal(drawn[0], again[0])
    assert drawn[1:] == again[1:]
    packed = checkpoint.pack(7, *others).tensors
    for key, value in saved.tensors.items():
        if not key.startswith("random/"):
            assert torch.equal(packed[key], value), key
    assert sum(key.startswith("optimiser/") for key in packed) > 3


def test_frozen_parts_are_not_repeated(dataset):
    model, optimiser, objective = parts(dataset)
    model.image_tower.tune("none")
    names = checkpoint.pack(1, model, optimiser, objective).tensors
    assert not any(name.startswith("model/image_tower.") and "weight" in name for name in names)
    assert any(name.startswith("model/text_tower.") for name in names)


def test_broken_checkpoints_are_passed_over_and_named(dataset, tmp_path):
    for step in (1, 2, 3, 4):
        checkpoint.save(checkpoint.pack(step, *parts(dataset)), tmp_path, keep=9)
    tensors = tmp_path / "step-00000004" / "state.safetensors"
    damaged = bytearray(tensors.read_bytes())
    damaged[-1] ^= 1
    tensors.write_bytes(bytes(damaged))
    (tmp_path / "step-00000003" / "state.json").write_text('{"format": 1, "st')
    found, notes = checkpoint.load_newest(tmp_path)
    assert found.step == 2
    assert ["step-00000004" in notes[0], "step-00000003" in notes[1]] == [True, True]
    assert checkpoint.load_newest(tmp_path / "none") == (None, ())


def test_only_the_newest_stay_and_nothing_half_written(dataset, tmp_path, monkeypatch):
    for step in (1, 20, 3, 100):
        checkpoint.save(checkpoint.pack(step, *parts(dataset)), tmp_path, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000020", "step-00000100"]

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(checkpoint.pack(200, *parts(dataset)), tmp_path, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000020", "step-00000100"]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    final = tmp_path / "model"
    final.mkdir()
    (final / "old").write_text("old")

    def fail():
        with checkpoint.aside(final) as part:
            (part / "new").write_text("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [p.name for p in final.iterdir()] == ["old"]
    with checkpoint.aside(final) as part:
        (part / "new").write_text("new")
    assert [p.name for p in final.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_another_model_is_refused(dataset, tmp_path):
    checkpoint.save(checkpoint.pack(1, *parts(dataset)), tmp_path, keep=1)
    found, _ = checkpoint.load_newest(tmp_path)
    model, recipe = make_model(dataset, width=4), make_recipe("ce_clip")
    with pytest.raises(UserError, match="does not fit the model at"):
        checkpoint.unpack(found, model, make_optimiser(model, recipe.optimiser), Objective(recipe.terms))


def test_no_file_of_a_checkpoint_is_a_pickle(dataset, tmp_path):
    folder = checkpoint.save(checkpoint.pack(1, *parts(dataset)), tmp_path, keep=1)
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}
    json.loads((folder / "state.json").read_text())
