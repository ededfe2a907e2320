"""SIGKILL at any point: what is resumed ends with the bits of a run that nobody touched."""

import json
import os
import random
import shutil
import signal
import socket
import sys
import threading
from pathlib import Path

import pytest
import torch
from quick_processes import FORK
from tiny_training import make_dataset, make_model, make_recipe, train

from wholegrain.data.dataset import Dataset
from wholegrain.towers.io import load_model
from wholegrain.training import trainer
from wholegrain.training.checkpoints import checkpoint
from wholegrain.training.checkpoints.run_folder import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("killed")]  # one server of processes for all
STEPS = 16
EMA = ("--teacher.kind", "ema")
TIMES = ("images_per_s", "texts_per_s", "data_wait", "peak_share", "memory_mb")


def train_here(data, folder, operation, delay, place):
    """In a process of its own: begins or resumes the run, and kills itself before a file operation on its folder, or some time after.

    Operations are those of Python alone: opening, renaming, removing, making folders. ``place`` is rank, world, port.
    """
    torch.set_num_threads(1)
    trainer.matrix_peak = lambda *_: 0.0  # takes half a second, and only its share would be logged
    if place[1] > 1:
        os.environ |= {"RANK": str(place[0]), "LOCAL_RANK": "0", "WORLD_SIZE": str(place[1])}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(place[2])}
    seen = 0

    def watch(event, arguments):
        nonlocal seen
        if event in ("open", "os.rename", "os.mkdir", "os.rmdir", "os.remove") and str(folder) in str(arguments[0]):
            seen += 1
            if seen == operation and not delay:
                os.kill(os.getpid(), signal.SIGKILL)
            if seen == operation:
                threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()

    dataset, folder = Dataset(data), Path(folder)
    recipe = make_recipe("ce_clip", "--optimiser.steps", str(STEPS), "--saving.every", "1", "--saving.evaluate_every", "3", *EMA)
    resume = (folder / "run.json").is_file()
    model = load_model(folder) if resume else make_model(dataset)
    sys.addaudithook(watch)
    train(recipe, dataset, model, folder, device="cpu", quiet=True, resume=resume, evaluate=rising)
    if place[0] == 0:
        (folder.parent / f"{folder.name}.count").write_text(str(seen))


def rising(model):
    """A number that goes up and down as training goes on, so that the kept model is written again now and then."""
    return {"score": model.head.image.weight.detach().sum().item()}


def killed(data, folder, operation=0, delay=0.0, world=1):
    """Whether an attempt was killed; otherwise it came to its end, without error."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    calls = [(data, folder, 0 if rank else operation, delay, (rank, world, port)) for rank in range(world)]
    processes = [FORK.Process(target=train_here, args=call) for call in calls]
    for process in processes:
        process.start()
    first, *others = processes
    first.join()
    for process in others:  # without the first they would wait for it, or fail
        if first.exitcode:
            process.kill()
        process.join()
    assert first.exitcode in (0, -signal.SIGKILL)
    return first.exitcode != 0


def outcome_of(folder):
    """Weights of the kept model, tensors of the last checkpoint, and what the log says but for times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    said = [{name: value for name, value in line.items() if name not in TIMES} for line in lines]
    saved, notes = checkpoint.load_newest(folder / "checkpoints")
    assert saved is not None
    assert saved.step == STEPS
    assert not notes
    return {**load_model(folder).state_dict(), **saved.tensors}, said


def same(one, other):
    (tensors, said), (others, also) = one, other
    assert tensors.keys() == others.keys()
    for name, value in tensors.items():
        assert torch.equal(value, others[name]), name
    assert said == also


def whole_run(tmp_path, world=1):
    """The data, and how many file operations a run takes that nobody touches, in ``tmp_path/whole``."""
    data = make_dataset(tmp_path / "data", splits=("train",)).folder
    assert not killed(data, tmp_path / "whole", world=world)
    return data, int((tmp_path / "whole.count").read_text())


def test_a_run_killed_at_ten_points_ends_with_the_same_bits(tmp_path):
    data, operations = whole_run(tmp_path)
    draw = random.Random(0)
    points = [(draw.randrange(1, operations // 5), late * draw.uniform(0.001, 0.03)) for late in (0, 1) * 5]
    stops, reached = 0, set()
    for operation, delay in points:
        stops += killed(data, tmp_path / "cut", operation, delay)
        saved, _ = checkpoint.load_newest(tmp_path / "cut" / "checkpoints")
        reached.add(0 if saved is None else saved.step)
    assert stops >= 9
    assert len(reached & set(range(1, STEPS))) >= 3, "kills came in the midst of the run, too"
    assert not killed(data, tmp_path / "cut")
    same(outcome_of(tmp_path / "cut"), outcome_of(tmp_path / "whole"))


def test_two_processes_of_which_one_is_killed_end_with_the_same_bits(tmp_path):
    data, operations = whole_run(tmp_path, world=2)
    assert killed(data, tmp_path / "cut", operation=operations // 2, world=2)
    shutil.copytree(tmp_path / "cut", tmp_path / "alone")
    assert not killed(data, tmp_path / "cut", world=2)
    same(outcome_of(tmp_path / "cut"), outcome_of(tmp_path / "whole"))
    assert not killed(data, tmp_path / "alone")  # another number of processes: the same to rounding
    losses = [[line["loss"] for line in outcome_of(tmp_path / name)[1] if "loss" in line] for name in ("alone", "whole")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert losses[0] != losses[1]


def test_a_kill_between_two_renames_leaves_a_model_to_load(tmp_path, monkeypatch):
    """Every point at which the folder of a kept model changes hands."""
    dataset = make_dataset(tmp_path / "data", splits=("train",))
    run = RunFolder(tmp_path / "run", resume=False)
    run.save_model(make_model(dataset, seed=1))
    rename, count = os.replace, 0

    def cut(source, target):
        nonlocal count
        count += str(tmp_path / "run") == str(Path(target).parent)
        if count == stop:
            raise KeyboardInterrupt  # nothing runs after a kill, but what Python tidies up here is not looked at
        rename(source, target)

    for stop in (1, 2, 3):
        count = 0
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", cut)
            try:
                run.save_model(make_model(dataset, seed=stop + 1))
            except KeyboardInterrupt:
                assert load_model(tmp_path / "run")
    torch.testing.assert_close(load_model(tmp_path / "run").head.image.weight, make_model(dataset, seed=4).head.image.weight)
