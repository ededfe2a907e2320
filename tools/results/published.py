"""The published figures as the package ships them, for charts in which a reader's own run stands among them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from results.measure import Comparison, Measure
from wholegrain.report.published import Published, PublishedCurve, PublishedFigure
from wholegrain.report.words import plain

BATCH = 128
DIGITS = 4  # of a share


def published(comparison: Comparison, measures: list[Measure]) -> Published:
    """Mean and interval of every method at every budget."""
    pairs = [BATCH * budget for budget in comparison.budgets]
    return Published(comparison.stored.facts[0]["data"], comparison.seeds, pairs, [_figure(comparison, measure) for measure in measures])


def _figure(comparison: Comparison, measure: Measure) -> PublishedFigure:
    curves = {}
    for method in comparison.methods:
        means = [comparison.mean(method, budget, measure) for budget in comparison.budgets]
        known = [mean for mean in means if mean is not None]
        if len(known) == len(means):
            points = [[round(x, DIGITS) for x in (mean.value, mean.low, mean.high)] for mean in known]
            curves[method] = PublishedCurve(measure.of(method), points)
    chance = comparison.chance(comparison.stored.reference, comparison.budgets[-1], measure)
    title = plain(measure.figure) if measure.task == "composition" else measure.title  # as the report's other charts say it
    return PublishedFigure(title, measure.task, chance, curves)


def write(path: Path, found: Published) -> Path:
    """As JSON; gives the path."""
    path.write_text(json.dumps(asdict(found)) + "\n", encoding="utf-8")
    return path
