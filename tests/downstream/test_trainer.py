"""The trainer of all tasks: learns, resumes bit for bit, shares a step over processes, keeps what is finished, refuses what is another."""

import json
import math
import signal

import gloo
import numpy as np
import pytest
import torch
from colour_head import ColourSettings, ColourTask, examples_of
from tiny_training import make_dataset, make_model

from wholegrain.downstream.pictures import TowerTokens, prepared_model
from wholegrain.downstream.settings import HeadTraining, load_settings, to_toml
from wholegrain.downstream.task import Term
from wholegrain.downstream.trainer import HeadOptions, train_head
from wholegrain.errors import UserError
from wholegrain.training.distributed.processes import DistributedContext

HERE = DistributedContext(torch.device("cpu"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("halves") / "data")


def settings(dropout=0.0, **training):
    given = {"steps": 8, "batch": 6, "lr": 1e-2, "warmup_steps": 2, "save_every": 3, **training}
    return ColourSettings(HeadTraining(**given), dropout)


def run(dataset, out, chosen=None, context=HERE, on_step=None):
    task = ColourTask(chosen or settings())
    options = HeadOptions(out, quiet=True, on_step=on_step)
    return train_head(task, make_model(dataset), dataset, examples_of(dataset), options, context)[0].state_dict()


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


class Killed(Exception):  # noqa: N818
    pass


def kill_at(step):
    def on_step(outcome):
        if outcome.step == step:
            raise Killed

    return on_step


class Plain:
    """Pictures of one colour under names that other data have, too."""

    def __init__(self, value):
        self.value, self.content_hash = value, f"plain {value}"

    def pixels(self, key):
        return np.full((16, 16, 3), self.value, np.uint8)


def test_kept_features_of_other_pictures_with_the_same_names_are_not_taken(dataset, tmp_path):
    model = prepared_model(make_model(dataset), "whole", "none")
    said = []
    for value in (10, 200, 10):
        tokens = TowerTokens(model, Plain(value), frozenset({"patches"}))
        tokens.keep(["0001.jpg", "0002.jpg"], said.append, tmp_path)
        fresh = TowerTokens(model, Plain(value), frozenset({"patches"})).raw(["0001.jpg"])
        assert torch.allclose(tokens.raw(["0001.jpg"]).patches_BPV, fresh.patches_BPV, atol=1e-5)
    assert len(list(tmp_path.iterdir())) == 2
    assert any("read from" in line for line in said)


def test_a_tuned_tower_is_in_eval_mode_behind_the_training(dataset, tmp_path):
    model = make_model(dataset)
    train_head(ColourTask(settings(tune="all")), model, dataset, examples_of(dataset), HeadOptions(tmp_path / "run", quiet=True), HERE)
    assert not model.image_tower.training


@pytest.mark.parametrize(("tune", "precision"), [("none", "fp32"), ("all", "fp32"), ("last:1", "fp32"), ("all", "bf16")])
def test_learns(dataset, tmp_path, tune, precision):
    run(dataset, tmp_path / "run", settings(steps=60, tune=tune, tower_lr=0.3, batch=12, precision=precision))
    found = losses(tmp_path / "run")
    assert len(found) == 60
    assert sum(found[-5:]) < 0.6 * sum(found[:5])


@pytest.mark.parametrize("tune", ["none", "all"])
@pytest.mark.parametrize("step", [0, 3, 7])
def test_resumes_bit_for_bit(dataset, tmp_path, tune, step):
    chosen = settings(dropout=0.3, tune=tune, tower_lr=0.5)
    whole = run(dataset, tmp_path / "whole", chosen)
    with pytest.raises(Killed):
        run(dataset, tmp_path / "killed", chosen, on_step=kill_at(step))
    again = run(dataset, tmp_path / "killed", chosen)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert losses(tmp_path / "whole") == losses(tmp_path / "killed")


def test_tuning_moves_the_tower_and_keeps_it(dataset, tmp_path):
    from safetensors.torch import load_file

    run(dataset, tmp_path / "tuned", settings(tune="last:1", tower_lr=0.5))
    saved = load_file(tmp_path / "tuned/head.safetensors")
    fresh = make_model(dataset).image_tower.state_dict()
    tower = {name.removeprefix("image_tower."): value for name, value in saved.items() if name.startswith("image_tower.")}
    assert tower
    assert any(not torch.equal(fresh[name], value) for name, value in tower.items())
    run(dataset, tmp_path / "frozen", settings())
    assert not any(name.startswith("image_tower.") for name in load_file(tmp_path / "frozen/head.safetensors"))


def test_seed_and_order_matter_and_nothing_else_does(dataset, tmp_path):
    one, same = run(dataset, tmp_path / "a"), run(dataset, tmp_path / "b")
    other = run(dataset, tmp_path / "c", settings(seed=1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_finished_is_not_done_twice_and_another_is_refused(dataset, tmp_path):
    first = run(dataset, tmp_path / "run")
    again = run(dataset, tmp_path / "run", on_step=kill_at(0))  # takes no step
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not (tmp_path / "run/checkpoints").exists()
    with pytest.raises(UserError, match=r"another run \(training.lr 0.01, not 0.02\)"):
        run(dataset, tmp_path / "run", settings(lr=0.02))


def _in_a_process(rank, group, size, data, folder, tune):
    from wholegrain.data.dataset import Dataset

    context = DistributedContext(torch.device("cpu"), rank, size, group if size > 1 else None)
    return run(Dataset(data), folder, settings(tune=tune, tower_lr=0.5), context)


@pytest.mark.slow
@pytest.mark.parametrize("tune", ["none", "all"])
def test_two_processes_take_the_steps_of_one(dataset, tmp_path, tune):
    (alone,) = gloo.run(1, _in_a_process, [(1, dataset.folder, tmp_path / "one", tune)])
    both = gloo.run(2, _in_a_process, [(2, dataset.folder, tmp_path / "two", tune)] * 2)
    for name, value in alone.items():
        assert torch.equal(both[0][name], both[1][name])
        assert (both[0][name] - value).abs().max() < 1e-5, name
    for one, two in zip(losses(tmp_path / "one"), losses(tmp_path / "two"), strict=True):
        assert two == pytest.approx(one, rel=1e-5)


def test_a_loss_that_is_no_number_changes_nothing(dataset, tmp_path):
    task = ColourTask(settings())
    plain, heads = task.loss, []

    def spoiled(head, image, targets):
        terms = plain(head, image, targets)
        heads.append(head.state_dict())
        return terms if len(heads) < 4 else {name: Term(term.total * math.nan, term.count) for name, term in terms.items()}

    task.loss = spoiled
    with pytest.raises(UserError, match=r"not a finite number at step 3 .* lower training.lr"):
        train_head(task, make_model(dataset), dataset, examples_of(dataset), HeadOptions(tmp_path / "run", quiet=True), HERE)
    assert all(torch.isfinite(value).all() for value in heads[-1].values())
    assert not (tmp_path / "run/head.safetensors").exists()


def test_a_signal_saves_and_the_same_command_goes_on(dataset, tmp_path):
    whole = run(dataset, tmp_path / "whole")

    def interrupt(outcome):
        if outcome.step == 4:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit, match="143"):
        run(dataset, tmp_path / "cut", on_step=interrupt)
    assert [path.name for path in (tmp_path / "cut/checkpoints").iterdir()] == ["step-00000005"]
    again = run(dataset, tmp_path / "cut")
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_broken_checkpoint_and_a_broken_head(dataset, tmp_path):
    whole = run(dataset, tmp_path / "whole")
    with pytest.raises(Killed):
        run(dataset, tmp_path / "cut", on_step=kill_at(7))
    (saved,) = (tmp_path / "cut/checkpoints").iterdir()
    (saved / "state.safetensors").write_bytes(b"cut short")
    again = run(dataset, tmp_path / "cut")  # from the beginning
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    (tmp_path / "cut/head.safetensors").write_bytes(b"cut short")
    with pytest.raises(UserError, match=r"head.safetensors .* delete head.safetensors to train it again"):
        run(dataset, tmp_path / "cut")


def test_settings_of_a_file(tmp_path):
    (tmp_path / "mine.toml").write_text(to_toml(settings(dropout=0.2)))
    assert load_settings("colour", ColourSettings, tmp_path / "mine.toml") == settings(dropout=0.2)
    changed = load_settings("colour", ColourSettings, tmp_path / "mine.toml", ["--training.lr", "0.5", "--dropout=0.1"])
    assert (changed.training.lr, changed.dropout) == (0.5, 0.1)
    for override, said in (("--training.lrr=1", "lrr"), ("--training.batch=0", "batch"), ("--training.lr=fast", "number")):
        with pytest.raises(UserError, match=said):
            load_settings("colour", ColourSettings, tmp_path / "mine.toml", [override])
