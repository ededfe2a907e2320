"""``python -m benchmarks.loading``: what is measured is what was run."""

import json

import pytest

from benchmarks import loading as bench_loading
from benchmarks.loading import BARE, OURS, LoadingArguments, LoadingCosts, LoadingSetting, loading, measure_loading
from wholegrain.data.preprocess import Preprocess
from wholegrain.errors import UserError
from wholegrain.text.tokenizer import ClipTokenizer


@pytest.mark.slow
def test_command_prints_a_table_and_writes_json(dataset, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench_loading, "open_clip_loaders", lambda *_: {"open_clip, CSV": broken})
    out = tmp_path / "costs.json"
    settings = {"image_size": 32, "workers": 1, "batch": 8, "seconds": 0.4, "rounds": 2, "out": out}
    assert loading(LoadingArguments(data=str(dataset.folder), **settings)) == 0
    found = json.loads(out.read_text())
    assert list(found["rates"]) == [BARE, "bare, Pillow", OURS]
    assert all(len(rates) == 2 and min(rates) > 0 for rates in (*found["rates"].values(), *found["cpu_rates"].values()))
    assert (found["images"], found["pixels"], found["image_size"]) == (24, 256, 32)
    printed = capsys.readouterr()
    assert "wholegrain" in printed.out
    assert printed.out.endswith(f"written: {out}\n")
    assert printed.err.count("open_clip, CSV fails and is left out (no such loader)") == 1  # not in each round


def broken():
    raise RuntimeError("no such loader")


def test_open_clips_loader_is_measured_where_it_is_installed(dataset):
    pytest.importorskip("open_clip_train.data", exc_type=ImportError)
    said = []
    setting = LoadingSetting(workers=1, batch=4, seconds=0.2, rounds=1)
    costs = measure_loading(dataset, Preprocess(32), ClipTokenizer(), setting, say=said.append)
    assert "open_clip, CSV" in costs.rates, said


def test_ratios_are_of_the_same_round():
    costs = LoadingCosts(
        {BARE: [10.0, 1.0, 4.0], OURS: [9.0, 0.8, 3.0]}, {BARE: [1.0] * 3, OURS: [2.0] * 3}, 1, 1, 1, 1, 1, 1, 0, "2"
    )
    assert costs.ratio(OURS) == 0.8
    assert costs.ratio(OURS, cpu=True) == 2


def test_bad_input_is_one_sentence(dataset):
    with pytest.raises(UserError, match="above 0"):
        loading(LoadingArguments(data=str(dataset.folder), workers=0))
