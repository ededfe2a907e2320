"""Curves and standings with known numbers."""

import numpy as np

from wholegrain.evaluation.result import TaskResult
from wholegrain.evaluation.statistics.rows import Rows, figures, table
from wholegrain.report.curves import Curve, Curves, Point
from wholegrain.report.standings import Standing

BUDGETS, ITEMS, BATCH = (10, 20, 40), 400, 8


def hits(share, seed=0, task="zero_shot", metric="acc1"):
    """A share of the items is right: the easier ones first, in an order that the seed shifts a little."""
    items = [f"i{n}" for n in range(ITEMS)]
    right = (np.arange(ITEMS) + 7 * seed) % ITEMS < round(share * ITEMS)
    rows = Rows(items, [""] * ITEMS, items, {metric: right.astype(float)}, {metric: 0.05})
    return [TaskResult(task, "A protocol.", tuple(figures(rows)), table(rows))]


def curve(name, shares, seconds=(1.0, 2.0, 4.0), seeds=2):
    points = [
        Point(budget, budget * BATCH, [cost] * seeds, Standing(name, [hits(share, seed) for seed in range(seeds)], [0.1]))
        for budget, share, cost in zip(BUDGETS, shares, seconds, strict=True)
    ]
    return Curve(name, points)


def curves(*others, reference=(0.2, 0.4, 0.6), start=0.1):
    return Curves([curve("clip", reference), *others], "clip", Standing("start", [hits(start)]))
