"""Stages over a data set: shared out, killed and continued, and the sidecars come out the same.

Work is cut into units of neighbouring records (``units.py``). What a unit gives is kept as a part (``parts.py``) as soon as it is there; when
all are there, the sidecar is put together in the order of the keys, written aside and renamed. So a kill at any point costs the units in
hand and nothing else, and the sidecar is a function of the data and the stages, not of processes, machines or kills.

Everything else lies in the folder ``enrich`` beside the sidecars: ``parts``, which stay, so that a sidecar of one stage more takes the work of
that stage alone; ``journal.jsonl`` with the answers of endpoints; ``failures-TABLE.jsonl``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import pyarrow as pa

from wholegrain.data.dataset import Dataset
from wholegrain.data.sidecars import SIDECARS, made_by, write_tables
from wholegrain.enrich.runner.journal import Journal
from wholegrain.enrich.runner.on_ray import connect, run_on_ray
from wholegrain.enrich.runner.parts import Parts
from wholegrain.enrich.runner.pools import run_here
from wholegrain.enrich.runner.stage import CallStage, Failure, Stage
from wholegrain.enrich.runner.units import Outcome, Unit, units_of
from wholegrain.errors import UserError
from wholegrain.files import disk_errors, sha256, write_text
from wholegrain.locks import locked

WORKPLACE = "enrich"
_FEWEST = 100  # records before a share of failures says something


class Watch(Protocol):
    """Who is told how it goes."""

    def prepare(self, stage: Stage) -> None:
        """A stage takes in what it must know of the whole collection."""

    def begin(self, stage: Stage, records: int, done: int) -> None:
        """A stage begins; so many of the records are done already."""

    def step(self, records: int, rows: int, failed: int) -> None:
        """So many records are done now, with so many rows; so many of them failed."""

    def end(self) -> None:
        """The stage has come to its end, or stops."""


class Silent:
    """Tells nobody."""

    def prepare(self, stage: Stage) -> None:
        """Does nothing."""

    def begin(self, stage: Stage, records: int, done: int) -> None:
        """Does nothing."""

    def step(self, records: int, rows: int, failed: int) -> None:
        """Does nothing."""

    def end(self) -> None:
        """Does nothing."""


@dataclass(frozen=True)
class Options:
    """How to run, none of which changes a sidecar.

    Attributes:
        workers: processes, or actors; 0 is one for each core.
        ray: the address of a Ray cluster, ``local`` for one on this machine, or empty for a pool of processes.
        gpus: of each Ray actor of a stage with a model; ``None`` is one, if the cluster has any.
        max_failed: the share of records, 0 to 1, that may fail.
        replace: put new sidecars in the place of those that were made in another way.
        watch: told how it goes.
    """

    workers: int = 0
    ray: str = ""
    gpus: float | None = None
    max_failed: float = 0.05
    replace: bool = False
    watch: Watch = field(default_factory=Silent)

    def __post_init__(self) -> None:
        if not 0 <= self.max_failed <= 1 or self.workers < 0:
            raise UserError("--max-failed must be from 0 to 1, and --workers at least 0")


@dataclass(frozen=True)
class Made:
    """What became of one table.

    Attributes:
        table: the sidecar's name.
        rows: in it.
        records: that were looked at.
        failures: what could not be done.
        new: whether anything had to be done.
    """

    table: str
    rows: int
    records: int
    failures: tuple[Failure, ...] = ()
    new: bool = True


def enrich(dataset: Dataset, stages: Sequence[Stage], keys: Sequence[str], options: Options | None = None) -> list[Made]:
    """Runs the stages and writes their sidecars into the data set's folder: generated captions first, which later stages see.

    Args:
        dataset: in a local folder. One whose sidecars are read already does not see the new ones; open it again.
        stages: those of one table are joined, for each record in this order.
        keys: of the records, in any order.

    Raises:
        UserError: a sidecar is there that was made in another way (``replace`` is off), another command is at work here, or more than the
            stated share of records failed. What is done is kept, and the same call goes on from there.
    """
    options = options or Options()
    if dataset.remote is not None:
        raise UserError(
            f"{dataset.remote.url} lies far away, and sidecars are written beside the data; copy it to this machine first."
        )
    if not stages or not keys:
        raise UserError("There is nothing to make: no stage, or no record, was chosen.")
    tables = sorted({stage.table for stage in stages}, key=("captions", "negatives", "hard_positives").index)
    if options.ray and any(stage.place != "calls" for stage in stages):
        connect(options.ray, options.workers)
    with _alone(dataset.folder):
        jobs = {table: [stage for stage in stages if stage.table == table] for table in tables}
        for table, own in jobs.items():
            _refuse_another(dataset, table, own, keys, options)
        with _journal(dataset.folder, stages):
            return [_make(Dataset(dataset.folder), table, own, keys, options) for table, own in jobs.items()]


def identity_of(dataset: Dataset, table: str, stages: Sequence[Stage], keys: Sequence[str]) -> dict[str, object]:
    """All that a sidecar depends on, as plain values: it is written into the sidecar, and another one is never taken for it."""
    captions = dataset.folder / "captions.parquet"
    seen = table != "captions" and captions.exists()
    return {
        "stages": [{"name": stage.name, **stage.identity} for stage in stages],
        "data": dataset.records_hash,
        "captions": sha256(captions) if seen else "",
        "records": len(keys),
        "keys": hashlib.sha256(" ".join(sorted(keys)).encode()).hexdigest(),
    }


def _refuse_another(dataset: Dataset, table: str, stages: Sequence[Stage], keys: Sequence[str], options: Options) -> None:
    path = dataset.folder / f"{table}.parquet"
    if options.replace or not path.exists():
        return
    made = made_by(path)
    if made is None or made.get("stages") != json.loads(json.dumps([{"name": s.name, **s.identity} for s in stages])):
        how = "in another way" if made else "by something else"
        raise UserError(f"{path} is there already, made {how}; choose another folder with --out, or give --replace.")
    if made.get("keys") != identity_of(dataset, table, stages, keys)["keys"]:
        raise UserError(
            f"{path} is there already, of {made.get('records')} other records; choose another folder with --out, or give --replace."
        )


def _make(dataset: Dataset, table: str, stages: Sequence[Stage], keys: Sequence[str], options: Options) -> Made:
    place = dataset.folder / WORKPLACE
    if table == "captions":
        dataset = _Originals(dataset)
    keys = sorted(keys, key=_order_of(dataset))
    identity = identity_of(dataset, table, stages, keys)
    listed, target = place / f"failures-{table}.jsonl", dataset.folder / f"{table}.parquet"
    if target.exists() and made_by(target) == json.loads(json.dumps(identity)) and not listed.exists():
        import pyarrow.parquet as pq

        return Made(table, pq.read_metadata(target).num_rows, len(keys), new=False)
    units = units_of(keys, stages)
    parts = []
    for stage in stages:
        parts.append(Parts(place / "parts" / _folder_name(stage, identity), table))
        _run(stage, dataset, units, parts[-1], options)
    failures = [failure for own in parts for unit in units for failure in own.counts(unit.number)[1]]
    _list(listed, table, stages, parts, units)
    rows = write_tables(dataset.folder, table, _in_order(table, parts, units), identity)
    return Made(table, rows, len(keys), tuple(failures))


def _run(stage: Stage, dataset: Dataset, units: Sequence[Unit], parts: Parts, options: Options) -> None:
    """Does those units that are not done, or had failures."""
    done = {unit.number: parts.counts(unit.number)[1] for unit in units if unit.number in parts}
    left = [unit for unit in units if done.get(unit.number, [Failure("", "")])]
    records = sum(len(unit.keys) for unit in units)
    finished = records - sum(len(unit.keys) for unit in left)
    allowed = _Allowed(options.max_failed, records)
    if left:
        options.watch.prepare(stage)
        stage.fit(dataset, [key for unit in units for key in unit.keys])
    options.watch.begin(stage, records, finished)
    try:
        size = {unit.number: len(unit.keys) for unit in left}
        for outcome in _outcomes(stage, dataset, left, options) if left else ():
            parts.write(outcome.number, outcome.table, outcome.failures)
            failed = len({failure.key for failure in outcome.failures})
            finished += size[outcome.number]
            options.watch.step(size[outcome.number], outcome.table.num_rows, failed)
            allowed.add(failed, finished, outcome.failures)
    finally:
        options.watch.end()


def _outcomes(stage: Stage, dataset: Dataset, units: Sequence[Unit], options: Options) -> Iterator[Outcome]:
    # An endpoint is asked from this process alone, on Ray, too: its journal, its budget and its limits are one.
    if options.ray and stage.place != "calls":
        return run_on_ray(stage, dataset, units, options.workers, options.gpus)
    return run_here(stage, dataset, units, options.workers)


class _Allowed:
    """Failures of a stage so far, and how many there may be."""

    def __init__(self, share: float, records: int) -> None:
        self.share, self.records, self.failed = share, records, 0

    def add(self, failed: int, finished: int, failures: Sequence[Failure]) -> None:
        """Raises :class:`UserError` when they are too many of those that were looked at (the first hundred are looked at together)."""
        self.failed += failed
        looked = max(finished, min(_FEWEST, self.records))
        if failed and self.failed > self.share * looked:
            raise UserError(
                f"{self.failed:,} of {finished:,} records failed, which is more than --max-failed {self.share:g} allows; the last one: "
                f"{failures[-1].reason.rstrip('.')} (record {failures[-1].key}); the same command goes on from here."
            )


def _in_order(table: str, parts: Sequence[Parts], units: Sequence[Unit]) -> Iterator[pa.Table]:
    """Tables of rows in the order of the keys; those of one record in the order of the stages."""
    for unit in units:
        rows = pa.concat_tables([SIDECARS[table].empty_table(), *(own.read(unit.number)[0] for own in parts)])
        if len(parts) > 1 and rows.num_rows:
            place = {key: number for number, key in enumerate(unit.keys)}
            order = np.argsort([place[key] for key in rows["key"].to_pylist()], kind="stable")
            rows = rows.take(pa.array(order))
        yield rows


def _list(path: Path, table: str, stages: Sequence[Stage], parts: Sequence[Parts], units: Iterable[Unit]) -> None:
    """Writes the failures down, or removes the list of earlier ones that succeeded now."""
    numbers = [unit.number for unit in units]
    lines = [
        json.dumps({"table": table, "stage": stage.name, "key": failure.key, "reason": failure.reason}, ensure_ascii=False)
        for stage, own in zip(stages, parts, strict=True)
        for number in numbers
        for failure in own.counts(number)[1]
    ]
    with disk_errors(path.parent):
        if not lines:
            path.unlink(missing_ok=True)
            return
        write_text(path, "".join(f"{line}\n" for line in lines))


def _folder_name(stage: Stage, identity: Mapping[str, object]) -> str:
    own = {**identity, "stages": [stage.name, stage.identity, stage.table]}
    return f"{stage.name}-{hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:16]}"


def _order_of(dataset: Dataset) -> Callable[[str], int]:
    """The place of a key in the order of the splits and their shards."""
    places = {key: number for number, key in enumerate(key for split in dataset.splits for key in dataset.keys(split))}
    return places.__getitem__


class _Originals(Dataset):
    """A data set as it was prepared: what captions are made for must not depend on the captions that were made."""

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset.folder)

    record = Dataset.original


@contextmanager
def _journal(folder: Path, stages: Sequence[Stage]) -> Iterator[None]:
    """Stages that call have one journal."""
    calling = [cast(CallStage, stage) for stage in stages if stage.place == "calls"]
    if not calling:
        yield
        return
    journal = Journal(folder / WORKPLACE / "journal.jsonl")
    for stage in calling:
        stage.keep_in(journal)
    try:
        yield
    finally:
        journal.close()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One command at a time."""
    place = folder / WORKPLACE
    with disk_errors(folder):
        place.mkdir(exist_ok=True)
    with locked(place, "making sidecars"):
        yield
