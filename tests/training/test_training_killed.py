"""SIGKILL before each file operation of what makes runs, models and results; the same command again ends as if nothing had happened."""

import json
import os

import pytest
import torch
from every_file_operation import outcomes
from quick_processes import FORK
from safetensors.torch import load_file
from tiny_training import make_dataset, make_model, make_recipe, train

from wholegrain.cli.evaluate import EvaluateArguments, evaluate
from wholegrain.cli.export import ExportArguments, export
from wholegrain.cli.interpolate import interpolate
from wholegrain.data.dataset import Dataset
from wholegrain.towers.io import load_model, save_model
from wholegrain.training import trainer

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("killed")]  # one server of processes for all
TIMES = ("images_per_s", "texts_per_s", "data_wait", "peak_share", "memory_mb")
RECIPE = ("clip", "--optimiser.steps", "3", "--saving.every", "1", "--saving.evaluate_every", "1", "--saving.keep", "1")


def falling(model):
    """The first evaluation is the best, and the second is better than the third."""
    return {"score": -model.log_scale.item()}


def training(place):
    torch.set_num_threads(1)
    trainer.matrix_peak = lambda *_: 0.0  # takes half a second, and only its share would be logged
    dataset, run = Dataset(place.parent / "data"), place / "run"
    resume = (run / "run.json").is_file()
    model = load_model(run) if resume else make_model(dataset)
    train(make_recipe(*RECIPE), dataset, model, run, device="cpu", quiet=True, resume=resume, evaluate=falling)


def made(place):
    """Everything that is left, but for times and TensorBoard's files, which have them; and, outside of runs, for what a killed process had put aside."""
    found = {}
    for path in sorted(path for path in place.rglob("*") if path.is_file() and ("run" in path.parts or path.name[0] != ".")):
        name = str(path.relative_to(place))
        if path.suffix == ".safetensors":
            found[name] = {key: value.numpy().tobytes() for key, value in load_file(path).items()}
        elif path.suffix == ".jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{key: value for key, value in line.items() if key not in TIMES} for line in lines]
        elif path.name == "model.json":
            found[name] = {key: value for key, value in json.loads(path.read_text()).items() if key != "mark"}
        elif "tensorboard" not in name and path.name != ".lock":
            found[name] = path.read_bytes()
    return found


@pytest.fixture
def place(tmp_path):
    make_dataset(tmp_path / "data", count=8)
    return tmp_path


def check(command, place, points, **more):
    points = None if "POINTS" in os.environ else points  # POINTS=all: every operation
    for outcome in outcomes(command, place, read=made, context=FORK, points=points, **more):
        outcome.check()


def two_models(place):
    data = Dataset(place.parent / "data")
    for name, seed in (("model", 0), ("other", 1)):
        save_model(make_model(data, seed), place / name)


def exporting(place):
    if not (place / "out").exists():  # as whoever finds it there
        export(ExportArguments(model=str(place / "model"), out=place / "out", to="wholegrain"))


def interpolating(place):
    if not (place / "out").exists():
        interpolate(str(place / "model"), str(place / "other"), place / "out")


def evaluating(place):
    evaluate(EvaluateArguments(model=str(place / "model"), data=place.parent / "data", split="val", suite="retrieval", out=place / "out"))


def test_training(place):
    check(training, place, 6)


@pytest.mark.parametrize(
    ("command", "points"),
    [
        (exporting, ("open model.json", "os.rename .out.part")),  # half written, whole but not yet there, there
        (interpolating, ("open model.json", "os.rename .out.part")),
        (evaluating, 4),
    ],
)
def test_what_is_made_of_models(place, command, points):
    check(command, place, points, begin=two_models)
