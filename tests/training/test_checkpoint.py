"""Checkpoints: complete, whole or absent, verified, and few."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_training import make_model, make_recipe, train

from wholegrain.errors import MachineError, UserError
from wholegrain.objectives.objective import Objective
from wholegrain.training.checkpoints import checkpoint
from wholegrain.training.checkpoints.run_folder import RunFolder
from wholegrain.training.step import make_optimiser


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
    with pytest.raises(MachineError, match=r"step-00000200 could not be written .*No space.*make room"):
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


OLD = Path(__file__).parent / "checkpoints"
SMALL = {"image_width": 8, "text_width": 8, "width": 4, "heads": 1}


@pytest.mark.parametrize("number", range(1, checkpoint.FORMAT + 1))
def test_checkpoints_of_all_formats_are_read(dataset, tmp_path, number):
    """Each was written by the version that had that format, after three steps of CE-CLIP with a teacher."""
    recipe = make_recipe("ce_clip", "--optimiser.steps", "4", "--teacher.kind", "ema")
    model = make_model(dataset, **SMALL)
    RunFolder(tmp_path / "run", resume=False).create(recipe, model, dataset, {})
    shutil.copytree(OLD / f"format-{number}", tmp_path / "run" / "checkpoints")
    found, notes = checkpoint.load_newest(tmp_path / "run" / "checkpoints")
    assert (found.step, found.facts["format"], notes) == (3, checkpoint.FORMAT, ())
    assert found.facts["best"] == {"metric": "score", "value": 0.25, "step": 3}
    assert set(found.facts["files"]) == {"state.safetensors"}
    train(recipe, dataset, model, tmp_path / "run", device="cpu", quiet=True, resume=True)
    assert [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()] == [3]
    moved = (model.head.image.weight - found.tensors["model/head.image.weight"]).abs().max().item()
    assert 0 < moved < 2e-3, "one step on from what was saved"


def test_a_checkpoint_of_a_newer_version_is_refused_and_not_passed_over(dataset, tmp_path):
    for step in (1, 2):
        checkpoint.save(checkpoint.pack(step, *parts(dataset)), tmp_path, keep=9)
    state = tmp_path / "step-00000002" / "state.json"
    newer = json.loads(state.read_text()) | {"format": checkpoint.FORMAT + 1}
    state.write_text(json.dumps(newer))
    with pytest.raises(UserError, match=rf"step-00000002 has format {checkpoint.FORMAT + 1} and this version.*up to"):
        checkpoint.load_newest(tmp_path)


FULL = """
import resource, signal, sys
from pathlib import Path
import torch
from wholegrain.cli import main as cli
from wholegrain.training.checkpoints import checkpoint
def command(_):
    big = checkpoint.Checkpoint(2, {"model/x": torch.zeros(100_000)}, {})
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    checkpoint.save(big, Path(sys.argv[1]), keep=1)
cli._run = command
cli.main([])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of processes")
def test_a_file_that_does_not_fit_leaves_the_older_checkpoint(dataset, tmp_path):
    checkpoint.save(checkpoint.Checkpoint(1, {"model/x": torch.zeros(10)}, {}), tmp_path, keep=1)
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "could not be written" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert checkpoint.load_newest(tmp_path)[0].step == 1
