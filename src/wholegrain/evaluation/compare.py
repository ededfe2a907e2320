"""Two systems on the same items: the paired difference of any figure, from the items that the results keep."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from wholegrain.errors import UserError
from wholegrain.evaluation.intervals import Difference, paired_difference
from wholegrain.evaluation.result import TaskResult


def figure_items(result: TaskResult, name: str) -> tuple[list[str], list[str], np.ndarray]:
    """The items behind the figure ``name``: their ids (with the group), their images, their values ``[N]``.

    Raises:
        UserError: when no item holds such a value; a median, say, is no mean of items.
    """
    group, _, metric = name.rpartition("/")
    if metric not in result.items.column_names:
        raise UserError(
            f"The figure {name!r} of {result.task} is not a mean over items, so it cannot be compared so; choose another."
        )
    inside = np.array(result.items["group"].to_pylist()) == group if group else result.items["overall"].to_numpy()
    rows = result.items.filter(pa.array(inside & np.isfinite(result.items[metric].to_numpy().astype(np.float64))))
    ids = [f"{g}|{item}" for g, item in zip(rows["group"].to_pylist(), rows["item"].to_pylist(), strict=True)]
    return ids, rows["cluster"].to_pylist(), rows[metric].to_numpy().astype(np.float64)


def compare(a: TaskResult, b: TaskResult, name: str, *, seed: int = 0) -> Difference:
    """System a minus system b in the figure ``name``, paired item by item, images as clusters.

    Raises:
        UserError: when the two results are not over the same items.
    """
    ids_a, clusters, values_a = figure_items(a, name)
    ids_b, _, values_b = figure_items(b, name)
    place = {item: n for n, item in enumerate(ids_b)}
    if set(ids_a) != set(ids_b) or len(place) != len(ids_a) or not ids_a:
        raise UserError(f"The two results of {a.task} do not hold the same items for {name!r}; evaluate both on the same data.")
    return paired_difference(values_a, values_b[[place[item] for item in ids_a]], clusters, seed=seed)
