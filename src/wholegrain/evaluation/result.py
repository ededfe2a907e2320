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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from wholegrain.errors import MachineError, UserError

SCHEMA = 1


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


def save_results(results: Sequence[TaskResult], folder: str | Path, meta: Mapping[str, Any] | None = None) -> Path:
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
            _aside(folder / "items" / f"{result.task}.parquet", lambda path, result=result: pq.write_table(result.items, path))
        rows = [_as_json(result, meta) for result in results]
        (folder / "clip_benchmark").mkdir(exist_ok=True)
        for row in rows:
            _write_flat(folder / "clip_benchmark" / f"{row['task']}.json", row)
        text = json.dumps({"schema": SCHEMA, "meta": meta, "results": rows}, indent=1, allow_nan=False, default=str) + "\n"
        _aside(folder / "results.json", lambda path: path.write_text(text, encoding="utf-8"))
    except OSError as error:
        problem = f"The results could not be written to {folder} ({error.strerror}); free some space or choose another folder."
        raise MachineError(problem) from error
    return folder / "results.json"


def _write_flat(path: Path, row: Mapping[str, Any]) -> None:
    # its tools join model and pretrained as text, and put each metric into a column
    flat = {name: row[name] for name in ("dataset", "model", "pretrained", "task", "metrics", "language")}
    flat |= {name: "" if flat[name] is None else str(flat[name]) for name in ("dataset", "model", "pretrained")}
    text = json.dumps(flat, allow_nan=False) + "\n"
    _aside(path, lambda place: place.write_text(text, encoding="utf-8"))


def _as_json(result: TaskResult, meta: Mapping[str, Any]) -> dict[str, Any]:
    figures = [{key: _finite(value) for key, value in asdict(figure).items()} for figure in result.figures]
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


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _aside(path: Path, write: Callable[[Path], Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load_results(folder: str | Path) -> tuple[list[TaskResult], dict[str, Any]]:
    """Reads what :func:`save_results` wrote.

    Returns:
        The results and ``meta``.

    Raises:
        UserError: when the folder holds no results, or they are damaged.
    """
    folder = Path(folder)
    path = folder / "results.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"There is no results.json in {folder}; run `wholegrain evaluate … --out {folder}` first.") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); run the evaluation again.") from error
    if document.get("schema") != SCHEMA:
        raise UserError(f"{path} has schema {document.get('schema')!r} where {SCHEMA} is expected; run the evaluation again.")
    results = []
    for row in document["results"]:
        items = folder / "items" / f"{row['task']}.parquet"
        try:
            table = pq.read_table(items)
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"{items}, which {path} names, cannot be read; run the evaluation again.") from error
        figures = tuple(Figure(**{k: _number(k, v) for k, v in figure.items()}) for figure in row["figures"])
        results.append(TaskResult(row["task"], row["protocol"], figures, table))
    return results, document["meta"]


def _number(name: str, value: Any) -> Any:
    return math.nan if value is None and name in ("value", "low", "high") else value
