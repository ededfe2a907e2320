"""The front door: quick to open, the same options as the commands, one path for both; and its page in the docs runs."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_training import make_dataset

import wholegrain as wg
from wholegrain.cli import main as cli
from wholegrain.data.dataset import Dataset
from wholegrain.data.scenes.build import SceneCounts, build_scenes
from wholegrain.data.scenes.world import World
from wholegrain.workflows import functions
from wholegrain.workflows.commands import audit, compete, evaluate, prepare, train
from wholegrain.workflows.functions import arguments

PAGE = Path(__file__).parents[2] / "docs/python.md"
KINDS = {
    "prepare": prepare.PrepareArguments,
    "train": train.TrainArguments,
    "evaluate": evaluate.EvaluateArguments,
    "compete": compete.CompeteArguments,
    "audit": audit.AuditArguments,
}


def test_importing_brings_nothing_that_is_slow():
    code = "import sys, wholegrain; print({'torch', 'numpy', 'PIL', 'rich'} & {*sys.modules}, dir(wholegrain))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("set() ")
    assert "'embed" not in done.stdout
    assert "'load'" in done.stdout


def test_every_name_is_there():
    for name in wg.__all__:
        assert getattr(wg, name) is not None
    assert len(wg.__all__) <= 20
    assert wg.losses.clip.ClipLoss.__name__ == "ClipLoss"
    for missing in (lambda: wg.nothing, lambda: wg.losses.nothing):
        with pytest.raises(AttributeError, match="nothing"):
            missing()


@pytest.mark.parametrize("name", KINDS)
def test_parameters_are_options_of_the_command_with_its_defaults(name):
    options = {field.name: field for field in fields(KINDS[name])}
    for parameter in inspect.signature(getattr(functions, name)).parameters.values():
        if parameter.name in ("options", "say"):
            continue
        option = options[parameter.name]
        if parameter.default is not parameter.empty and isinstance(option.default, str | int | float | tuple | None):
            assert parameter.default == option.default, parameter.name


@pytest.mark.parametrize("name", KINDS)
def test_an_option_that_does_not_exist_is_refused(name):
    needed = {"prepare": ("a", "b"), "train": ("clip", "a"), "evaluate": ("a",), "compete": (["clip"], "a"), "audit": ("a", "b")}
    with pytest.raises(wg.UserError, match=rf'{name}\(\) has no option "sede"'):
        getattr(wg, name)(*needed[name], sede=1)


def test_values_of_python_become_those_of_the_command():
    args = arguments("train", train.TrainArguments, {"recipe": Path("a.toml"), "data": Path("b"), "out": "c", "terms.x.weight": 0.5, "data.crop_scale": [1, 2]})
    assert (args.recipe, args.data, args.out) == ("a.toml", ("b",), Path("c"))
    assert args.overrides == ("--terms.x.weight=0.5", "--data.crop_scale=[1, 2]")
    assert arguments("compete", compete.CompeteArguments, {"recipes": "all", "data": "b", "seeds": [1, 2]}).seeds == (1, 2)
    with pytest.raises(wg.UserError, match=r'"steps".*whole number'):
        wg.train("clip", "data", steps="ten")  # pyright: ignore[reportArgumentType]
    with pytest.raises(wg.UserError, match="takes no dotted names"):
        wg.audit("base", "photos", **{"terms.x": 1})


@pytest.mark.slow
def test_training_and_evaluating_is_what_the_commands_do(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path / "data", splits=("train", "val"))
    run = wg.train("clip", "data", steps=2, batch=8, out="mine", quiet=True, device="cpu", **{"optimiser.warmup_steps": 1})
    assert "optimiser.warmup_steps=1" in json.loads((run / "run.json").read_text())["command"]
    (result,) = wg.evaluate(run, "data", split="val", suite="retrieval")
    capfd.readouterr()
    words = "train clip --data data --steps 2 --batch 8 --out theirs --quiet --device cpu --optimiser.warmup_steps 1"
    for line in (words, "evaluate theirs --data data --split val --suite retrieval"):
        with pytest.raises(SystemExit) as stop:
            cli.main(line.split())
        assert stop.value.code == 0
    weights = [(Path(name) / "model" / "model.safetensors").read_bytes() for name in ("mine", "theirs")]
    assert weights[0] == weights[1]
    kept = [next(Path(name).glob("results/*/results.json")) for name in ("mine", "theirs")]
    figures = [json.loads(path.read_text())["results"][0]["metrics"] for path in kept]
    assert figures[0] == figures[1]
    assert result.figures[0].value == figures[1]["text_retrieval_recall@1"]


@pytest.mark.slow
def test_the_page_runs(tmp_path, monkeypatch, capfd):
    """Every snippet in its order, in one namespace, then its commands; on drawn scenes."""
    monkeypatch.chdir(tmp_path)
    build_scenes(tmp_path / "scenes", World(), SceneCounts(20, 4, 4, 4, 4))
    drawn, rows = Dataset(tmp_path / "scenes"), ["filepath,caption,split"]
    (tmp_path / "photos").mkdir()
    for n, key in enumerate(drawn.keys("train")[:12]):
        Image.fromarray(drawn.pixels(key)).save(tmp_path / "photos" / f"{n}.jpg")
        rows.append(f'photos/{n}.jpg,"{drawn.record(key).captions[0].text}",{"train" if n < 8 else "test"}')
    (tmp_path / "photos.csv").write_text("\n".join(rows) + "\n")
    names: dict[str, object] = {}
    for code in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S):
        exec(compile(code, "python.md", "exec"), names)
    ranked, vectors, why = names["ranked"], names["vectors"], names["why"]
    assert [type(item) for item in ranked[0]] == [type(Path()), float]
    assert vectors.shape == (12, names["model"].width)
    np.testing.assert_allclose(names["one"], vectors[:1], atol=1e-5)
    assert names["scores"].shape == (12, 2)
    assert names["alike"][0][0] == names["pictures"][0]
    assert why.maps.shape == (len(why.words), why.grid[0] * why.grid[1])
    for line in re.findall(r"^(wholegrain .*)$", PAGE.read_text(encoding="utf-8"), re.M):
        with pytest.raises(SystemExit) as stop:
            cli.main(shlex.split(line, comments=True)[1:])
        assert stop.value.code == 0, capfd.readouterr()
    assert {"photos.parquet", "labels.csv", "why.png", "why.html"} <= {path.name for path in tmp_path.iterdir()}


def test_the_page_names_all_that_there_is():
    text = PAGE.read_text(encoding="utf-8")
    assert [name for name in wg.__all__ if f"wg.{name}" not in text and name != "__version__"] == []
