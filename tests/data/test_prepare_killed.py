"""``prepare`` killed before every one of its file operations; two undisturbed runs."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
from every_file_operation import outcomes, tree
from PIL import Image

from wholegrain.data import prepare as preparing
from wholegrain.data import scan
from wholegrain.data.prepare import PrepareOptions, prepare
from wholegrain.data.scenes.build import SceneCounts, build_scenes
from wholegrain.data.scenes.world import World

POINTS = None if "POINTS" in os.environ else "kinds"  # POINTS=all: every operation
OPTIONS = PrepareOptions(shard_bytes=6_000, workers=1, progress=False)


def source(folder, count=9):
    """A table of pictures, some of them equal, in two splits."""
    folder.mkdir()
    lines = ["image,caption,split"]
    for number in range(count):
        data = io.BytesIO()
        Image.fromarray(np.random.default_rng(number % 7).integers(0, 256, (10, 12, 3), dtype=np.uint8)).save(data, "PNG")
        (folder / f"{number}.png").write_bytes(data.getvalue())
        lines.append(f"{number}.png,caption {number},{('train', 'val')[number % 3 == 0]}")
    (folder / "a.csv").write_text("\n".join(lines) + "\n")
    return folder / "a.csv"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Several chunks of a few pictures, and a tokeniser that is there before the processes fork."""
    tokenizer = preparing.clip_tokenizer()
    monkeypatch.setattr(preparing, "clip_tokenizer", lambda: tokenizer)
    monkeypatch.setattr(scan, "CHUNK", 4)


@pytest.mark.slow
def test_a_kill_before_any_file_operation_changes_no_byte(tmp_path):
    table = source(tmp_path / "in")
    for outcome in outcomes(lambda place: prepare(table, place / "out", options=OPTIONS), tmp_path, points=POINTS):
        outcome.check()


@pytest.mark.slow
def test_replacing_a_data_set_leaves_the_old_one_or_the_new_one(tmp_path):
    """For the moment between two renames the old one lies beside its name."""
    old, new = source(tmp_path / "old", 3), source(tmp_path / "new")
    options = PrepareOptions(shard_bytes=6_000, workers=1, progress=False, overwrite=True)

    def begin(place):
        prepare(old, place / "out", options=OPTIONS)

    def data_sets(files):
        return [{n.partition("/")[2]: data for n, data in files.items() if n.startswith(f"{top}/")} for top in ("out", ".out.old")]

    begin(tmp_path / "before")
    before, _ = data_sets(tree(tmp_path / "before"))
    for outcome in outcomes(lambda place: prepare(new, place / "out", options=options), tmp_path, begin=begin, points=POINTS):
        outcome.check()
        after, _ = data_sets(outcome.whole)
        assert before in data_sets(outcome.left) or after in data_sets(outcome.left), outcome.operation


@pytest.mark.parametrize("workers", [1, 4])
def test_two_undisturbed_runs_give_equal_bytes(tmp_path, workers):
    table, options = source(tmp_path / "in"), PrepareOptions(shard_bytes=6_000, workers=workers, progress=False)
    for name in ("one", "two"):
        prepare(table, tmp_path / name, options=options)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


@pytest.mark.parametrize("workers", [(1, 1), (1, 2)])
def test_two_undisturbed_sets_of_scenes_are_equal(tmp_path, workers):
    counts = SceneCounts(train=12, val=4, test=4, crowded=2, twins=2, train_twins=2)
    for name, count in zip(("one", "two"), workers, strict=True):
        build_scenes(tmp_path / name, World(size=64), counts, workers=count)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
