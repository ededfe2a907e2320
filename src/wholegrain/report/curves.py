"""Curves: methods by figures at several budgets of training, over training seeds, and what each method needs to reach a level.

Every budget has its own :class:`~wholegrain.report.standings.Standings`: intervals over seeds and items, paired differences from the reference at
the same budget. The level is the reference's figure at the largest budget. What a method needs for it is read off its curve
(:mod:`wholegrain.evaluation.statistics.levels`); in the interval both the curve and the level are drawn anew, with the same seeds and items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from wholegrain.errors import UserError
from wholegrain.evaluation.statistics.compare import resampled
from wholegrain.evaluation.statistics.intervals import drawn_seeds
from wholegrain.evaluation.statistics.levels import Spent, first_reached, span, spent_at
from wholegrain.report.standings import MeanCell, Standing, Standings
from wholegrain.report.tables import Column

_ROUNDING = 1e-9  # of logarithms and back


@dataclass(frozen=True)
class Point:
    """One method at one budget.

    Attributes:
        budget: steps.
        pairs: images that were seen, each with its captions; repeated ones count again.
        seconds: of training alone, of each seed; a number that is not finite where it is not known.
        at_budget: results of each seed, and the seconds of its steps.
    """

    budget: int
    pairs: int
    seconds: Sequence[float]
    at_budget: Standing


@dataclass(frozen=True)
class Curve:
    """One method: its points, the smallest budget first."""

    name: str
    points: Sequence[Point]

    @property
    def pairs(self) -> np.ndarray:
        """``[B]`` images seen."""
        return np.array([float(point.pairs) for point in self.points])

    @property
    def seconds(self) -> np.ndarray:
        """``[S, B]`` of training."""
        return np.array([point.seconds for point in self.points], dtype=float).T


@dataclass(frozen=True)
class Needed:
    """What a method needs to reach the level in one figure.

    Attributes:
        level: the reference's figure at the largest budget.
        pairs, seconds: what it takes; seconds are ``None`` where they are not known.
        pairs_share, seconds_share: the same as a share of what the reference spends at the largest budget.
    """

    level: float
    pairs: Spent
    pairs_share: Spent
    seconds: Spent | None
    seconds_share: Spent | None


@dataclass(frozen=True)
class Curves:
    """All methods.

    Args:
        curves: of the same budgets.
        reference: the name of the method that the others are compared with.
        start: the model that all began with.

    Raises:
        UserError: two curves of one name, none of the reference's, none at all of a budget, or other budgets in one than in another.
    """

    curves: Sequence[Curve]
    reference: str
    start: Standing

    def __post_init__(self) -> None:
        budgets = {tuple(point.budget for point in curve.points) for curve in self.curves}
        if len(budgets) != 1 or () in budgets:
            raise UserError(f"Curves need the same budgets for every method; these have {sorted(budgets)}.")
        _ = self.standings  # refuses names

    @property
    def budgets(self) -> list[int]:
        """Steps, the smallest number first."""
        return [point.budget for point in self.curves[0].points]

    @cached_property
    def standings(self) -> dict[int, Standings]:
        """Budget -> the table of that budget, the starting model in its first row."""
        return {
            budget: Standings([self.start, *(curve.points[place].at_budget for curve in self.curves)], self.reference)
            for place, budget in enumerate(self.budgets)
        }

    @property
    def last(self) -> Standings:
        """At the largest budget."""
        return self.standings[self.budgets[-1]]

    @property
    def columns(self) -> list[Column]:
        """All figures that any method has."""
        return self.last.columns

    def cell(self, name: str, budget: int, column: Column) -> MeanCell | None:
        """A figure of a method at a budget."""
        return self.standings[budget].cells.get((name, column))

    def level(self, column: Column) -> float | None:
        """The reference's figure at the largest budget."""
        cell = self.cell(self.reference, self.budgets[-1], column)
        return None if cell is None else cell.mean.value

    @cached_property
    def needed(self) -> dict[tuple[str, Column], Needed]:
        """(name, column) -> what the method needs, where it and the reference have the figure over the same items."""
        found = {(curve.name, column): self._needed(curve, column) for curve in self.curves for column in self.columns}
        return {key: needed for key, needed in found.items() if needed is not None}

    def _needed(self, curve: Curve, column: Column) -> Needed | None:
        level, mine = self.level(column), [self.cell(curve.name, budget, column) for budget in self.budgets]
        means = [cell.mean.value for cell in mine if cell is not None]
        if level is None or len(means) < len(mine) or not column.better:
            return None
        begun = self.cell(self.start.name, self.budgets[-1], column)
        own = np.array([[means[n] for n in range(len(means))]])
        place = first_reached(own, np.array([level]), None if begun is None else np.array([begun.mean.value]), better=column.better)
        try:
            place_R = self._drawn_places(curve, column)
        except UserError:  # other items
            return None
        reference = next(other for other in self.curves if other.name == self.reference)
        pairs_R = spent_at(place_R, np.tile(curve.pairs, (len(place_R), 1)))
        value, whole = float(spent_at(place, curve.pairs[None])[0]), float(reference.pairs[-1])
        seconds, seconds_share = self._seconds(curve, reference, place, place_R)
        return Needed(level, span(value, pairs_R), span(value / whole, pairs_R / whole), seconds, seconds_share)

    def _drawn_places(self, curve: Curve, column: Column) -> np.ndarray:
        """Where each draw of seeds and items reaches the level of the same draw."""
        reference = next(row for row in self.last.rows if row.name == self.reference)
        like = reference.of(column.task)[0]
        level_R = resampled(reference.of(column.task), column.figure, like)
        values_BR = [resampled(point.at_budget.of(column.task), column.figure, like) for point in curve.points]
        begun = self.start.of(column.task)
        start_R = resampled(begun, column.figure, like) if begun else None
        return first_reached(np.stack(values_BR, 1), level_R, start_R, better=column.better)

    def _seconds(
        self, curve: Curve, reference: Curve, place: np.ndarray, place_R: np.ndarray
    ) -> tuple[Spent, Spent] | tuple[None, None]:
        own_SB, whole_S = curve.seconds, reference.seconds[:, -1]
        if not (np.isfinite(own_SB).all() and np.isfinite(whole_S).all() and (own_SB > 0).all() and (whole_S > 0).all()):
            return None, None
        spent_RB = drawn_seeds(len(own_SB)) @ own_SB
        seconds_R, whole_R = spent_at(place_R, spent_RB), drawn_seeds(len(whole_S)) @ whole_S
        value = float(spent_at(place, own_SB.mean(0)[None])[0])
        return span(value, seconds_R), span(value / float(whole_S.mean()), seconds_R / whole_R)

    # ---- what is found ----

    @cached_property
    def sooner(self) -> tuple[str, Column] | None:
        """Which method reaches the level of which figure with the smallest share of the pairs, if the interval leaves out equality.

        Figures over all items go before those of a kind. Figures whose level the starting model has are left out: there is nothing to be
        reached.
        """
        found = [
            ("/" in key[1].figure, needed.pairs_share.value, key)
            for key, needed in self.needed.items()
            if key[0] != self.reference and needed.pairs_share.high < 1 - _ROUNDING and min(needed.pairs.low, needed.pairs.value) > 0
        ]
        return min(found, key=lambda one: one[:2])[2] if found else None

    @property
    def headline(self) -> Column:
        """The figure that the finding is about."""
        return self.columns[0] if self.sooner is None else self.sooner[1]

    @property
    def finding(self) -> str:
        """One sentence."""
        if self.sooner is None:
            return self._no_finding()
        name, column = self.sooner
        needed = self.needed[self.sooner]
        level = f"the last value of {self.reference} in “{column.title}” ({100 * needed.level:.1f}%)"
        said = f"{name} reaches {level} with {times(needed.pairs_share, self._least(name))} of the pairs"
        return f"{said}." if needed.seconds_share is None else f"{said} and {times(needed.seconds_share)} of the seconds."

    def _least(self, name: str) -> float:
        """The smallest budget of a method, as a share of the reference's largest."""
        pairs = {curve.name: curve.pairs for curve in self.curves}
        return float(pairs[name][0] / pairs[self.reference][-1])

    def _no_finding(self) -> str:
        column, budgets = self.headline, self.budgets
        first, last = (self.cell(self.reference, budget, column) for budget in (budgets[0], budgets[-1]))
        if first is None or last is None:
            return "The methods have no figure in common."
        ends = [f"{100 * cell.mean.value:.1f}% at {budget:,} steps" for cell, budget in ((first, budgets[0]), (last, budgets[-1]))]
        goes = f"“{column.title}” of {self.reference} " + (f"goes from {ends[0]} to {ends[1]}" if len(budgets) > 1 else f"is {ends[0]}")
        if len(self.curves) == 1:
            return f"{goes}."
        return f"{goes}; in no figure does another method reach the last value of {self.reference} with fewer pairs, as far as the intervals tell."

    @property
    def note(self) -> str:
        """How to read the curves."""
        level = f"the value of {self.reference} at {self.budgets[-1]:,} steps"
        return (
            f"{self.last.note} Differences are between methods at the same budget. Needed: pairs (images seen, each with its captions) and seconds of "
            f"training to reach {level}, read off each curve, linear in the logarithm between budgets; intervals over draws of seeds and items "
            "of both curves. No interval is corrected for choosing the best of many."
        )


def times(spent: Spent, least: float = 0.0) -> str:
    """A share in words, with its interval; ``least`` is the share of the smallest budget.

    Example:
        >>> times(Spent(0.5, 0.25, float("inf")), least=0.25)
        '0.50x (0.25 to not reached)'
        >>> times(Spent(0.0, 0.0, 0.0))
        'none'
    """
    ends = [_share(end) for end in (spent.low, spent.high)]
    said = _share(spent.value) + ("x" if 0 < spent.value < np.inf else "")
    most = "at most " if least and np.isclose(spent.value, least) else ""
    return f"{most}{said}" + ("" if {*ends} == {said} else f" ({ends[0]} to {ends[1]})")


def _share(value: float) -> str:
    return "none" if value == 0 else f"{value:.2f}" if np.isfinite(value) else "not reached"
