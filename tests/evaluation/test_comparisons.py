"""Comparing results over a suite: Holm's rule, pairing, and what cannot be compared is said."""

from __future__ import annotations

import json

import numpy as np
import pytest

from wholegrain.cli.compare import compare as command
from wholegrain.errors import UserError
from wholegrain.evaluation.result import TaskResult, save_results
from wholegrain.evaluation.statistics.comparisons import compare_all, holm
from wholegrain.evaluation.statistics.rows import Rows, figures, table


def result(task: str, hits: np.ndarray, names=None) -> TaskResult:
    items = [f"i{n}" for n in range(len(hits))] if names is None else names
    rows = Rows(items, [""] * len(hits), items, {"acc1": hits.astype(float), "tie_rate": np.zeros(len(hits))}, {}, {})
    return TaskResult(task, "", tuple(figures(rows)), table(rows))


def many(task, names, items):
    rows = Rows(list(items), [""] * len(items), list(items), {name: np.ones(len(items)) for name in names})
    return TaskResult(task, "", tuple(figures(rows)), table(rows))


def test_holm_against_its_definition():
    rng = np.random.default_rng(0)
    for _ in range(20):
        p = rng.random(6) ** 3
        order = np.argsort(p)
        expected = np.empty(6)
        for rank, n in enumerate(order):
            expected[n] = min(1.0, max((6 - r) * p[order[r]] for r in range(rank + 1)))
        assert np.allclose(holm(p), expected)
    assert holm([]).tolist() == []


def test_a_true_difference_stays_and_luck_goes():
    rng = np.random.default_rng(1)
    mine = {f"task{n}": rng.integers(0, 2, 200) for n in range(30)}
    theirs = {task: rng.integers(0, 2, 200) for task in mine}
    theirs["task0"] = np.ones(200)
    rows, problems = compare_all({"a": [result(t, x) for t, x in mine.items()], "b": [result(t, x) for t, x in theirs.items()]})
    assert len(rows) == 30  # tie rates are left out
    assert [row.task for row in rows if row.clear] == ["task0"]
    assert sum(row.difference.p < 0.05 for row in rows) >= 1
    assert rows[0].difference.value == pytest.approx(1 - mine["task0"].mean())
    assert problems == []


def test_other_items_and_missing_tasks_are_named():
    ones = np.ones(3)
    rows, problems = compare_all(
        {
            "a": [result("x", ones), result("y", ones), result("z", ones)],
            "b": [result("x", ones), result("y", ones, ["p", "q", "r"])],
        }
    )
    assert [row.task for row in rows] == ["x"]
    assert rows[0].p == 1.0
    assert any("same items" in problem for problem in problems)
    assert any("no results of z" in problem for problem in problems)
    names = [f"metric{n}" for n in range(29)]
    rows, problems = compare_all({"a": [many("w", names, "abc")], "b": [many("w", names, "xyz"), result("x", ones)]} | {"c": [many("w", names, "abc")]})
    assert len(rows) == 29
    assert len(problems) == 1
    assert "28 more figures" in problems[0]
    with pytest.raises(UserError, match="Nothing could be compared"):
        compare_all({"a": [result("x", ones)], "b": []})


def test_the_command_reads_folders_and_writes_numbers(tmp_path, capsys):
    for name, hits in (("one", np.zeros(40)), ("two", np.ones(40))):
        save_results([result("x", hits)], tmp_path / name)
    command((str(tmp_path / "one"), str(tmp_path / "two")), out=tmp_path / "gaps.json")
    assert "+100.0" in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "gaps.json").read_text())["differences"]
    assert (row["name"], row["difference"]["value"]) == ("two", 1.0)
    with pytest.raises(UserError, match="two runs or folders"):
        command((str(tmp_path / "one"),))
