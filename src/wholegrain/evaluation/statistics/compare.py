"""Two systems on the same items: the paired difference of any figure, from the items that the results keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wholegrain.errors import UserError
from wholegrain.evaluation.result import TaskResult, need_columns
from wholegrain.evaluation.statistics.intervals import Difference, bootstrap_over_seeds, drawn_means, paired_difference


def figure_items(result: TaskResult, name: str) -> tuple[list[str], list[str], np.ndarray]:
    """The items behind the figure ``name``: their ids (with the group), their images, their values ``[N]``.

    Raises:
        UserError: when no item holds such a value; a median, say, is no mean of items.
    """
    rows = figure_rows(result, name)
    ids = [f"{g}|{item}" for g, item in zip(rows["group"].to_pylist(), rows["item"].to_pylist(), strict=True)]
    return ids, rows["cluster"].to_pylist(), rows["value"].to_numpy()


def figure_rows(result: TaskResult, name: str) -> pa.Table:
    """The items behind a figure as a table: ``item``, ``group``, ``cluster`` and ``value``, a finite float64; where only values are wanted.

    Raises:
        UserError: as of :func:`figure_items`.
    """
    group, _, metric = name.rpartition("/")
    if metric not in result.items.column_names:
        raise UserError(
            f"The figure {name!r} of {result.task} is not a mean over items, so it cannot be compared so; choose another."
        )
    need_columns(result, ("item", "group", "cluster", "overall"))
    rows = result.items.select(["item", "group", "cluster", "overall", metric])
    rows = rows.filter(pc.field("group") == group if group else pc.field("overall"))
    values_N = rows[metric].to_numpy().astype(np.float64)
    rows = rows.select(["item", "group", "cluster"]).append_column("value", pa.array(values_N))
    return rows.filter(pa.array(np.isfinite(values_N)))


def compare(a: TaskResult, b: TaskResult, name: str, *, seed: int = 0) -> Difference:
    """System a minus system b in the figure ``name``, paired item by item, images as clusters.

    Raises:
        UserError: when the two results are not over the same items.
    """
    ids, clusters, values = figure_items(a, name)
    return paired_difference(values, _in_order(b, name, ids), clusters, seed=seed)


@dataclass(frozen=True)
class Mean:
    """A figure over several training seeds.

    Attributes:
        value, low, high: the mean over seeds, and its 95% interval over seeds and images.
        by_seed: the figure of each seed.
    """

    value: float
    low: float
    high: float
    by_seed: tuple[float, ...]


def mean_over_seeds(results: Sequence[TaskResult], name: str, minus: Sequence[TaskResult] = (), *, seed: int = 0) -> Mean:
    """The figure ``name`` over the results of one method's seeds; with ``minus``, the paired difference from another method's.

    Args:
        results: one per training seed, over the same items.
        minus: the other method's results, seed by seed.

    Raises:
        UserError: when the results are not over the same items, or the figure is no mean of items.
    """
    ids, clusters, _ = figure_items(results[0], name)
    values_SN = np.stack([_in_order(result, name, ids) for result in results])
    if minus:
        values_SN = values_SN - np.stack([_in_order(result, name, ids) for result in minus])
    low, high = bootstrap_over_seeds(values_SN, clusters, seed=seed)
    return Mean(float(values_SN.mean()), low, high, tuple(values_SN.mean(1).tolist()))


def resampled(results: Sequence[TaskResult], name: str, like: TaskResult, *, seed: int = 0) -> np.ndarray:
    """The figure ``name`` under draws of seeds and images, ``[resamples]``: the same draws for all results over the items of ``like``.

    Args:
        results: one per training seed.

    Raises:
        UserError: the items are not those of ``like``.
    """
    ids, clusters, _ = figure_items(like, name)
    return drawn_means(np.stack([_in_order(result, name, ids) for result in results]), clusters, seed=seed)


def _in_order(result: TaskResult, name: str, ids: Sequence[str]) -> np.ndarray:
    found, _, values = figure_items(result, name)
    place = {item: n for n, item in enumerate(found)}
    if set(place) != set(ids) or len(found) != len(ids) or not ids:
        raise UserError(f"The results of {result.task} do not hold the same items for {name!r}; evaluate all on the same data.")
    return values[[place[item] for item in ids]]
