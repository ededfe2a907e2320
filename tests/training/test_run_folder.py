"""A run's folder: what is broken in it is passed over, what is gone is said, and one process at a time trains there."""

import errno
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_runs import KilledError, kill_at, lines, run, same_weights, weights
from tiny_training import make_model, make_recipe

from wholegrain.errors import UserError
from wholegrain.files import digest, sha256
from wholegrain.locks import locked
from wholegrain.towers.io import load_model, save_model
from wholegrain.training.checkpoints.run_folder import RunFolder
from wholegrain.training.distributed.processes import DistributedContext
from wholegrain.training.meters import Silent
from wholegrain.training.run import find_checkpoint, make_run
from wholegrain.training.trainer import Trainer, TrainOptions

RECIPE = ("ce_clip", "--optimiser.steps", "4", "--saving.every", "1", "--teacher.kind", "ema")
ALONE = DistributedContext(torch.device("cpu"))


@pytest.fixture(scope="module")
def interrupted(dataset, tmp_path_factory):
    """A run with checkpoints of its first and second step."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    with pytest.raises(KilledError):
        run(dataset, folder, make_recipe(*RECIPE), on_step=kill_at(2))
    return folder


@pytest.fixture
def copied(interrupted, tmp_path):
    shutil.copytree(interrupted, tmp_path / "run")
    return tmp_path / "run"


def resumed(folder, dataset):
    """The step that a resumed run goes on from, and what it says."""
    made, opened = make_run(make_recipe(*RECIPE), dataset, load_model(folder), ALONE), RunFolder(folder, resume=True)
    saved, notes = find_checkpoint(made, opened, ALONE)
    trainer = Trainer(made, opened, ALONE, Silent(), TrainOptions(folder))
    trainer.load_state_dict(saved)
    return trainer.progress.step, notes


def garbled(folder, **values):
    """Changes the newest checkpoint's ``state.json``; its own checksum is made to fit."""
    state = folder / "checkpoints" / "step-00000002" / "state.json"
    facts = json.loads(state.read_text()) | values
    facts.pop("digest", None)
    state.write_text(json.dumps(facts | {"digest": digest(facts)}))


NUMPY = ["MT19937", [1] * 624, 3, 0, 0.0]
PYTHON = [3, [1] * 624 + [5], None]
VALUES = [
    *({"step": step} for step in (-2, 10**30, "2", 2.5, None, 3, True)),
    *({"format": number} for number in (0, -1, "2", None)),
    *({"files": files} for files in ({}, [], None, {"state.safetensors": 5}, {"/dev/zero": "x"}, {"../x": "x"}, {"": "x"})),
    *({"numpy": [*NUMPY[:place], bad, *NUMPY[place + 1 :]]} for place, bad in ((0, "PCG64"), (1, [1]), (1, [-1] * 624), (1, "x"))),
    *({"numpy": [*NUMPY[:2], place, *NUMPY[3:]]} for place in (-1, 10**6, 10**30)),
    *({"numpy": bad} for bad in ([], None, "MT19937", {})),
    *({"python": bad} for bad in ([], [3, [1], None], [9, PYTHON[1], None], [3, [-1] * 625, None], [3, "x", None], 7)),
    *({"best": bad} for bad in ({}, [], {"metric": 1, "value": 0.5, "step": 1}, {"metric": "x", "value": float("nan"), "step": 1})),
    *({"skipped": bad} for bad in (-1, "0", None)),
    {"unknown": 1},
    {"scaler": 4},
]


@pytest.mark.parametrize("values", VALUES, ids=lambda values: json.dumps(values)[:40])
def test_a_checkpoint_with_garbled_values_is_passed_over(copied, dataset, values):
    garbled(copied, **values)
    step, notes = resumed(copied, dataset)
    assert step == 1
    assert len([note for note in notes if "step-00000002 is broken (" in note and note.endswith("is passed over.")]) == 1


def test_a_value_that_could_be_one_is_known_by_the_checksum(copied, dataset):
    state = copied / "checkpoints" / "step-00000002" / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"skipped": 3}))
    assert resumed(copied, dataset)[0] == 1


def longer(value):
    return torch.cat([value.reshape(-1), value.reshape(-1)])


TENSORS = {
    "another shape": lambda t: t | {"model/head.image.weight": longer(t["model/head.image.weight"])},
    "another type": lambda t: t | {"model/head.image.weight": t["model/head.image.weight"].half()},
    "one missing": lambda t: {name: value for name, value in t.items() if name != "model/head.image.weight"},
    "one too many": lambda t: t | {"model/nothing": torch.zeros(2)},
    "of nobody": lambda t: t | {"nothing": torch.zeros(2)},
    "moments of nobody": lambda t: t | {"optimiser/nothing/exp_avg": torch.zeros(2)},
    "unknown moments": lambda t: t | {"optimiser/log_scale/momentum": torch.zeros(())},
    "moments of another shape": lambda t: t | {"optimiser/head.image.weight/exp_avg": torch.zeros(2)},
    "half of the moments": lambda t: {name: v for name, v in t.items() if name != "optimiser/head.image.weight/exp_avg_sq"},
    "a teacher of another shape": lambda t: t | {"teacher/head.image.weight": torch.zeros(2)},
    "no teacher": lambda t: {name: value for name, value in t.items() if not name.startswith("teacher/")},
    "a state of nobody": lambda t: t | {"objective/nothing/margin_K": torch.zeros(2)},
    "a state of another shape": lambda t: t | {"objective/cmr/margin_K": torch.zeros(7)},
    "a random state of another type": lambda t: t | {"random/torch": torch.zeros(5)},
    "no random state": lambda t: {name: value for name, value in t.items() if name != "random/torch"},
}


@pytest.mark.parametrize("change", TENSORS.values(), ids=TENSORS)
def test_tensors_that_do_not_fit_the_run_are_passed_over(copied, dataset, change):
    path = copied / "checkpoints" / "step-00000002" / "state.safetensors"
    save_file({name: value.clone() for name, value in change(load_file(path)).items()}, path)
    garbled(copied, files={path.name: sha256(path)})
    step, notes = resumed(copied, dataset)
    assert step == 1
    assert "step-00000002 is broken (" in notes[-1]


def test_an_untouched_checkpoint_is_not(copied, dataset):
    assert resumed(copied, dataset)[0] == 2
    garbled(copied)
    assert resumed(copied, dataset)[0] == 2
    state = np.random.get_state(legacy=True)
    garbled(copied, numpy=[state[0], [int(word) for word in state[1]], state[2], state[3], state[4]])
    assert resumed(copied, dataset)[0] == 2


def evaluate(model):
    return {"score": model.log_scale.item()}


def test_where_all_checkpoints_are_gone_a_run_does_not_begin_with_its_best_model(dataset, tmp_path):
    recipe = make_recipe("clip", "--optimiser.steps", "4", "--saving.every", "1", "--saving.evaluate_every", "2")
    with pytest.raises(KilledError):
        run(dataset, tmp_path / "run", recipe, evaluate=evaluate, on_step=kill_at(3), origin={"command": "train it"})
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file() and path.name != ".lock"}
    with pytest.raises(UserError, match=r"no checkpoint that can be read.*begin the run anew in another folder \(train it\)"):
        run(dataset, tmp_path / "run", recipe, load_model(tmp_path / "run"), evaluate=evaluate, resume=True)
    assert before == {path: path.read_bytes() for path in before}


def test_where_all_checkpoints_are_gone_and_the_start_is_there_it_begins_anew(dataset, tmp_path):
    recipe = make_recipe("clip", "--optimiser.steps", "3", "--saving.every", "1")
    with pytest.raises(KilledError):
        run(dataset, tmp_path / "run", recipe, on_step=kill_at(2))
    for state in (tmp_path / "run").glob("checkpoints/*/state.json"):
        state.write_text("{}")
    run(dataset, tmp_path / "run", recipe, load_model(tmp_path / "run"), resume=True)
    run(dataset, tmp_path / "whole", recipe)
    same_weights(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_a_run_killed_behind_its_last_checkpoint_is_brought_to_its_end(dataset, tmp_path, monkeypatch):
    values = iter([0.9, 0.1])
    recipe = make_recipe("clip", "--optimiser.steps", "2", "--saving.every", "1", "--saving.evaluate_every", "1")

    def die(*_, **__):
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "save_last", die)
        with pytest.raises(KilledError):
            run(dataset, tmp_path / "run", recipe, evaluate=lambda model: {"score": next(values)})
    run(dataset, tmp_path / "run", recipe, load_model(tmp_path / "run"), evaluate=evaluate, resume=True)
    assert not torch.equal(load_model(f"{tmp_path / 'run'}:last").log_scale, load_model(tmp_path / "run").log_scale)
    assert len([line for line in lines(tmp_path / "run") if "loss" in line]) == 2


def test_a_recipe_that_was_changed_by_hand_is_refused(copied, dataset):
    recipe = copied / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("steps = 4", "steps = 5"))
    with pytest.raises(UserError, match=r"recipe\.toml was changed since the run began; put it back"):
        run(dataset, copied, make_recipe("ce_clip", "--optimiser.steps", "5", *RECIPE[3:]), load_model(copied), resume=True)


def test_a_folder_with_checkpoints_and_without_run_json_is_not_begun_in(copied, dataset):
    (copied / "run.json").unlink()
    with pytest.raises(UserError, match=r"holds checkpoints of a run whose run\.json is gone"):
        run(dataset, copied, make_recipe(*RECIPE))


def test_one_process_at_a_time_trains_in_a_folder(copied, dataset):
    model = {path: path.read_bytes() for path in (copied / "model").iterdir()}
    with locked(copied, "training"), pytest.raises(UserError, match=rf"is in use \(process {os.getpid()}, training\)"):
        run(dataset, copied, make_recipe(*RECIPE), load_model(copied), resume=True)
    assert model == {path: path.read_bytes() for path in (copied / "model").iterdir()}
    run(dataset, copied, make_recipe(*RECIPE), load_model(copied), resume=True)
    with locked(copied, "training"):
        pass  # it was let go


def test_two_that_begin_at_once_do_not_share_a_folder(dataset, tmp_path):
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run", "training"), pytest.raises(UserError, match="is in use"):
        run(dataset, tmp_path / "run", make_recipe())
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forked processes")
def test_a_forked_process_that_outlives_its_parent_does_not_keep_the_lock(tmp_path):
    read, write = os.pipe()
    with locked(tmp_path, "training"):
        child = os.fork()
        if child == 0:
            os.write(write, b"x")
            signal.pause()
        os.read(read, 1)  # it has begun
    try:
        with locked(tmp_path, "training"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(read)
        os.close(write)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_place_that_cannot_be_written_to_is_said_in_one_sentence(copied, dataset, tmp_path, monkeypatch, number):
    opened, made = os.open, Path.mkdir

    def refuse(path, flags, *more, **named):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and str(tmp_path) in str(path):
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, flags, *more, **named)

    def refuse_folder(self, *more, **named):
        if str(tmp_path) in str(self) and not self.exists():
            raise OSError(number, os.strerror(number), str(self))
        return made(self, *more, **named)

    model = load_model(copied)
    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse_folder)
    with pytest.raises(UserError, match="cannot be written"):
        run(dataset, copied, make_recipe(*RECIPE), model, resume=True)
    with pytest.raises(UserError, match="cannot be written"):
        run(dataset, tmp_path / "new" / "run", make_recipe(), make_model(dataset))


def test_what_a_run_that_never_began_left_is_not_begun_with(dataset, tmp_path):
    """A run with adapters saves its start first; killed there, it leaves that, and no run.json."""
    other = make_model(dataset)
    with torch.no_grad():
        other.log_scale.add_(1.0)
    save_model(other, tmp_path / "cut" / "start")
    for name in ("cut", "whole"):
        run(dataset, tmp_path / name, make_recipe("clip", "--optimiser.steps", "1"))
    assert load_model(tmp_path / "cut").scale == load_model(tmp_path / "whole").scale
