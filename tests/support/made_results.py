"""Results with known numbers."""

import numpy as np

from wholegrain.evaluation.result import TaskResult
from wholegrain.evaluation.statistics.rows import Rows, figures, table


def make_result(task="composition", shift=0.0, order=None):
    n = 20
    place = np.arange(n) if order is None else order
    values = {"accuracy": ((np.arange(n) + shift) % 2 < 1).astype(float)[place], "rank": (np.arange(n) + 1.0)[place]}
    kinds = [f"kind{i % 2}" for i in place]
    rows = Rows(
        [f"i{i}" for i in place], kinds, [f"k{i // 2}" for i in place], values, {"accuracy": 0.5}, {"accuracy": np.full(n, 0.4)}
    )
    return TaskResult(task, "a protocol in one sentence.", tuple(figures(rows, units={"rank": "rank"})), table(rows))
