"""``enrich`` killed before every one of its file operations; captions that nobody expected."""

from __future__ import annotations

import json
import os
import time

import pytest
from enrich_work import Backwards, Brightness
from every_file_operation import outcomes, tree
from tiny_training import make_dataset

from wholegrain.data.dataset import Dataset
from wholegrain.data.record import Caption, Record, caption_id
from wholegrain.enrich.hard_positives import HardPositivesStage
from wholegrain.enrich.negatives.negated_captions import NegatedCaptionsStage
from wholegrain.enrich.negatives.negclip import NegClipStage
from wholegrain.enrich.negatives.word_rules import NegativesStage
from wholegrain.enrich.runner import units
from wholegrain.enrich.runner.journal import Answer, Journal, call_id
from wholegrain.enrich.runner.run import Options, enrich
from wholegrain.errors import UserError

POINTS = None if "POINTS" in os.environ else "kinds"  # POINTS=all: every operation


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
    for name in ("SMALLEST", "SMALLEST_WITH_A_MODEL"):
        monkeypatch.setattr(units, name, 4)


def make(place):
    folder = place / "d"
    make_dataset(folder, 9, splits=("train",))
    (folder / "negatives.parquet").unlink()


def run(place, **options):
    dataset = Dataset(place / "d")
    stages = [Backwards(), Brightness()]
    return enrich(dataset, stages, dataset.keys("train"), Options(workers=1, **options))


def files(place):
    """Everything but the lock, which has the number of a process in it."""
    return {name: data for name, data in tree(place).items() if not name.endswith(".lock")}


@pytest.mark.slow
def test_a_kill_before_any_file_operation_changes_no_byte(tmp_path):
    for outcome in outcomes(run, tmp_path, begin=make, read=files, points=POINTS):
        outcome.check()


def test_two_undisturbed_runs_give_equal_bytes(tmp_path):
    for name in ("one", "two"):
        make(tmp_path / name)
        run(tmp_path / name)
    assert files(tmp_path / "one") == files(tmp_path / "two")


WORDS = "a red dog and a black cat sit on the left of two big wooden tables near a man in a blue shirt "
STRANGE = {
    "ten thousand words": WORDS * 500,
    "a megabyte of one letter": "x" * 2**20,
    "a megabyte of words": "two red dogs " * (2**20 // 13),
    "just short enough": (WORDS * 30)[:2000],
    "signs": "!?,." * 5000,
    "Chinese": "一只红色的狗坐在桌子上。" * 50,
    "Arabic and Hebrew": "كلب أحمر على الطاولة כלב אדום על השולחן",
    "emoji": "🐶🐱 a dog 👩‍👩‍👧‍👦 and a cat",
    "one sign": ".",
    "a NUL": "a red dog\0 and a black cat",
}


@pytest.mark.parametrize("what", STRANGE)
@pytest.mark.parametrize("stage", [NegativesStage, HardPositivesStage, NegClipStage, NegatedCaptionsStage])
def test_strange_captions_take_no_time(stage, what):
    texts = (STRANGE[what], "two red dogs sit on a table", "two red dogs sit on a table")
    captions = tuple(Caption(caption_id(text), text) for text in texts)
    record, made = Record("a" * 20, "a.jpg", (8, 8), captions=captions), stage()
    made.rows([Record("b" * 20, "b.jpg", (8, 8), captions=captions[1:])], [None])  # reads its word lists
    began = time.process_time()
    if isinstance(made, NegativesStage | HardPositivesStage):
        getattr(made, "negatives", made).fit_records([record])
    made.rows([record], [None])
    assert time.process_time() - began < 5


def test_many_captions_of_one_picture_take_little_time():
    texts = [f"{n} red dogs and {n} black cats sit on table {n}" for n in range(3000)]
    record = Record("a" * 20, "a.jpg", (8, 8), captions=tuple(Caption(caption_id(text), text) for text in texts))
    began = time.process_time()
    NegativesStage().rows([record], [None])
    assert time.process_time() - began < 5


LINES = (
    '{"call": 1}',
    "[]",
    "null",
    "[" * 100_000,
    '{"call": "zz", "tokens_in": 1, "tokens_out": 1}',
    '{"call": "%s", "tokens_in": 1e999, "tokens_out": 1}',
    '{"call": "%s", "tokens_in": 1, "tokens_out": 2, "text": null}',
    '{"call": "%s", "tokens_in": 1, "tokens_out": 2, "text": "x"}',
)


@pytest.mark.parametrize("line", LINES)
def test_a_damaged_line_of_the_journal_costs_its_own_answer(tmp_path, line):
    first, second = call_id({"n": 1}), call_id({"n": 2})
    journal = Journal(tmp_path / "journal.jsonl")
    journal.keep(first, Answer("a dog", "stop", 3, 4), {})
    journal.close()
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write(line.replace("%s", second) + "\n")
    journal = Journal(tmp_path / "journal.jsonl")
    assert journal.get(first) == Answer("a dog", "stop", 3, 4)
    assert journal.get(second) is None
    journal.close()


@pytest.mark.parametrize("made", [[], {}, {"stages": 1}, {"stages": [], "keys": None}, "x", None])
def test_a_sidecar_that_says_nonsense_of_itself_is_refused(tmp_path, made):
    from wholegrain.data.sidecars import table_of, write_tables

    make(tmp_path)
    write_tables(tmp_path / "d", "negatives", [table_of("negatives", [])], made)
    with pytest.raises(UserError, match="--replace"):
        run(tmp_path)
    run(tmp_path, replace=True)


def test_a_damaged_part_is_made_again(tmp_path):
    make(tmp_path)
    run(tmp_path)
    whole = files(tmp_path)
    parts = sorted((tmp_path / "d" / "enrich" / "parts").rglob("*.parquet"))
    parts[0].write_bytes(parts[0].read_bytes()[:-5])
    parts[1].unlink()
    parts[1].mkdir()
    (tmp_path / "d" / "negatives.parquet").unlink()
    (tmp_path / "d" / "hard_positives.parquet").unlink()
    run(tmp_path)
    assert files(tmp_path) == whole
    assert json.loads((tmp_path / "d" / "manifest.json").read_text())["schema"] == 1
