"""Per-item values and how they become figures: the mean, its interval, and the chance level and control of the same items."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from wholegrain.evaluation.result import Figure
from wholegrain.evaluation.statistics.intervals import bootstrap_mean


@dataclass
class Rows:
    """N items of one task.

    Attributes:
        item: a stable id per item, unique within its group; two systems are compared by it.
        group: the kind, role or other part that the item belongs to; "" for none.
        cluster: the image behind the item.
        values: metric -> float ``[N]``; NaN where the metric does not apply to the item.
        chance: metric -> what guessing scores on the item, ``[N]`` or one number.
        shuffled: metric -> ``[N]`` the same values under the shuffled-images control.
        overall: bool ``[N]``, whether the item counts in the figures without a group; default all.
        extra: further columns to keep, ``[N]`` each.
    """

    item: Sequence[str]
    group: Sequence[str]
    cluster: Sequence[str]
    values: Mapping[str, np.ndarray]
    chance: Mapping[str, np.ndarray | float] = field(default_factory=dict)
    shuffled: Mapping[str, np.ndarray] = field(default_factory=dict)
    overall: np.ndarray | None = None
    extra: Mapping[str, Iterable[object]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.item)

    @property
    def overall_N(self) -> np.ndarray:
        """bool ``[N]``."""
        return np.ones(len(self), dtype=bool) if self.overall is None else np.asarray(self.overall, dtype=bool)


def join(parts: Sequence[Rows]) -> Rows:
    """All items of several parts; a metric that a part lacks is NaN there, an extra column that it lacks is null."""
    values = {name: np.concatenate([_column(p.values, name, len(p)) for p in parts]) for name in _names(p.values for p in parts)}
    chance = {name: np.concatenate([_column(p.chance, name, len(p)) for p in parts]) for name in _names(p.chance for p in parts)}
    shuffled = {
        name: np.concatenate([_column(p.shuffled, name, len(p)) for p in parts]) for name in _names(p.shuffled for p in parts)
    }
    extra = {n: [x for p in parts for x in p.extra.get(n, [None] * len(p))] for n in _names(p.extra for p in parts)}
    item, group, cluster = ([x for p in parts for x in getattr(p, name)] for name in ("item", "group", "cluster"))
    overall = np.concatenate([p.overall_N for p in parts]) if parts else None
    return Rows(item, group, cluster, values, chance, shuffled, overall, extra)


def _names(maps) -> list[str]:
    return list(dict.fromkeys(name for m in maps for name in m))


def _column(columns: Mapping[str, np.ndarray | float], name: str, count: int) -> np.ndarray:
    return np.broadcast_to(np.asarray(columns.get(name, np.nan), dtype=np.float64), (count,))


def figures(
    rows: Rows,
    *,
    units: Mapping[str, str] | None = None,
    notes: Mapping[str, str] | None = None,
    seed: int = 0,
    hide: Sequence[str] = (),
) -> list[Figure]:
    """Figures of all metrics, first over the overall items, then group by group in order of appearance.

    Args:
        units, notes: metric -> unit, note.
        hide: metrics that stay in the items only.
    """
    group_N = np.asarray(rows.group, dtype=object)
    overall = rows.overall_N
    parts = [("", overall)] if overall.any() else []
    parts += [(name, group_N == name) for name in dict.fromkeys(rows.group) if name]
    names = [name for name in rows.values if name not in hide]
    return [
        figure for group, mask in parts for figure in _group_figures(rows, group, mask, names, units or {}, notes or {}, seed)
    ]


def _group_figures(
    rows: Rows, group: str, mask: np.ndarray, names: list[str], units: Mapping[str, str], notes: Mapping[str, str], seed: int
) -> list[Figure]:
    cluster_N = np.asarray(rows.cluster, dtype=object)
    same_items: dict[bytes, list[str]] = {}  # metrics over the same items are resampled together
    for name in names:
        here = mask & np.isfinite(rows.values[name])
        if here.any():
            same_items.setdefault(here.tobytes(), []).append(name)
    found: dict[str, Figure] = {}
    for packed, together in same_items.items():
        here = np.frombuffer(packed, dtype=bool)
        values_NF = np.stack([rows.values[name][here] for name in together], 1)
        shares = [units.get(name, "share") == "share" for name in together]
        low_F, high_F = bootstrap_mean(values_NF, cluster_N[here].astype(str), shares=shares, seed=seed)
        for column, name in enumerate(together):
            chance, shuffled = (_mean(m, name, here) for m in (rows.chance, rows.shuffled))
            found[name] = Figure(
                f"{group}/{name}" if group else name, float(values_NF[:, column].mean()), float(low_F[column]),
                float(high_F[column]), int(here.sum()), chance, shuffled, units.get(name, "share"), notes.get(name, ""),
            )  # fmt: skip
    return [found[name] for name in names if name in found]


def _mean(columns: Mapping[str, np.ndarray | float], name: str, here: np.ndarray) -> float | None:
    if name not in columns:
        return None
    values = _column(columns, name, len(here))[here]
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else None


def table(rows: Rows) -> pa.Table:
    """The items as an arrow table; NaN becomes null."""
    columns = {
        "item": list(rows.item),
        "group": list(rows.group),
        "cluster": list(rows.cluster),
        "overall": rows.overall_N,
    }
    arrays = {name: pa.array(column) for name, column in columns.items()}
    for name in rows.values:
        values = np.array(_column(rows.values, name, len(rows)))
        arrays[name] = pa.array(values, mask=~np.isfinite(values))
    for name, column in rows.extra.items():
        arrays[name] = pa.array(column)
    return pa.table(arrays)
