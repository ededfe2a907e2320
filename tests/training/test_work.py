"""Meters of a step: its arithmetic, the device's peak, memory, what was cut off; trackers beside the log."""

import json
import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from float64_models import OWN, model_of
from tiny_training import make_model, make_recipe, train
from torch.utils.flop_counter import FlopCounterMode

from wholegrain.errors import UserError
from wholegrain.objectives.objective import Objective, choose_terms
from wholegrain.objectives.recipe import recipe_names
from wholegrain.text.trained import train_tokenizer
from wholegrain.training import trackers, work
from wholegrain.training.encoder import Encoder
from wholegrain.training.loading.loader import DrawnSamples, PlanSampler, make_loader, names_of
from wholegrain.training.loading.plan import Plan
from wholegrain.training.memory.precision import autocast
from wholegrain.training.run import offers, phrases_for
from wholegrain.training.teacher import make_teacher
from wholegrain.training.trackers import require_tracker
from wholegrain.training.work import matrix_peak, peak_megabytes, step_work

CAST = partial(autocast, torch.device("cpu"), "fp32")


def parts_of(dataset, name, images=8):
    recipe = make_recipe(name, *OWN.get(name, ()))
    model = model_of(dataset, recipe)
    names = names_of(dataset, recipe.data)
    terms, _ = choose_terms(recipe, names.roles, offers(recipe, dataset, model))
    samples = DrawnSamples(dataset, model.preprocess, recipe.data, names, 0)
    plan = PlanSampler(Plan(dataset.keys("train"), images, 0), 0, 1, 0, 1)
    loader = make_loader(samples, plan, model.tokenizer, names, phrases=phrases_for(Objective(terms)))
    return (
        Encoder(model, teacher=make_teacher(model_of(dataset, recipe, seed=1), recipe.teacher)),
        Objective(terms),
        next(iter(loader)),
    )


@pytest.mark.parametrize("name", recipe_names())
def test_counting_changes_nothing(dataset, name):
    encoder, objective, batch = parts_of(dataset, name)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    carried, random = repr(objective.state_dict()), torch.get_rng_state()
    modes = [module.training for module in encoder.modules()]
    assert step_work(encoder, objective, batch, CAST) > 0
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert repr(objective.state_dict()) == carried
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in encoder.modules()] == modes


def test_work_is_that_of_a_step_and_of_a_sample_about_the_same(dataset):
    encoder, objective, batch = parts_of(dataset, "clip", 16)
    with FlopCounterMode(display=False) as counter:
        image, text, scale, bias = encoder(batch, objective.needs)
        objective(image, text, batch.pairing, scale, bias).value.backward()
    assert step_work(encoder, objective, batch, CAST) == counter.get_total_flops()
    assert step_work(encoder, objective, batch, CAST, sample=8) == pytest.approx(counter.get_total_flops(), rel=0.2)


def test_frozen_towers_are_less_work(dataset):
    encoder, objective, batch = parts_of(dataset, "clip")
    whole = step_work(encoder, objective, batch, CAST)
    encoder.model.image_tower.tune("none")
    assert step_work(encoder, objective, batch, CAST) < 0.7 * whole


def test_the_log_has_the_meters(dataset, tmp_path):
    recipe = make_recipe("clip", "--optimiser.steps", "3")
    train(recipe, dataset, make_model(dataset), tmp_path / "run", device="cpu", quiet=True)
    for line in map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()):
        assert 0 < line["peak_share"] < 1
        assert 10 < line["memory_mb"] < 100_000
        assert line["truncated"] == 0


def test_texts_that_were_cut_are_counted(dataset, tmp_path):
    recipe = make_recipe("clip", "--optimiser.steps", "2", "--data.captions", '[{roles=["web"]}, {roles=["style"]}]')
    model = make_model(dataset)
    texts = [caption.text for record in dataset.records("train") for caption in record.captions]
    model.tokenizer = train_tokenizer(texts, 100, 4)  # "red beside blue" has five tokens with start and end, "blue things" four
    seen = []
    train(recipe, dataset, model, tmp_path / "run", device="cpu", quiet=True, on_step=seen.append)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["truncated"] for line in lines] == [outcome.cut / outcome.texts for outcome in seen] == [0.5, 0.5]


def test_the_peak_is_above_what_one_product_takes():
    assert matrix_peak(torch.device("cpu"), "fp32", 64) > 1e6
    assert peak_megabytes(torch.device("cpu")) > 10


@pytest.mark.parametrize(("flops", "largest"), [(1e9, 256), (5e10, 1024), (1e15, 2048)])
def test_products_are_no_larger_than_a_moment_allows(monkeypatch, flops, largest):
    sizes = []
    monkeypatch.setattr(work, "_product_seconds", lambda device, kind, size: sizes.append(size) or 2 * size**3 / flops)
    assert matrix_peak(torch.device("cpu"), "bf16") == pytest.approx(flops)
    assert sizes[-1] == largest


class FakeTracker(SimpleNamespace):
    """A module with the face of wandb and trackio."""

    def __init__(self):
        super().__init__(begun={}, logged=[], finished=False)

    def init(self, **settings):
        self.begun = settings

    def log(self, numbers, step):
        self.logged.append((step, numbers))

    def finish(self):
        self.finished = True


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_is_told_what_the_log_is(dataset, tmp_path, monkeypatch, name):
    fake = FakeTracker()
    monkeypatch.setitem(sys.modules, name, fake)
    recipe = make_recipe("clip", "--optimiser.steps", "3", "--saving.evaluate_every", "3")
    evaluate = lambda model: {"r1": 0.5}  # noqa: E731
    folder = tmp_path / "my-run"
    train(recipe, dataset, make_model(dataset), folder, device="cpu", quiet=True, tracker=(name, "shop"), evaluate=evaluate)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert fake.begun["project"] == "shop"
    assert fake.begun["name"] == "my-run"
    assert fake.begun["config"]["recipe"]
    assert [(step, numbers["train/loss"]) for step, numbers in fake.logged[:3]] == [
        (line["step"], line["loss"]) for line in steps
    ]
    assert fake.logged[-1] == (3, {"evaluation/r1": 0.5})
    assert fake.finished


def test_mlflow_has_one_run_with_all_steps_also_after_a_resume(dataset, tmp_path, monkeypatch):
    """With the package itself, into a folder."""
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    recipe, folder, place = make_recipe("clip", "--optimiser.steps", "3", "--saving.every", "1"), tmp_path / "my-run", {"tracker": ("mlflow", "shop")}

    def broken_off(step):
        if step == 2:
            raise KeyboardInterrupt

    tracked = trackers._MLflowRun.log
    monkeypatch.setattr(trackers._MLflowRun, "log", lambda self, numbers, step: (tracked(self, numbers, step), broken_off(step)))
    with pytest.raises(KeyboardInterrupt):
        train(recipe, dataset, make_model(dataset), folder, device="cpu", quiet=True, **place)
    monkeypatch.setattr(trackers._MLflowRun, "log", tracked)
    train(recipe, dataset, make_model(dataset), folder, device="cpu", quiet=True, resume=True, **place)
    (run,) = mlflow.search_runs(experiment_names=["shop"], output_format="list")
    assert run.info.run_name == "my-run"
    assert run.info.status == "FINISHED"
    assert run.data.params["seed"] == "0"
    told = mlflow.MlflowClient().get_metric_history(run.info.run_id, "train/loss")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {point.step: point.value for point in told} == {line["step"]: line["loss"] for line in lines if "loss" in line}


def test_trackers_that_are_not_there(monkeypatch):
    with pytest.raises(UserError, match='no tracker "mlflo"; did you mean "mlflow"'):
        require_tracker("mlflo")
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(UserError, match=r"pip install .wholegrain\[trackio\]"):
        require_tracker("trackio")
