"""Stages over data: shared out, killed and continued, on Ray and off it, the sidecars are the same bytes."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from io import StringIO

import enrich_work
import numpy as np
import pytest
from enrich_work import Backwards, Brightness, run
from rich.console import Console
from tiny_training import make_dataset

from wholegrain.data.dataset import Dataset
from wholegrain.data.record import GeneratedCaption
from wholegrain.data.sidecars import made_by
from wholegrain.enrich.runner import run as runner
from wholegrain.enrich.runner import units
from wholegrain.enrich.runner.parts import Parts
from wholegrain.enrich.runner.progress import Shown
from wholegrain.enrich.runner.run import Options, enrich
from wholegrain.enrich.runner.stage import Stage
from wholegrain.errors import MachineError, UserError

TABLES = ("negatives", "hard_positives")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "d"
    make_dataset(folder, 20)
    for name in ("negatives", "twins"):
        (folder / f"{name}.parquet").unlink()
    return folder


@pytest.fixture
def data(original, tmp_path):
    shutil.copytree(original, tmp_path / "d")
    return tmp_path / "d"


@pytest.fixture
def small_units(monkeypatch):
    for name in ("SMALLEST", "SMALLEST_WITH_A_MODEL"):
        monkeypatch.setattr(units, name, 3)


def sidecars(folder):
    return {name: (folder / f"{name}.parquet").read_bytes() for name in TABLES}


def keys_of(folder):
    dataset = Dataset(folder)
    return [key for split in dataset.splits for key in dataset.keys(split)]


@pytest.fixture(scope="module")
def expected(original, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "d"
    shutil.copytree(original, folder)
    run(folder, size=40)
    return sidecars(folder)


def test_rows_are_those_of_the_stage_in_the_order_of_the_keys(data):
    made = run(data)
    dataset, stage = Dataset(data), Backwards()
    stage.fit(dataset, keys_of(data))
    rows = [row for key in keys_of(data) for row in stage.of(dataset.record(key))]
    assert [m.table for m in made] == list(TABLES)
    assert made[0].rows == len(rows) == 120
    assert [row for key, caption in {(r.key, r.caption): 0 for r in rows} for row in dataset.negatives[key, caption]] == rows
    assert [item.captions[1] for item in dataset.hard_positives] == [str(int(dataset.pixels(k).mean())) for k in keys_of(data)]
    told = made_by(data / "negatives.parquet")
    assert told["stages"] == [{"name": "backwards", "method": "backwards", "version": "1", "seed": 0}]
    assert sorted(path.name for path in (data / "enrich").iterdir()) == [".lock", "parts"]


@pytest.mark.parametrize(("size", "workers"), [(1, 1), (7, 2)])
def test_neither_processes_nor_units_nor_the_order_of_keys_change_a_byte(data, expected, size, workers, monkeypatch):
    if size == 1:
        monkeypatch.setattr(units, "SMALLEST", 1)
        keys = keys_of(data)
        random.Random(1).shuffle(keys)
        enrich(Dataset(data), [Backwards(), Brightness()], keys, Options(workers=1))
    else:
        run(data, size=size, workers=workers)
    assert sidecars(data) == expected


def killed(data, parts, **options):
    """Starts the work, kills it when so many parts are there; whether it was still at work then."""
    before = len(list((data / "enrich").rglob("*.parquet"))) if (data / "enrich").exists() else 0
    script = [sys.executable, enrich_work.__file__, str(data), json.dumps(options)]
    with subprocess.Popen(script, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and len(list((data / "enrich").rglob("*.par*"))) < before + parts:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode in (0, -signal.SIGKILL)
    return process.returncode != 0


@pytest.mark.slow
def test_five_kills_change_no_byte(data, expected):
    draw = random.Random(0)
    kills = sum(killed(data, draw.randrange(1, 4), size=2, seconds=0.05, workers=1 + n % 2) for n in range(5))
    assert kills == 5
    kept = len(list((data / "enrich").rglob("*.parquet")))
    assert kept >= 5
    assert not (data / "negatives.parquet").exists()
    run(data)
    assert sidecars(data) == expected


def test_what_is_done_is_not_done_again(data, expected, monkeypatch):
    keys = keys_of(data)
    looked = []
    real = runner.run_here

    def counted(stage, dataset, left, workers):
        looked.append((stage.name, sum(len(unit.keys) for unit in left)))
        return real(stage, dataset, left, workers)

    monkeypatch.setattr(runner, "run_here", counted)
    with pytest.raises(
        UserError, match=r"2 of \d+ records failed, which is more than --max-failed 0.03 allows; the last one: it may not"
    ):
        run(data, fails=[keys[9], keys[30]], max_failed=0.03)
    assert not (data / "negatives.parquet").exists()
    made = run(data, fails=[keys[30]], max_failed=0.03)
    assert looked[:2] == [
        ("backwards", 40),
        ("backwards", 40 - 28),
    ]  # all after the second failure, and the unit of the first one
    assert [failure.key for failure in made[0].failures] == [keys[30]]
    listed = [json.loads(line) for line in (data / "enrich" / "failures-negatives.jsonl").read_text().splitlines()]
    assert listed == [{"table": "negatives", "stage": "backwards", "key": keys[30], "reason": "it may not"}]
    assert made[0].rows == 117
    del looked[:]
    made = run(data)
    assert looked == [("backwards", 2)]
    assert [m.new for m in made] == [True, False]
    assert sidecars(data) == expected
    assert not (data / "enrich" / "failures-negatives.jsonl").exists()
    del looked[:]
    assert [m.new for m in run(data)] == [False, False]
    assert not looked


def test_one_bad_record_costs_itself_alone(data, small_units):
    key = keys_of(data)[4]
    made = enrich(Dataset(data), [Backwards(breaks=[key])], keys_of(data), Options(workers=1))
    assert [(f.key, f.reason) for f in made[0].failures] == [(key, "ZeroDivisionError: no such thing")]
    assert made[0].rows == 117


def test_a_broken_picture_is_a_failure_of_its_record(data, small_units):
    key = keys_of(data)[4]
    shard = next((data / "shards").glob("train*.tar"))
    image = Dataset(data).image_bytes(key)
    shard.write_bytes(shard.read_bytes().replace(image, image[:30] + bytes(len(image) - 30)))
    made = enrich(Dataset(data), [Brightness()], keys_of(data), Options(workers=1, max_failed=0.03))
    assert made[0].rows == 39
    assert "cannot be decoded" in made[0].failures[0].reason


def test_a_sidecar_of_another_making_is_left_alone(data, expected):
    run(data)
    with pytest.raises(UserError, match="made in another way; choose another folder with --out, or give --replace"):
        run(data, seed=1)
    with pytest.raises(UserError, match="of 40 other records"):
        enrich(Dataset(data), [Backwards()], keys_of(data)[:5], Options(workers=1))
    assert sidecars(data) == expected
    run(data, seed=1, replace=True)
    assert made_by(data / "negatives.parquet")["stages"][0]["seed"] == 1
    shutil.copy(data / "hard_positives.parquet", data / "negatives.parquet")
    with pytest.raises(UserError, match="is there already, made in another way"):
        run(data)


def test_stages_of_one_table_are_joined_record_by_record(data, small_units):
    """The first stage's rows were made before, and are not made again."""
    enrich(Dataset(data), [Backwards(name="first")], keys_of(data), Options(workers=1))
    first = Backwards(name="first", breaks=keys_of(data))
    enrich(Dataset(data), [first, Backwards(seed=3, name="second")], keys_of(data), Options(workers=1, replace=True))
    dataset = Dataset(data)
    for (key, caption), rows in dataset.negatives.items():
        assert [row.source for row in rows] == ["first", "second"], (key, caption)
    table = dataset._sidecar("negatives")
    order = {key: n for n, key in enumerate(keys_of(data))}
    places = [order[key] for key in table["key"].to_pylist()]
    assert places == sorted(places)


class Written(Stage):
    """A generated caption for each record, that says how many captions the record has."""

    name, table = "captions", "captions"

    def __init__(self):
        self.identity = {"method": "counting"}

    def rows(self, records, pixels):
        return [
            [GeneratedCaption(r.key, f"g{n}", "count", f"{len(r.captions)} texts", "m", "m", "p", "1")]
            for n, r in enumerate(records)
        ]


def test_later_stages_see_generated_captions_and_captions_do_not(data, small_units):
    enrich(Dataset(data), [Backwards(), Written()], keys_of(data), Options(workers=1))
    dataset = Dataset(data)
    assert {caption.text for key in keys_of(data) for caption in dataset.generated.of(key)} == {"3 texts"}
    assert len(dataset._sidecar("negatives")) == 160
    enrich(dataset, [Written()], keys_of(data), Options(workers=1, replace=True))
    assert {caption.text for key in keys_of(data) for caption in Dataset(data).generated.of(key)} == {"3 texts"}


def test_a_damaged_part_is_made_again(tmp_path):
    rows = Backwards().of(next(make_dataset(tmp_path / "d", 5).records("train")))
    parts = Parts(tmp_path / "parts", "negatives")
    for number in (0, 1):
        parts.write(number, enrich_work.units.table_of("negatives", rows), [])
    assert parts.read(1)[0].num_rows == 3
    (tmp_path / "parts" / "0000002-half.part").write_bytes(b"half")
    path = next((tmp_path / "parts").glob("0000001-*"))
    path.write_bytes(path.read_bytes()[:-3] + b"xyz")
    again = Parts(tmp_path / "parts", "negatives")
    assert 0 in again
    assert 1 not in again
    assert len(list((tmp_path / "parts").iterdir())) == 1


def test_one_command_at_a_time(data):
    with runner._alone(data), pytest.raises(UserError, match=r"in use .*making sidecars"):
        run(data)
    assert run(data)[0].rows == 120


class Suicide(Backwards):
    """Kills its process."""

    def rows(self, records, pixels):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_command_with_a_sentence(data, small_units):
    with pytest.raises(MachineError, match=r"set --workers to \d+ \(now \d+\)"):
        enrich(Dataset(data), [Suicide()], keys_of(data), Options(workers=2))


def test_units_are_a_function_of_the_number_of_keys():
    keys = [f"{n:020x}" for n in range(1000)]
    cut = units.units_of(keys, [Backwards()])
    assert [len(unit.keys) for unit in cut] == [128] * 7 + [104]
    assert [unit.number for unit in cut] == list(range(8))
    assert [key for unit in cut for key in unit.keys] == keys
    assert len(units.units_of(keys, [Backwards(), Brightness()])[0].keys) == 32
    assert np.unique([len(u.keys) for u in units.units_of([keys[0]] * 2_000_000, [Backwards()])[:-1]]).tolist() == [489]


def test_what_is_shown(data, small_units):
    for terminal in (True, False):
        console = Console(file=StringIO(), force_terminal=terminal, width=160)
        stage = Backwards(fails=keys_of(data)[:1], seed=int(terminal))
        enrich(Dataset(data), [stage], keys_of(data), Options(workers=1, replace=True, watch=Shown(console)))
        said = console.file.getvalue()
        assert "backwards: looking at the whole collection" in said
        assert "40 of 40 records, 117 rows" in said
        assert "1 failed" in said
        assert "records/s" in said


def test_options_are_checked():
    with pytest.raises(UserError, match="--max-failed"):
        Options(max_failed=2)
    with pytest.raises(UserError, match="nothing to make"):
        enrich(type("D", (), {"remote": None})(), [], ["k"])
