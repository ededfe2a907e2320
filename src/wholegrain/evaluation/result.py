"""What an evaluation says: figures with their intervals, the protocol in one sentence, and every item behind them.

On disk a result is a folder::

    results.json          {"schema", "meta", "results": [...]}; each result keeps the keys of CLIP_benchmark's output (dataset,
                          model, pretrained, task, metrics, language) and adds split, protocol and figures
    clip_benchmark/*.json one file per result with these keys alone, as `clip_benchmark build` reads them
    items/TASK.parquet    one row per item: item, group, cluster (the image), overall (counts in the figures without a group), one
                          column per metric, and what the task kept beside it

A figure named ``GROUP/METRIC`` is the mean of the column METRIC over the rows of GROUP; one named ``METRIC`` over the rows with
``overall`` (unless its note says otherwise). So a result can be recomputed, and two systems compared item by item.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NotRequired, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from wholegrain.errors import MachineError, UserError
from wholegrain.files import aside, read_json, read_whole_parquet, sha256, write_json, write_text
from wholegrain.structure import JsonTable

SCHEMA = 1
AGAIN = "run the evaluation again"


class NotSupportedError(UserError):
    """The data set or the model lacks what a task needs. A suite leaves the task out and gives this as the reason."""


@dataclass(frozen=True)
class Figure:
    """One number with what is needed to judge it.

    Attributes:
        name: ``METRIC`` or ``GROUP/METRIC``.
        value: a share is 0..1; see ``unit``.
        low, high: 95% interval, images drawn with replacement.
        count: items that the figure is taken over.
        chance: what guessing scores on these items; ``None`` where guessing has no meaning.
        shuffled: what the same model scores when every picture is replaced by another one; ``None`` if not measured.
        unit: ``share`` (printed in per cent), ``rank``, ``points`` (a difference of shares), ``cosine``, ``ratio``.
        note: anything that a reader must know.
    """

    name: str
    value: float
    low: float
    high: float
    count: int
    chance: float | None = None
    shuffled: float | None = None
    unit: str = "share"
    note: str = ""


@dataclass(frozen=True)
class TaskResult:
    """The figures of one task, how they were made, and the items behind them.

    Attributes:
        task: ``retrieval``, ``composition``, …
        protocol: one sentence, printed beside the figures.
        figures: in the order in which they are printed.
        items: one row per item; see the module docstring.
    """

    task: str
    protocol: str
    figures: tuple[Figure, ...]
    items: pa.Table = field(repr=False)

    def figure(self, name: str) -> Figure:
        """The figure of that name; ``KeyError`` names the ones that exist."""
        for figure in self.figures:
            if figure.name == name:
                return figure
        raise KeyError(f"{self.task} has no figure {name!r}; it has {', '.join(figure.name for figure in self.figures)}")

    @property
    def metrics(self) -> dict[str, float]:
        """name -> value."""
        return {figure.name: figure.value for figure in self.figures}


def save_results(results: Sequence[TaskResult], folder: str | Path, meta: Mapping[str, object] | None = None) -> Path:
    """Writes ``results.json`` and ``items/*.parquet``; returns the path of ``results.json``.

    ``meta`` may hold ``dataset`` (``datasets``: task -> its own), ``model``, ``split``, ``seed`` and anything else that JSON can hold.
    ``results.json`` is written last, so it never names items that are not there.

    Raises:
        MachineError: when the disk refuses.
    """
    folder, meta = Path(folder), dict(meta or {})
    try:
        (folder / "items").mkdir(parents=True, exist_ok=True)
        for result in results:
            with aside(folder / "items" / f"{result.task}.parquet") as part:
                pq.write_table(result.items, part)
        rows = [{**_as_json(result, meta), "digest": sha256(folder / "items" / f"{result.task}.parquet")} for result in results]
        (folder / "clip_benchmark").mkdir(exist_ok=True)
        for row in rows:
            _write_flat(folder / "clip_benchmark" / f"{row['task']}.json", row)
        text = json.dumps({"schema": SCHEMA, "meta": meta, "results": rows}, indent=1, allow_nan=False, default=str) + "\n"
        write_text(folder / "results.json", text)
    except OSError as error:
        problem = f"The results could not be written to {folder} ({error.strerror}); free some space or choose another folder."
        raise MachineError(problem) from error
    return folder / "results.json"


def _write_flat(path: Path, row: Mapping[str, object]) -> None:
    # its tools join model and pretrained as text, and put each metric into a column
    flat = {name: row[name] for name in ("dataset", "model", "pretrained", "task", "metrics", "language")}
    flat |= {name: "" if flat[name] is None else str(flat[name]) for name in ("dataset", "model", "pretrained")}
    write_json(path, flat, indent=None)


def _as_json(result: TaskResult, meta: JsonTable) -> dict[str, object]:
    figures = [{key: finite(value) for key, value in asdict(figure).items()} for figure in result.figures]
    return {
        "dataset": meta.get("datasets", {}).get(result.task, meta.get("dataset")),
        "model": meta.get("model"),
        "pretrained": meta.get("pretrained", ""),
        "task": result.task,
        "language": meta.get("language", "en"),
        "split": meta.get("split"),
        "metrics": {figure["name"]: figure["value"] for figure in figures},
        "protocol": result.protocol,
        "figures": figures,
        "items": f"items/{result.task}.parquet",
    }


def finite(value: object) -> object:
    """A number as JSON can hold it: ``None`` for one that is not finite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


class FigureRow(TypedDict):
    """A :class:`Figure` in ``results.json``; ``None`` for what is not finite."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    count: int
    chance: NotRequired[float | None]
    shuffled: NotRequired[float | None]
    unit: NotRequired[str]
    note: NotRequired[str]


class ResultRow(TypedDict):
    """A result in ``results.json``; ``digest`` (of its items, SHA-256) is not in old ones."""

    task: str
    protocol: str
    figures: list[FigureRow]
    digest: NotRequired[str]


class Meta(TypedDict):
    """What is read of ``meta``."""

    left_out: NotRequired[dict[str, str] | None]


class Document(TypedDict):
    """``results.json``."""

    schema: int
    meta: Meta
    results: list[ResultRow]


def load_results(folder: str | Path) -> tuple[list[TaskResult], JsonTable]:
    """Reads what :func:`save_results` wrote.

    Returns:
        The results and ``meta``.

    Raises:
        UserError: when the folder holds no results, or they are damaged.
    """
    folder = Path(folder)
    path = folder / "results.json"
    if not os.path.lexists(path):
        raise UserError(f"There is no results.json in {folder}; run `wholegrain evaluate … --out {folder}` first.")
    document = read_json(path, Document, AGAIN)
    if document["schema"] != SCHEMA:
        raise UserError(f"{path} has schema {document['schema']!r} where {SCHEMA} is expected; {AGAIN}.")
    tasks = [row["task"] for row in document["results"]]
    twice = next((task for task in tasks if tasks.count(task) > 1), None)
    if twice is not None:
        raise UserError(f"{path} has two results of {twice!r}; {AGAIN}.")
    return [_result(folder, row) for row in document["results"]], dict(document["meta"])


def _result(folder: Path, row: ResultRow) -> TaskResult:
    task = row["task"]
    path, items = folder / "results.json", folder / "items" / f"{task}.parquet"
    if not task or Path(task).name != task or "\0" in task:
        raise UserError(f"{path} names a task {task[:60]!r}, which cannot be the name of a file; {AGAIN}.")
    table = read_whole_parquet(items, f"{path} names it; {AGAIN}")
    if row.get("digest") not in (None, sha256(items)):
        raise UserError(f"{items} was not written together with {path}, so its items do not match the figures; {AGAIN}.")
    figures = tuple(map(_figure, row["figures"]))
    wrong = next((figure for figure in figures if figure.count < 0 or not figure.name), None)
    if wrong is not None:
        raise UserError(f"{path}: a figure of {task} has the name {wrong.name!r} and {wrong.count} items; {AGAIN}.")
    _check_columns(table, figures, items, (*TEXTS, *TEXTS_OF.get(task, ())))
    return TaskResult(task, row["protocol"], figures, table)


def _figure(row: FigureRow) -> Figure:
    value, low, high = (math.nan if x is None else x for x in (row["value"], row["low"], row["high"]))
    chance, shuffled = row.get("chance"), row.get("shuffled")
    return Figure(row["name"], value, low, high, row["count"], chance, shuffled, row.get("unit", "share"), row.get("note", ""))


NAMES = ("item", "cluster")
TEXTS = ("item", "group", "cluster", "key0", "key1", "caption0", "caption1")
NUMBERS = ("s00", "s01", "s10", "s11", "s_true", "s_false", "group_score", "candidates", "image_retrieval_mean_rank")
"""Columns of items that others read, by kind; beside them ``overall``, and one column of numbers for each figure's metric."""
TEXTS_OF = {"negatives": ("true", "false")}
"""Task -> texts that only its own reader takes for such: a benchmark's items have lists there, segmentation counts."""


def _check_columns(table: pa.Table, figures: Sequence[Figure], path: Path, texts: Sequence[str]) -> None:
    kinds = dict.fromkeys(texts, "text") | dict.fromkeys(NUMBERS, "number") | {"overall": "truth"}
    kinds |= {name: "number" for figure in figures if (name := figure.name.rpartition("/")[2]) not in kinds}
    for name in table.column_names:
        kind, found = kinds.get(name), table.schema.field(name).type
        fine = {
            "text": pa.types.is_string(found) or pa.types.is_large_string(found) or (pa.types.is_integer(found) and name in NAMES),
            "number": pa.types.is_integer(found) or pa.types.is_floating(found) or pa.types.is_boolean(found) or pa.types.is_null(found),
            "truth": pa.types.is_boolean(found) and not table[name].null_count,
        }
        if kind is not None and (not fine[kind] or (name in (*NAMES, "group") and table[name].null_count)):
            raise UserError(f"{path} has {found} in the column {name!r}, where a {kind} is expected in every row; {AGAIN}.")


def need_columns(result: TaskResult, names: Sequence[str]) -> None:
    """Refuses items without these columns.

    Raises:
        UserError: names the first one that is missing.
    """
    missing = next((name for name in names if name not in result.items.column_names), None)
    if missing is not None:
        raise UserError(f"The items of {result.task} have no column {missing!r}; {AGAIN}.")
