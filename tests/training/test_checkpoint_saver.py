"""Checkpoints written while training goes on; and the last model beside the best."""

import errno
import threading
import time

import pytest
import torch
from tiny_runs import KilledError, kill_at, lines, run, same_weights, weights
from tiny_training import make_recipe

from wholegrain.errors import MachineError
from wholegrain.towers.io import load_model
from wholegrain.training.checkpoints import checkpoint
from wholegrain.training.checkpoints.checkpoint import Checkpoint
from wholegrain.training.checkpoints.saver import Saver
from wholegrain.training.distributed.processes import DistributedContext

BESIDE = ("--saving.asynchronous", "true", "--saving.every", "3")
ALONE = DistributedContext(torch.device("cpu"))


def test_it_is_a_copy_and_training_does_not_wait(tmp_path, monkeypatch):
    saver, value, go_on = Saver(tmp_path, 2, ALONE, asynchronous=True), torch.zeros(3), threading.Event()
    written = checkpoint.save

    def slow(*arguments):
        go_on.wait(10)
        return written(*arguments)

    monkeypatch.setattr(checkpoint, "save", slow)
    for step in (1, 2):
        go_on.clear()
        value.fill_(step)
        saver.save(lambda step=step: Checkpoint(step, {"model/x": value}, {}))
        value.fill_(-1)
        if step == 1:
            assert checkpoint.load_newest(tmp_path)[0] is None
        threading.Timer(0.2, go_on.set).start()  # the second waits for the first
    saver.finish()
    for step, place in zip((2, 1), checkpoint.folders(tmp_path), strict=True):
        assert torch.equal(checkpoint.load(place).tensors["model/x"], torch.full((3,), float(step)))


@pytest.mark.slow
def test_a_run_that_saves_beside_the_training_is_the_same(dataset, tmp_path):
    run(dataset, tmp_path / "whole", make_recipe("ce_clip", "--saving.every", "3"))
    with pytest.raises(KilledError):
        run(dataset, tmp_path / "cut", make_recipe("ce_clip", *BESIDE), on_step=kill_at(7))
    assert checkpoint.load_newest(tmp_path / "cut" / "checkpoints")[0].step == 6, "what was in flight came to its end"
    run(dataset, tmp_path / "cut", make_recipe("ce_clip", *BESIDE), load_model(tmp_path / "cut"), resume=True)
    assert lines(tmp_path / "whole") == lines(tmp_path / "cut")
    same_weights(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    one, other = (checkpoint.load_newest(tmp_path / name / "checkpoints")[0] for name in ("whole", "cut"))
    same_weights(one.tensors, other.tensors)


def test_a_full_disk_is_said_at_the_next_step(dataset, tmp_path, monkeypatch):
    wait = []

    def full(tensors, path):
        if "step-00000006" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(tensors, path)

    def slowly(outcome):
        wait.append(outcome.step)
        time.sleep(0.3 if outcome.step == 6 else 0)

    written = checkpoint.save_file
    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(MachineError, match=r"step-00000006 could not be written .*No space.*resume"):
        run(dataset, tmp_path / "run", make_recipe("clip", *BESIDE), on_step=slowly)
    assert wait[-1] == 6
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000003"]


def test_the_last_model_beside_the_best(dataset, tmp_path):
    values = iter([0.9, 0.4, 0.1, 0.95])
    recipe = make_recipe("clip", "--optimiser.steps", "8", "--saving.evaluate_every", "2")
    model = None

    def evaluate(given):
        nonlocal model
        model = given
        return {"score": next(values)}

    run(dataset, tmp_path / "run", recipe, evaluate=evaluate, on_step=lambda outcome: outcome.step == 5)
    same_weights(load_model(f"{tmp_path / 'run'}:last").state_dict(), model.state_dict())
    assert not torch.equal(load_model(tmp_path / "run").head.image.weight, model.head.image.weight)
    run(dataset, tmp_path / "run", recipe, load_model(tmp_path / "run"), evaluate=evaluate, resume=True)
    assert not (tmp_path / "run" / "last").exists(), "the last is the best"
    same_weights(load_model(f"{tmp_path / 'run'}:last").state_dict(), weights(tmp_path / "run"))
