"""A unit of work: some neighbouring records through one stage. The same function wherever it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from wholegrain.data.dataset import BrokenImageError, Dataset
from wholegrain.data.record import Record
from wholegrain.data.sidecars import table_of
from wholegrain.enrich.runner.stage import Failure, Picture, Rows, Stage
from wholegrain.errors import MachineError, UserError

SMALLEST = 128  # records
SMALLEST_WITH_A_MODEL = 32
_MOST = 4096  # units, if they need not become larger than this many records for it


@dataclass(frozen=True)
class Unit:
    """Records by their keys; ``number`` is the place of the unit in the order of all."""

    number: int
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """What a unit gave: rows of the stage's sidecar in the order of the records, and what could not be done."""

    number: int
    table: pa.Table
    failures: tuple[Failure, ...]


def units_of(keys: Sequence[str], stages: Sequence[Stage]) -> list[Unit]:
    """Cuts the work into units: a function of the keys' number and the kind of stages, not of who does it."""
    smallest = SMALLEST if all(stage.place == "cores" for stage in stages) else SMALLEST_WITH_A_MODEL
    size = min(max(smallest, -(-len(keys) // _MOST)), _MOST)
    return [Unit(number, tuple(keys[start : start + size])) for number, start in enumerate(range(0, len(keys), size))]


def run_unit(stage: Stage, dataset: Dataset, unit: Unit) -> Outcome:
    """Reads the records of a unit and makes their rows. Only errors that all units would meet are raised."""
    records: list[Record] = []
    pictures: list[Picture] = []
    broken: dict[str, Failure] = {}
    for key in unit.keys:
        try:
            record, picture = dataset.record(key), _picture(stage, dataset, key)
        except BrokenImageError as error:
            broken[key] = Failure(key, str(error))
            continue
        records.append(record)
        pictures.append(picture)
    made = dict(zip((record.key for record in records), _made(stage, records, pictures), strict=True))
    rows, failures = [], []
    for key in unit.keys:
        found = broken.get(key) or made[key]
        for entry in [found] if isinstance(found, Failure) else found:
            (failures if isinstance(entry, Failure) else rows).append(entry)
    return Outcome(unit.number, table_of(stage.table, rows), tuple(failures))


def _picture(stage: Stage, dataset: Dataset, key: str) -> Picture:
    if stage.looks == "no":
        return None
    return dataset.pixels(key) if stage.looks == "pixels" else dataset.image_bytes(key)


def _made(stage: Stage, records: list[Record], pictures: Sequence[Picture]) -> list[Rows | Failure]:
    """The stage's rows. Should it break on one record, the others are done one by one, and that one is a failure."""
    if not records:
        return []
    try:
        made = stage.rows(records, pictures)
    except (UserError, MachineError, MemoryError):
        raise
    except Exception as error:
        if len(records) > 1:
            return [_made(stage, [record], [picture])[0] for record, picture in zip(records, pictures, strict=True)]
        return [Failure(records[0].key, f"{type(error).__name__}: {error}".splitlines()[0])]
    if len(made) != len(records):
        raise ValueError(f"the stage {stage.name!r} gave {len(made)} entries for {len(records)} records")
    return made
