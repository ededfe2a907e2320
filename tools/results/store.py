"""A competition's results item by item in one small file: what its curves, tables and intervals are computed from again.

One table a task, a row for each item of each run, the runs innermost: so most columns repeat themselves, and a hundred runs take a few
megabytes. Maps, texts and scores, which the runs' own results hold, are left out.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise, product
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from wholegrain.errors import UserError
from wholegrain.evaluation.result import Figure, TaskResult, load_results
from wholegrain.evaluation.statistics.compare import figure_rows
from wholegrain.training.checkpoints.run_folder import read_recipe
from wholegrain.workflows.competition import seconds_of_steps

KEPT = re.compile(r".*recall@1|group_score|picks_caption|both_win|hit_own|hit_other|hit|specialisation|accuracy")
"""Metrics that are kept."""
START = "start"


@dataclass(frozen=True)
class Run:
    """One run of a competition: where it is from, what it took, and its results."""

    method: str
    seed: int
    budget: int
    batch: int
    seconds: float
    results: Sequence[TaskResult]


@dataclass(frozen=True)
class Stored:
    """A competition as it is kept.

    Attributes:
        facts: command, machine, versions, data (its hash), date, commit; one after the other where runs were added later.
        reference: the method that the others are compared with.
        runs: of all methods, seeds and budgets; the starting model's as method ``start`` of budget 0.
    """

    facts: Sequence[dict[str, Any]]
    reference: str
    runs: Sequence[Run]


def collect(folders: Sequence[Path], split: str, reference: str, facts: Sequence[dict[str, Any]]) -> Stored:
    """Reads the folders of a competition (``METHOD-SEED/steps-BUDGET/SPLIT``), one or, where its seeds ran side by side, several."""
    runs = [Run(START, 0, 0, 0, 0.0, load_results(folders[0] / START / split)[0])]
    for results in sorted((path for folder in folders for path in folder.glob(f"*/steps-*/{split}/results.json")), key=_order):
        run = results.parent.parent
        method, _, seed = run.parent.name.rpartition("-")
        budget, seconds = int(run.name.removeprefix("steps-")), seconds_of_steps(run)
        whole = sum(seconds) * budget / len(seconds)
        runs.append(Run(method, int(seed), budget, read_recipe(run).optimiser.batch, whole, load_results(results.parent)[0]))
    return Stored(facts, reference, runs)


def added(kept: Stored, new: Stored) -> Stored:
    """What is kept with further runs; a run of the same method, seed and budget is replaced, and a command of which no run is left goes.

    Raises:
        UserError: they were measured on other data or compared with another method.
    """
    for what, one, other in (
        ("the data", kept.facts[0]["data"], new.facts[0]["data"]), ("the reference", kept.reference, new.reference)
    ):  # fmt: skip
        if one != other:
            raise UserError(f"{what} of the kept competition is {one}, of the new runs {other}; keep them under another name")
    again = {(run.method, run.seed, run.budget) for run in new.runs}
    left = [run for run in kept.runs if (run.method, run.seed, run.budget) not in again]
    there = [made for made in kept.facts if not (named := _runs_named(str(made["command"]))) or named - again]
    facts = [*there, *(made for made in new.facts if made not in there)]
    return Stored(facts, kept.reference, sorted([*left, *new.runs], key=lambda run: (run.method != START, run.method, run.seed, run.budget)))


def _runs_named(command: str) -> set[tuple[str, int, int]]:
    """Method, seed and budget of the runs that a ``wholegrain compete`` makes; none of another command."""
    words = shlex.split(command)
    if words[:2] != ["wholegrain", "compete"]:
        return set()
    options = [n for n, word in enumerate(words) if word.startswith("--")]
    values = {words[n]: words[n + 1 : end] for n, end in pairwise([*options, len(words)])}
    methods = [Path(method).stem for method in words[2 : options[0]]]
    return set(product(methods, map(int, values["--seeds"]), map(int, values["--budgets"])))


def _order(path: Path) -> tuple[str, int]:
    run = path.parent.parent
    return run.parent.name, int(run.name.removeprefix("steps-"))


def save(stored: Stored, folder: Path) -> Path:
    """Writes ``FOLDER/competition.json`` and a table of items for each task; gives the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tasks = {}
    for task in dict.fromkeys(result.task for run in stored.runs for result in run.results):
        found = {n: result for n, run in enumerate(stored.runs) for result in run.results if result.task == task}
        items = pa.concat_tables([_kept(result, n) for n, result in found.items()], promote_options="permissive")
        items = items.sort_by([("place", "ascending"), ("run", "ascending")]).drop_columns(["place"])
        pq.write_table(items, folder / f"{task}.parquet", compression="zstd", compression_level=19)
        figures = {f.name: {"count": f.count, "chance": f.chance, "unit": f.unit} for result in found.values() for f in result.figures}
        tasks[task] = {"protocol": next(iter(found.values())).protocol, "figures": figures}
    runs = [{f.name: getattr(run, f.name) for f in fields(run) if f.name != "results"} for run in stored.runs]
    document = {"facts": list(stored.facts), "reference": stored.reference, "runs": runs, "tasks": tasks}
    (folder / "competition.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return folder


def _kept(result: TaskResult, run: int) -> pa.Table:
    items = result.items
    columns = {name: items[name].combine_chunks().cast(pa.string()).dictionary_encode() for name in ("item", "group", "cluster")}
    values = {name: items[name].cast(pa.float32()) for name in items.column_names if KEPT.fullmatch(name)}
    count = len(items)
    own = {"run": pa.array([run] * count, pa.int16()), "place": pa.array(range(count), pa.int32())}
    return pa.table({**own, **columns, "overall": items["overall"], **values})


def load(folder: Path) -> Stored:
    """What :func:`save` wrote, with figures computed from their items."""
    document = json.loads((folder / "competition.json").read_text(encoding="utf-8"))
    tables = {task: pq.read_table(folder / f"{task}.parquet") for task in document["tasks"]}
    runs = []
    for number, facts in enumerate(document["runs"]):
        own = {task: table.filter(pc.field("run") == number) for task, table in tables.items()}
        results = [_result(task, items, document["tasks"][task]) for task, items in own.items() if len(items)]
        runs.append(Run(**facts, results=results))
    return Stored(document["facts"], document["reference"], runs)


def _result(task: str, items: pa.Table, about: dict[str, Any]) -> TaskResult:
    there = [name for name in items.column_names if items[name].null_count < len(items)]
    bare = TaskResult(task, about["protocol"], (), items.select(there))
    figures = []
    for name, facts in about["figures"].items():
        values_N = figure_rows(bare, name)["value"].to_numpy() if name.rpartition("/")[2] in there else np.zeros(0)
        if len(values_N):
            figures.append(Figure(name, float(values_N.mean()), nan, nan, facts["count"], facts["chance"], unit=facts["unit"]))
    return TaskResult(task, about["protocol"], tuple(figures), bare.items)
