"""The summary in plain words: what was compared, on what, at what cost, and what can be said of the outcome."""

from __future__ import annotations

from collections.abc import Sequence

from wholegrain.data.record import HardPositive, Twin
from wholegrain.evaluation.contract import EvaluatedData
from wholegrain.evaluation.show import show
from wholegrain.report.entry import Entry
from wholegrain.report.tables import Cell, Column, Comparison


def finding(comparisons: Sequence[Comparison], reference: int = 0) -> str:
    """What was found, in one sentence: the last entry's largest gain on the reference and its largest loss, or its best and weakest figure."""
    rows = comparisons[0].rows if comparisons else ()
    if not rows:
        return "Nothing could be compared."
    place = _last(comparisons[0], reference)
    if place == reference:
        return _alone(comparisons)
    parts = []
    for mark, verb in (("better", "gains most at"), ("worse", "loses most at")):
        column = largest(comparisons, mark, reference)
        if column is not None:
            before, after = (cell.value for cell in _cells(comparisons, column, (reference, place)))
            parts.append(f"{verb} {_title(column)} ({before} → {after})")
    if not parts:
        return f"{rows[place][0]} cannot be told apart from {rows[reference][0]} in any figure."
    return f"Against {rows[reference][0]}, {rows[place][0]} {' and '.join(parts)}."


def largest(comparisons: Sequence[Comparison], mark: str, reference: int = 0) -> Column | None:
    """The share in which the last entry is most clearly ``better`` or ``worse`` than the reference; ``None`` if there is none."""
    found = []
    for comparison in comparisons:
        place = _last(comparison, reference)
        for n, column in enumerate(comparison.columns):
            cell, figure = comparison.rows[place][1][n], comparison.rows[place][1][n].figure
            if cell.mark == mark and cell.difference is not None and figure is not None and figure.unit == "share":
                found.append((abs(cell.difference.value), column))
    return max(found, key=lambda pair: pair[0])[1] if found else None


def _last(comparison: Comparison, reference: int) -> int:
    return len(comparison.rows) - 1 if reference != len(comparison.rows) - 1 else 0


def _cells(comparisons: Sequence[Comparison], column: Column, places: Sequence[int]) -> list[Cell]:
    comparison = next(c for c in comparisons if column in c.columns)
    return [comparison.rows[place][1][comparison.columns.index(column)] for place in places]


def _alone(comparisons: Sequence[Comparison]) -> str:
    name = comparisons[0].rows[0][0]
    found = [
        (cell.figure.value, column, cell)
        for comparison in comparisons
        for column, cell in zip(comparison.columns, comparison.rows[0][1], strict=True)
        if cell.figure is not None and cell.figure.unit == "share" and column.better > 0
    ]
    if not found:
        return f"{name} has no figure that is a share."
    (_, low, least), (_, high, most) = (pick(found, key=lambda row: row[0]) for pick in (min, max))
    chance = least.figure.chance if least.figure is not None else None
    by = "" if chance is None else f", chance {show(chance, 'share')}"
    return f"{name} is best at {_title(high)} ({most.value}) and weakest at {_title(low)} ({least.value}{by})."


def _title(column: Column) -> str:
    return f"“{column.title[0].lower()}{column.title[1:]}”"


def summary(
    entries: Sequence[Entry], dataset: EvaluatedData, split: str, comparisons: Sequence[Comparison], reference: int = 0
) -> list[str]:
    """Sentences, the most important first."""
    return [
        _what(entries, dataset, split),
        _cost(entries),
        *(_outcome(n, entry, entries[reference], comparisons) for n, entry in enumerate(entries) if n != reference),
        *_warnings(entries),
    ]


def _what(entries: Sequence[Entry], dataset: EvaluatedData, split: str) -> str:
    names = _list([entry.name for entry in entries])
    keys = dataset.keys(split)
    extra = [f"{len(rows):,} {what}" for what, rows in _items(dataset, split).items() if rows]
    more = f", with {_list(extra)}" if extra else ""
    verb = "is measured" if len(entries) == 1 else "are compared"
    folder = getattr(dataset, "folder", None)
    where = f" of {folder.resolve().name}" if folder is not None else ""
    return f"{names} {verb} on the split “{split}”{where}: {len(keys):,} pictures{more}."


def _items(dataset: EvaluatedData, split: str) -> dict[str, list[Twin] | list[HardPositive]]:
    twins = [item for item in dataset.twins if item.split == split]
    positives = [item for item in dataset.hard_positives if item.split == split]
    return {"twins (two pictures and two captions that differ in one fact)": twins, "hard positives": positives}


def _cost(entries: Sequence[Entry]) -> str:
    told = [entry for entry in entries if entry.history.images]
    if not told:
        return "No entry has a run's folder, so nothing is known of the training."
    parts = [f"{entry.name} {entry.history.step_count:,} steps of {entry.history.batch:,} images" for entry in told]
    seen = {(entry.history.step_count, entry.history.batch) for entry in told}
    if len(seen) == 1 and len(told) > 1:
        steps, batch = next(iter(seen))
        who = "All" if len(told) == len(entries) else _list([entry.name for entry in told])
        said = f"{who} were trained on equally many images: {steps:,} steps of {batch:,}, {told[0].history.images:,} images"
    elif len(told) == 1:
        said = f"Training: {parts[0]}"
    else:
        said = f"They were not trained on equally many images: {_list(parts)}"
    seeds = _list(sorted({str(entry.history.seed) for entry in told if entry.history.seed is not None}))
    return f"{said}{f'; seed {seeds}' if seeds else ''}."


def _outcome(place: int, entry: Entry, other: Entry, comparisons: Sequence[Comparison]) -> str:
    sides: dict[str, list[str]] = {"better": [], "worse": []}
    compared = 0
    for comparison in comparisons:
        for number, column in enumerate(comparison.columns):
            cell = comparison.rows[place][1][number]
            compared += cell.difference is not None
            if cell.mark:
                kind = "" if comparison.title == "Main figures" else f" ({comparison.title.split(':')[0].lower()})"
                sides[cell.mark].append(f"{column.title[0].lower()}{column.title[1:]}{kind} {cell.gap}")
    if not compared:
        return f"{entry.name} and {other.name} share no items, so nothing can be said of their difference."
    said = [f"{mark} at {_list(found, 6)}" for mark, found in sides.items() if found]
    if not said:
        return f"{entry.name} cannot be told apart from {other.name} in any of {compared} figures."
    count = len(sides["better"]) + len(sides["worse"])
    return f"Compared with {other.name}, {entry.name} is {'; '.join(said)}. In {compared - count} of {compared} figures they cannot be told apart."


def _warnings(entries: Sequence[Entry]) -> list[str]:
    if len(entries) < 2:
        return []
    said = [
        "The intervals are over pictures, not over training seeds, and are not corrected for the number of figures: one in twenty "
        "equal figures would be marked as different."
    ]
    hashes = {entry.history.facts["data_hash"] for entry in entries if "data_hash" in entry.history.facts}
    if len(hashes) > 1:
        said.append(
            "The runs were trained on different data (their data hashes differ), so not all of a difference is the method's."
        )
    return said


def _list(names: Sequence[str], most: int = 99) -> str:
    """The names in a row; beyond ``most`` they are counted.

    Example:
        >>> _list(["a", "b", "c"]), _list(["a", "b", "c", "d"], 2)
        ('a, b and c', 'a, b and 2 more')
    """
    if len(names) > most:
        names = [*names[:most], f"{len(names) - most} more"]
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names)
