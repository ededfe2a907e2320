"""What one command measures the next one finds: places of results, and what each command says at its end."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from halves import make_model

from wholegrain.cli.main import main
from wholegrain.errors import UserError
from wholegrain.evaluation.features.split import encode_split
from wholegrain.evaluation.result import TaskResult, load_results, save_results
from wholegrain.evaluation.result_folders import (
    check_results_folder,
    keep_results,
    results_folder,
    results_of,
    results_to_compare,
)
from wholegrain.evaluation.statistics.rows import Rows, figures, table
from wholegrain.towers import save_model
from wholegrain.workflows.split_features import split_features


def result(task="x", hits=(0, 1, 1, 0)):
    items = [f"i{n}" for n in range(len(hits))]
    rows = Rows(items, [""] * len(items), items, {"acc1": np.array(hits, dtype=float)})
    return TaskResult(task, "A protocol.", tuple(figures(rows)), table(rows))


@pytest.fixture(scope="module")
def dataset(halves):
    return halves


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_of(folder, *results):
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    for name, data in results:
        save_results([result()], folder / "results" / name, {"dataset": data})


# --- places -------------------------------------------------------------------------------------------------------------


def test_results_of_a_run_lie_below_it_and_others_where_the_command_was_called(here):
    run_of(here / "run", ("photos-test", "data/photos"))
    assert results_folder("run", "photos-test").as_posix() == "run/results/photos-test"
    assert results_folder("ViT-B-32:openai", "photos-test").as_posix() == "results/ViT-B-32-openai/photos-test"
    assert results_of("run") == {"photos-test": results_folder("run", "photos-test")}
    save_results([result()], results_folder("ViT-B-32:openai", "photos-test"))
    assert [folder.name for folder in results_to_compare(["run", "ViT-B-32:openai"])] == ["photos-test"] * 2
    save_results([result()], here / "run" / "test")  # as compete keeps them
    assert set(results_of("run")) == {"photos-test", "test"}


def test_compare_says_how_to_make_what_is_missing_and_asks_where_there_is_a_choice(here):
    run_of(here / "a", ("photos-test", "data/photos"))
    run_of(here / "b")
    with pytest.raises(UserError, match=r"no results of b; make them with: wholegrain evaluate b --data data/photos"):
        results_to_compare(["a", "b"])
    for name in ("photos-test", "coco-val"):
        save_results([result()], here / "b" / "results" / name)
    assert results_to_compare(["a", "b"])[1].name == "photos-test"  # what both have
    save_results([result()], here / "a" / "results" / "coco-val")
    with pytest.raises(UserError, match=r"name the folders, as in: wholegrain compare a/results/coco-val b/results/coco-val"):
        results_to_compare(["a", "b"])
    run_of(here / "c", ("x-test", "x"), ("y-test", "y"))
    with pytest.raises(UserError, match="No results are on the same data"):
        results_to_compare(["a", "c"])


def test_other_tasks_of_the_same_model_and_data_stay(here):
    facts = {"weights": "w", "content_hash": "h", "split": "test", "seed": 0, "settings": {"a": {"k": 1}}, "left_out": {"c": "why"}}
    keep_results([result("a"), result("b")], here / "r", facts)
    keep_results([result("a", (1, 1, 1, 1)), result("d")], here / "r", facts | {"settings": {}, "left_out": {}})
    results, meta = load_results(here / "r")
    assert {r.task: r.metrics["acc1"] for r in results} == {"b": 0.5, "a": 1.0, "d": 0.5}
    assert (meta["settings"], meta["left_out"]) == ({}, {"c": "why"})
    keep_results([result("a")], here / "r", facts | {"weights": "other"})
    assert [r.task for r in load_results(here / "r")[0]] == ["a"]


def test_the_calibration_of_a_result_goes_with_it(here):
    facts = {"weights": "w", "content_hash": "h", "split": "test", "seed": 0}
    keep_results([result("a"), result("a_calibration"), result("b_calibration")], here / "r", facts)
    keep_results([result("a", (1, 1, 1, 1))], here / "r", facts)
    assert {r.task for r in load_results(here / "r")[0]} == {"a", "b_calibration"}


def test_a_file_in_the_way_is_named_before_anything_is_measured(here):
    (here / "file").write_text("x")
    with pytest.raises(UserError, match="file is a file"):
        check_results_folder(here / "file" / "results")


# --- the commands ---------------------------------------------------------------------------------------------------------


def command(*arguments) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return int(end.value.code or 0)


def test_evaluate_keeps_compare_finds_report_takes_and_each_says_what_comes_next(dataset, here, capsys):
    for seed, name in enumerate("ab"):
        save_model(make_model(dataset, seed), here / name / "model")
    data, place = ("--data", dataset.folder), here / "a" / "results" / f"{dataset.folder.name}-test"
    assert command("compare", "a", "b") == 2
    assert "wholegrain evaluate a --data" in capsys.readouterr().err
    assert command("evaluate", "a", *data, "--suite", "retrieval") == 0
    told = capsys.readouterr().out.splitlines()
    assert told[-2] == f"written: a/results/{dataset.folder.name}-test/results.json"
    assert told[-1].startswith("next: wholegrain report a --data")
    stamp = (place / "results.json").stat().st_mtime_ns
    assert command("report", "a", "b", *data, "--suite", "retrieval") == 0
    told = capsys.readouterr()
    assert told.out.splitlines()[0] == "written: report.html"
    assert "wholegrain compare a b" in told.out.splitlines()[1]
    assert told.err.splitlines()[0].startswith("reading ")
    assert "a (1 of 2)" in told.err
    assert (place / "results.json").stat().st_mtime_ns == stamp  # report took what evaluate kept
    assert command("compare", "a", "b", "--out", "gaps.json") == 0
    told = capsys.readouterr().out
    assert "written: gaps.json" in told
    assert f"next: see where they differ: wholegrain report a b --data {dataset.folder} --split test" in told
    assert json.loads((here / "gaps.json").read_text())["reference"] == "a"


def test_report_tells_each_reason_once(dataset, here, capsys):
    for seed, name in enumerate("abc"):
        save_model(make_model(dataset, seed), here / name / "model")
    assert command("report", *"abc", "--data", dataset.folder, "--suite", "hard_positives,zero_shot,linear_probe") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("left out")]
    assert [line.partition(".")[0] for line in lines] == [
        f"left out: {task}, of 3 of 3 models" for task in ("zero_shot", "linear_probe")
    ]


@pytest.mark.slow
def test_report_says_something_within_a_second(dataset, here):
    save_model(make_model(dataset, 0), here / "a" / "model")
    arguments = [sys.executable, "-m", "wholegrain", "report", "a", "--data", str(dataset.folder), "--suite", "composition"]
    began = time.monotonic()
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("reading ")
        assert time.monotonic() - began < 5  # a second on an idle machine; the models are read after it
        process.communicate()
    assert process.returncode == 0


# --- features -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tune", [("none", "none"), ("none", "all"), ("all", "all")])
def test_models_with_the_same_frozen_towers_share_features(dataset, here, tune):
    one, two = make_model(dataset, 0), make_model(dataset, 0)
    for model in (one, two):
        model.image_tower.tune(tune[0])
        model.text_tower.tune(tune[1])
    with torch.no_grad():  # another head on the same towers
        for parameter in two.head.parameters():
            parameter.add_(0.1)
    plain = [encode_split(model, dataset) for model in (one, two)]
    first = split_features(one, dataset, "test", cache=here / "kept", say=lambda text: None)
    calls = {"image": 0, "text": 0}
    for name in calls:
        getattr(two, f"{name}_tower").register_forward_hook(lambda *_, name=name: calls.__setitem__(name, calls[name] + 1))
    second = split_features(two, dataset, "test", cache=here / "kept", say=lambda text: None)
    assert {name: count > 0 for name, count in calls.items()} == {"image": tune[0] == "all", "text": tune[1] == "all"}
    for found, expected in zip((first, second), plain, strict=True):
        torch.testing.assert_close(found.image.pooled_BD, expected.image.pooled_BD, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.text.pooled_ND, expected.text.pooled_ND, atol=1e-5, rtol=1e-4)
        assert (found.keys, found.texts, found.caption_ids, found.cut) == (expected.keys, expected.texts, expected.caption_ids, expected.cut)
