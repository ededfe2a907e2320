"""Which samples become records: equal images are joined inside a split, and kept in one split only.

An image that is in several splits stays in the one farthest from training (test before val before any other before train): what a
model is tested on must not be what it was trained on, and a key must name one record. What was left out is listed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from wholegrain.data.scan import Row

LISTED = 200


@dataclass
class Arrivals:
    """What the scan says of all samples, in a few bytes each.

    Attributes:
        numbers: 64 bits of the key, 0 for a sample that gives no record.
        broken, uncaptioned, empty: where and why, the first of them; with counts beside.
        stated: the splits that the source names.
    """

    numbers: list[np.ndarray] = field(default_factory=list)
    broken: list[dict[str, str]] = field(default_factory=list)
    uncaptioned: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    stated: set[str] = field(default_factory=set)
    counts: dict[str, int] = field(
        default_factory=lambda: {"samples": 0, "broken": 0, "uncaptioned": 0, "empty": 0, "captions": 0}
    )

    def add(self, rows: list[Row]) -> None:
        """Takes in one chunk."""
        self.numbers.append(np.array([int(row["key"][:16], 16) if usable(row) else 0 for row in rows], dtype=np.uint64))
        self.counts["samples"] += len(rows)
        for row in rows:
            self.counts["captions"] += len(row.get("captions", ()))
            if row.get("split"):
                self.stated.add(row["split"])
            if "broken" in row:
                self._list("broken", {"where": row["where"], "reason": row["broken"]})
            elif not row["captions"]:
                self._list("uncaptioned", row["where"])
            if row.get("empty"):
                self._list("empty", row["where"], row["empty"])

    def _list(self, name: str, item: object, count: int = 1) -> None:
        self.counts[name] += count
        listed = getattr(self, name)
        if len(listed) < LISTED:
            listed.append(item)

    def photos(self) -> np.ndarray:
        """uint64, the numbers of all samples that give a record."""
        numbers = np.concatenate(self.numbers) if self.numbers else np.array([], dtype=np.uint64)
        return numbers[numbers > 0]

    def repeated(self) -> set[int]:
        """The numbers that come more than once."""
        values, counts = np.unique(self.photos(), return_counts=True)
        return set(values[counts > 1].tolist())


def usable(row: Row) -> bool:
    """Whether a record can be made of a row."""
    return "key" in row and bool(row["captions"])


@dataclass
class Merged:
    """What becomes of samples whose image comes more than once.

    Attributes:
        rows: sample's place in the source -> its row with the captions of its equals joined, or ``None`` if it is left out.
        inside: equal files inside one split, joined.
        across: images in several splits.
    """

    rows: dict[int, Row | None]
    inside: list[dict[str, object]]
    across: list[dict[str, object]]


def merge(rows: Iterable[Row], repeated: set[int]) -> Merged:
    """Joins the rows whose key's number is in ``repeated``."""
    groups: dict[str, list[tuple[int, Row]]] = defaultdict(list)
    for place, row in enumerate(rows):
        if usable(row) and int(row["key"][:16], 16) in repeated:
            groups[row["key"]].append((place, row))
    merged = Merged({}, [], [])
    for key, group in groups.items():
        splits = sorted({row["split"] for _, row in group}, key=_distance_from_training)
        kept = splits[-1]
        members = [(place, row) for place, row in group if row["split"] == kept]
        merged.rows |= dict.fromkeys((place for place, _ in group), None)
        merged.rows[members[0][0]] = _join([row for _, row in members])
        for split in splits:
            places = dict.fromkeys(row["place"] for _, row in group if row["split"] == split)
            if len(places) > 1:
                merged.inside.append({"key": key, "split": split, "where": list(places)[:10]})
        if len(splits) > 1:
            left_out = [{"split": row["split"], "where": row["where"]} for _, row in group if row["split"] != kept]
            merged.across.append({"key": key, "kept": kept, "left_out": left_out[:10]})
    return merged


def _distance_from_training(split: str) -> tuple[int, str]:
    return {"train": 0, "val": 2, "test": 3}.get(split, 1), split


def _join(rows: list[Row]) -> Row:
    """The first row with everybody's captions and regions; the same text in the same role comes once."""
    captions: dict[tuple[str, str], list[str]] = {}
    regions: dict[str, list[object]] = {}
    for row in rows:
        for text, role, source in row["captions"]:
            captions.setdefault((text, role), [text, role, source])
        for region in row["regions"]:
            regions.setdefault(str(region), region)
    label = next((row["label"] for row in rows if row["label"]), None)
    return {**rows[0], "label": label, "captions": list(captions.values()), "regions": list(regions.values())}
