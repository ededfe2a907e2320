"""The comparison tables: rows are methods, columns are figures, every cell with its interval, its control and its difference from
the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from wholegrain.errors import UserError
from wholegrain.evaluation.result import Figure
from wholegrain.evaluation.show import show
from wholegrain.evaluation.statistics.compare import compare
from wholegrain.evaluation.statistics.intervals import Difference
from wholegrain.report.entry import Entry
from wholegrain.report.words import plain

WEAK_BELOW = 0.6
"""A kind is called weak where the first row picks the right one of two captions in fewer cases than this (a half is chance)."""


_ROUNDING = 1e-9  # an end of an interval within it is zero


def signed(value: float) -> str:
    """One decimal with a sign that is as wide as a digit; nothing is "minus zero".

    Example:
        >>> signed(1.25), signed(-0.04), signed(-3)
        ('+1.2', '0.0', '−3.0')
    """
    said = f"{value:+.1f}"
    return "0.0" if said in ("+0.0", "-0.0") else said.replace("-", "−")


@dataclass(frozen=True)
class Column:
    """A figure to compare: where it is found, what it is called in plain words, and which way is better (1, -1, or 0: neither)."""

    task: str
    figure: str
    title: str
    hint: str = ""
    better: int = 1
    weak: bool = False


@dataclass(frozen=True)
class Cell:
    """One figure of one entry, ready to print.

    Attributes:
        figure: ``None`` where the entry lacks it.
        difference: from the reference, item by item; ``None`` for the reference itself or where the items differ.
        mark: ``better``, ``worse`` or "": whether the difference's 95% interval leaves out zero, and which way it points.
        best: the best value, or one that cannot be told apart from it (:func:`leaders`).
    """

    figure: Figure | None = None
    difference: Difference | None = None
    mark: str = ""
    best: bool = False

    @property
    def value(self) -> str:
        return "–" if self.figure is None else show(self.figure.value, self.figure.unit)

    @property
    def interval(self) -> str:
        f = self.figure
        return "" if f is None else f"{show(f.low, f.unit).rstrip('%')} – {show(f.high, f.unit).rstrip('%')}"

    @property
    def shuffled(self) -> str:
        return "" if self.figure is None or self.figure.shuffled is None else show(self.figure.shuffled, self.figure.unit)

    @property
    def gap(self) -> str:
        """The difference in words."""
        d = self.difference
        if d is None or self.figure is None:
            return ""
        if self.figure.unit in ("share", "points"):
            return f"{signed(100 * d.value)} points ({signed(100 * d.low)} to {signed(100 * d.high)})"
        return f"{signed(d.value)} ({signed(d.low)} to {signed(d.high)})"

    @property
    def gap_value(self) -> str:
        """The difference alone, without its interval."""
        return self.gap.split(" ")[0]

    @property
    def gap_interval(self) -> str:
        """The interval of the difference alone."""
        return self.gap.partition("(")[2].rstrip(")")


@dataclass(frozen=True)
class Comparison:
    """Rows of cells under columns, with the chance level and the count of items of each column."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    chance: Sequence[str] = field(default_factory=list)
    counts: Sequence[str] = field(default_factory=list)

    def cells(self, place: int) -> list[Cell]:
        """A column."""
        return [cells[place] for _, cells in self.rows]

    @property
    def telling(self) -> Comparison:
        """The columns in which a row differs from the reference; all where none does, or there is one row."""
        places = [place for place in range(len(self.columns)) if any(cell.mark for cell in self.cells(place))]
        places = places or list(range(len(self.columns)))
        rows = [(name, [cells[place] for place in places]) for name, cells in self.rows]
        chance, counts = ([said[place] for place in places] for said in (self.chance, self.counts))
        return Comparison(self.title, [self.columns[place] for place in places], rows, chance, counts)


_MAIN = (
    Column("retrieval", "image_retrieval_recall@1", "Caption → picture", "R@1: the right picture comes first"),
    Column("retrieval", "text_retrieval_recall@1", "Picture → caption", "R@1: a right caption comes first"),
    Column("composition", "group_score", "Pairs told apart", "both pictures and both captions of a pair: group score"),
    Column("hard_positives", "both_win", "True rewordings", "two true wordings both beat a false text"),
    Column("negatives", "accuracy", "False captions", "the caption beats an edited, false one"),
    Column("grounding", "hit_own", "Phrase on its own object", "the best patch lies on the object that is named; read-out: pooled"),
    *(
        Column("grounding", f"{way}/hit_own", f"Own object by {way.replace('_', ' ')}", f"the same, read-out: {way}")
        for way in ("token", "token_cosine", "attention", "gradient")
    ),
    Column("grounding", "hit_other", "Phrase on another object", "the best patch lies on another object: less is better", -1),
    Column("zero_shot", "acc1", "Zero-shot", "class names as captions"),
    Column("linear_probe", "acc1", "Linear probe", "a linear classifier on the image vectors"),
)


def main_comparison(entries: Sequence[Entry], reference: int = 0) -> Comparison:
    """The main figures, as far as any entry has them."""
    return comparison("Main figures", entries, [c for c in _MAIN if _anywhere(entries, c)], reference)


def kind_comparisons(entries: Sequence[Entry], reference: int = 0, weak_below: float = WEAK_BELOW) -> list[Comparison]:
    """Group scores per kind of twin, the weak kinds of the first entry first; then hard negatives per kind."""
    kinds = [(kind, _is_weak(entries[0], kind, weak_below)) for kind in _groups(entries, "composition", "group_score")]
    twins = [
        Column("composition", f"{kind}/group_score", plain(kind), "weak in the first row" if weak else "", weak=weak)
        for kind, weak in sorted(kinds, key=lambda pair: not pair[1])
    ]
    swaps = [Column("negatives", f"{kind}/accuracy", plain(kind)) for kind in _groups(entries, "negatives", "accuracy")]
    named = (("Pairs by kind: both pictures and both captions told apart", twins), ("False captions by kind: the true one wins", swaps))
    return [comparison(title, entries, columns, reference) for title, columns in named if columns]


def task_comparison(entries: Sequence[Entry], task: str) -> Comparison:
    """All figures of a task over all items."""
    return comparison(task, entries, _task_columns(entries, task, grouped=False), None)


def full_comparison(entries: Sequence[Entry], task: str) -> Comparison:
    """Every figure of a task, groups too."""
    return comparison(task, entries, _task_columns(entries, task, grouped=True), None)


def comparison(title: str, entries: Sequence[Entry], columns: Sequence[Column], reference: int | None = 0) -> Comparison:
    """Fills the table: values and, with a ``reference``, differences from the entry at that place and the best of each column."""
    by_column = [_column_cells(entries, column, reference) for column in columns]
    firsts = [next((cell.figure for cell in cells if cell.figure), None) for cells in by_column]
    rows = [(entry.name, [cells[n] for cells in by_column]) for n, entry in enumerate(entries)]
    chance = ["" if f is None or f.chance is None else show(f.chance, f.unit) for f in firsts]
    return Comparison(title, list(columns), rows, chance, ["" if f is None else f"{f.count:,}" for f in firsts])


def _column_cells(entries: Sequence[Entry], column: Column, reference: int | None) -> list[Cell]:
    found = [entry.figure(column.task, column.figure) for entry in entries]
    best = set() if reference is None else _best(entries, column, found)
    cells = []
    for place, figure in enumerate(found):
        other = None if reference in (None, place) or figure is None else entries[reference]
        gap = None if other is None else _difference(other, entries[place], column)
        mark = ""
        if gap is not None and column.better and (gap.low > _ROUNDING or gap.high < -_ROUNDING):
            mark = "better" if gap.value * column.better > 0 else "worse"
        cells.append(Cell(figure, gap, mark, place in best))
    return cells


def _best(entries: Sequence[Entry], column: Column, found: Sequence[Figure | None]) -> set[int]:
    def ends(one: int, other: int) -> tuple[float, float] | None:
        gap = _difference(entries[other], entries[one], column)
        return None if gap is None else (gap.low, gap.high)

    return leaders([None if f is None else f.value for f in found], ends, column.better)


def leaders(
    values: Sequence[float | None], ends: Callable[[int, int], tuple[float, float] | None], better: int = 1
) -> set[int]:
    """Places of the best value and of all that cannot be told apart from it; nobody leads where that would be all.

    Args:
        values: ``None`` where there is none.
        ends: the 95% interval of the paired difference of two places; ``None`` where they cannot be compared, and then nobody leads.
        better: 1 if more is better, -1 if less is, 0 if neither.

    Example:
        >>> sorted(leaders([0.5, 0.8, 0.7], lambda a, b: (-0.1, 0.3) if b == 2 else (0.1, 0.5)))
        [1, 2]
    """
    known = {place: better * value for place, value in enumerate(values) if value is not None}
    top = max(known, key=lambda place: known[place], default=None)
    found: set[int] = set()
    if top is None or not better:
        return found
    for place in known:
        gap = (0.0, 0.0) if place == top else ends(top, place)
        if gap is None:
            return set()
        if gap[0] <= _ROUNDING and gap[1] >= -_ROUNDING:
            found.add(place)
    return found if len(found) < len(known) else set()


def _difference(first: Entry, other: Entry, column: Column) -> Difference | None:
    a, b = other.result(column.task), first.result(column.task)
    if a is None or b is None:
        return None
    try:
        return compare(a, b, column.figure)
    except UserError:  # other items, or a figure that is no mean of items
        return None


def _anywhere(entries: Sequence[Entry], column: Column) -> bool:
    return any(entry.figure(column.task, column.figure) is not None for entry in entries)


def _groups(entries: Sequence[Entry], task: str, metric: str) -> list[str]:
    names = [f.name for entry in entries if (result := entry.result(task)) for f in result.figures]
    return [g for g in dict.fromkeys(n.rpartition("/")[0] for n in names if n.endswith(f"/{metric}")) if g]


def _is_weak(entry: Entry, kind: str, below: float) -> bool:
    figure = entry.figure("composition", f"{kind}/picks_caption")
    return figure is not None and figure.value < below


_LESS_IS_BETTER = ("rank", "hit_other", "iou_other", "absent_hit", "ece", "ece_adaptive")
_NO_WAY = ("tie_rate", "area", "centre_hit", "centre_iou", "blind_shorter", "blind_unigram", "confidence", "overconfidence")


def _task_columns(entries: Sequence[Entry], task: str, *, grouped: bool) -> list[Column]:
    figures = {f.name: f for entry in entries if (r := entry.result(task)) for f in r.figures}
    names = [name for name in figures if grouped or "/" not in name]
    if not grouped:  # an "expected" figure that equals the strict one says nothing, and no tie has no rate
        names = [name for name in names if not name.endswith(("_expected", "tie_rate"))]
    return [Column(task, name, plain(name), figures[name].note, _way(name)) for name in names]


def _way(name: str) -> int:
    metric = name.rpartition("/")[2]
    return 0 if metric.endswith(_NO_WAY) else -1 if metric.endswith(_LESS_IS_BETTER) else 1
