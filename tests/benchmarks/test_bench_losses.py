"""``python -m benchmarks.losses``: what is measured is what was run."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import losses as bench_losses
from benchmarks.losses import Cost, LossCosts, losses, measure_losses, step_ratio
from benchmarks.peak_memory import with_peak_megabytes
from wholegrain.errors import UserError


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(bench_losses, "_step_seconds", lambda: 0.5)
    monkeypatch.setattr(bench_losses, "METHODS", ("sparc",))


def test_peak_memory_counts_what_is_held_at_once():
    x = torch.randn(1000, requires_grad=True)

    def loss():
        large = x[:, None] * x.detach()  # 4,000,000 bytes, and the gradient's as many
        return large.sum()

    assert 4e6 / 2**20 < with_peak_megabytes(loss, [x])[1] < 13e6 / 2**20
    assert with_peak_megabytes(lambda: x.sum(), [x])[1] < 0.1
    assert x.grad is None


def test_command_prints_a_table_and_writes_json(quick, tmp_path, capsys):
    out = tmp_path / "costs.json"
    assert losses(sizes=(600,), images=2, rounds=1, out=out) == 0
    found = json.loads(out.read_text())
    assert [row["name"] for row in found["core"]] == ["softmax, dense", "softmax, tiled", "sigmoid, dense", "sigmoid, tiled"]
    assert all(row["seconds"] > 0 and row["cpu_seconds"] > 0 and row["size"] == 600 for row in found["core"])
    dense = next(row for row in found["core"] if row["name"] == "softmax, dense")
    assert dense["megabytes"] > 2 * 600**2 * 4 / 2**20
    assert [row["name"] for row in found["methods"]] == ["clip", "sparc"]
    printed = capsys.readouterr()
    assert "softmax, tiled" in printed.out
    assert printed.out.endswith(f"written: {out}\n")
    assert "profiler" not in printed.err


def test_what_does_not_fit_is_left_out(quick, monkeypatch):
    monkeypatch.setattr(bench_losses, "_free_bytes", lambda: 1.0)
    costs = measure_losses((40,), images=2, rounds=1)
    assert [cost.seconds is None for cost in costs.core] == [True, False, True, False]


def test_bad_input_is_one_sentence(quick, tmp_path):
    with pytest.raises(UserError, match="at least 1"):
        losses(sizes=(0,))
    with pytest.raises(UserError, match="cannot be written"):
        LossCosts((), (), 1.0, 1, (0.0, 0.0), "2").save(tmp_path / "nowhere" / "costs.json")


def test_step_ratio_grows_pairs_and_images_apart():
    methods = tuple(Cost(name, 10, seconds, seconds, 0.0) for name, seconds in (("clip", 1.0), ("sparc", 2.0), ("filip", 3.0)))
    costs = LossCosts((), methods, 0.1, 1, (0.0, 0.0), "2")
    # 20 images against 40 texts: towers 2 s, CLIP's loss 8 s, FILIP's 24 s instead, SPARC's 4 s beside
    assert step_ratio(costs, "clip", 20, 40) == 1
    assert step_ratio(costs, "filip", 20, 40) == pytest.approx(26 / 10)
    assert step_ratio(costs, "sparc", 20, 40) == pytest.approx(14 / 10)
