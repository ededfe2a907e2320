"""Grounding: does a phrase light up the patches of its own object, and of no other object of the same picture?

A map of the patches is made of a phrase by one or several read-outs (:mod:`wholegrain.evaluation.read_outs.registry`), for it is the read-out
that decides what is seen. ``pooled``, the cosine of the phrase's text vector with every patch vector, is the one that all models have; its
figures have the names below. Those of any other have its name before them (``token/hit_own``), and so have its items. For every region
of a picture with at least two:

* ``hit_own``: the best patch lies on the phrase's own object; ``hit_other``: on another object of the picture (the control: a map
  that shows any object scores alike on both). Patches that tie for best share the point;
* ``iou_own``, ``iou_other``: intersection over union of the map, scaled to 0..1 and cut at 0.5, with the object's patches;
* ``centre_hit``, ``centre_iou``: what the middle of the picture would score (it has no read-out);
* ``absent_hit``: the best patch of a phrase of *another* picture lies on this object (objects light up whatever is said);
  ``present_beats_absent``: the own phrase's peak is higher than the absent one's, ties one half. Maps of weights, which sum to one over a
  picture, have no peak to compare: there it says how pointed they are.

Chance of a hit is the object's share of the patches (the area prior), chance of an overlap is that of the same map with its
patches mixed at random, and the shuffled control asks the same of another picture's patches. An object owns the patches that it
covers at least half as much as its best-covered one; regions that the model's crop cuts away are left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypedDict

import numpy as np
import torch
from torch import Tensor

from wholegrain.data.record import Record
from wholegrain.evaluation.contract import EvaluatedData, PatchModel
from wholegrain.evaluation.features import regions as on_grid
from wholegrain.evaluation.features.encode import each_image_batch, split_keys
from wholegrain.evaluation.read_outs.contract import AnyReadOut, Phrase
from wholegrain.evaluation.read_outs.registry import COMMON, default_read_outs, looks, read_outs_named
from wholegrain.evaluation.result import NotSupportedError, TaskResult
from wholegrain.evaluation.statistics.blind import words
from wholegrain.evaluation.statistics.rows import Rows, figures, join, table
from wholegrain.evaluation.statistics.stand_ins import stand_ins
from wholegrain.evaluation.statistics.ties import wins

METRICS = (
    "hit_own", "hit_other", "iou_own", "iou_other", "centre_hit", "centre_iou", "absent_hit", "present_beats_absent", "area"
)  # fmt: skip


MORE = ("token",)
"""Read-outs that come unasked beside the common one and the model's own: it costs a matrix product."""


_NONE = np.empty((0, 0))


@dataclass
class _Maps:
    """Maps ``[regions, P]`` of the phrases of one picture by one read-out: on its patches, of absent phrases, and on another's patches."""

    own_RP: np.ndarray = field(default_factory=lambda: _NONE)
    absent_RP: np.ndarray = field(default_factory=lambda: _NONE)
    shuffled_RP: np.ndarray | None = None


@dataclass
class _Picture:
    """One record with what is asked of it; maps by the name of their read-out."""

    record: Record
    absent: tuple[str | None, ...]
    grid: tuple[int, int] = (0, 0)
    maps: dict[str, _Maps] = field(default_factory=lambda: defaultdict(_Maps))


def grounding(
    model: PatchModel,
    dataset: EvaluatedData,
    split: str = "test",
    *,
    read_outs: Sequence[str] = (),
    seed: int = 0,
    batch: int = 64,
) -> TaskResult:
    """Phrases against patches for all records of a split with at least two regions; see the module for the figures.

    Args:
        read_outs: names of read-outs; by default ``pooled``, the one that the model was trained for, and ``token``, as far as it has them.

    Items keep the read-out (their group; none for ``pooled``), the phrase, the absent phrase, the box, the grid, the map and each patch's cover.

    Raises:
        NotSupportedError: when the split has no such record, the model gives no patches, or it cannot be read out as is asked.
        UserError: an unknown read-out.
    """
    records = [r for key in split_keys(dataset, split) if len((r := dataset.record(key)).regions) >= 2]
    if not records:
        raise NotSupportedError(
            f"No record of the split {split!r} has two regions with phrases; choose another split, or leave grounding out."
        )
    chosen = read_outs_named(model, read_outs) if read_outs else default_read_outs(model, MORE)
    absent = _absent_phrases(records, seed)
    pictures = [_Picture(record, phrases) for record, phrases in zip(records, absent, strict=True)]
    _fill_maps(chosen, dataset, pictures, seed, batch)
    found = {
        read_out.name: [row for picture in pictures for row in _picture_rows(model, picture, read_out.name)]
        for read_out in chosen
    }
    if not found[chosen[0].name]:
        raise NotSupportedError(
            f"No region of the split {split!r} lies inside what the model sees of its picture; check boxes and masks."
        )
    rows = join([_as_rows(name, part) for name, part in found.items()])
    grid = pictures[0].grid
    ways = "; ".join(f"{read_out.name}, the {read_out.sentence}" for read_out in chosen)
    protocol = (
        f"{len(found[chosen[0].name]):,} phrases of {len(records):,} pictures, each against {grid[0]} x {grid[1]} patches by {ways}: best patch "
        "and map above half its range, on the phrase's own object and on another object of the picture; chance of a hit is the "
        "object's area."
    )
    return TaskResult("grounding", protocol, tuple(figures(rows, seed=seed)), table(rows))


def _absent_phrases(records: Sequence[Record], seed: int) -> list[tuple[str | None, ...]]:
    """For each region a phrase of another picture of which no word set is part of what is said of this picture, nor the other way
    round."""
    pool = sorted({region.phrase for record in records for region in record.regions})
    bags = {phrase: frozenset(words(phrase)) for phrase in pool}
    out = []
    for place, record in enumerate(records):
        rng = np.random.default_rng([seed, place])
        own = {bags[region.phrase] for region in record.regions}
        described = own | {frozenset(words(caption.text)) for caption in record.captions}

        def free(phrase: str, own=own, described=described) -> bool:
            return not any(bags[phrase] <= bag for bag in described) and not any(bag <= bags[phrase] for bag in own)

        phrases = []
        for _ in record.regions:
            drawn = (pool[int(rng.integers(len(pool)))] for _ in range(50))
            phrases.append(next((phrase for phrase in drawn if free(phrase)), None))
        out.append(tuple(phrases))
    return out


def _fill_maps(chosen: Sequence[AnyReadOut], dataset: EvaluatedData, pictures: list[_Picture], seed: int, batch: int) -> None:
    """Patches are used batch by batch and not kept: each picture's patches meet its own phrases, absent ones, and another
    picture's."""
    texts = list(dict.fromkeys(t for p in pictures for t in (*_phrases(p), *p.absent) if t is not None))
    place = {text: n for n, text in enumerate(texts)}
    asked = [read_out.ask([Phrase(text) for text in texts]) for read_out in chosen]
    keys = [picture.record.key for picture in pictures]
    other = stand_ins(keys, seed)
    asks = None if other is None else np.argsort(other)  # picture b's patches are shown to the phrases of picture asks[b]

    def read(places: slice, pixels_BCHW: Tensor) -> tuple[tuple[int, int], list[list[list[np.ndarray]]]]:
        """By read-out and question a map for each picture."""
        here = range(len(pictures))[places]
        questions = [[_phrases(pictures[b]) for b in here], [pictures[b].absent for b in here]]
        questions += [] if asks is None else [[_phrases(pictures[asks[b]]) for b in here]]
        seen, grid = looks(chosen, pixels_BCHW)
        each = zip(chosen, seen, asked, strict=True)
        return grid, [[_maps(read_out, look, asked_N, place, q) for q in questions] for read_out, look, asked_N in each]

    start = 0
    for grid, found in each_image_batch(chosen[0].model, dataset, keys, read, batch=batch):
        for read_out, (own, absent, *shuffled) in zip(chosen, found, strict=True):
            for n, b in enumerate(range(start, start + len(own))):
                pictures[b].grid = grid
                pictures[b].maps[read_out.name].own_RP, pictures[b].maps[read_out.name].absent_RP = own[n], absent[n]
                if asks is not None:
                    pictures[asks[b]].maps[read_out.name].shuffled_RP = shuffled[0][n]
        start += len(found[0][0])


def _phrases(picture: _Picture) -> list[str]:
    return [region.phrase for region in picture.record.regions]


def _maps(
    read_out: AnyReadOut, look: object, asked_N: Tensor, place: dict[str, int], question: Sequence[Sequence[str | None]]
) -> list[np.ndarray]:
    """The maps of each picture's phrases; NaN for a phrase that is none."""
    found = read_out.maps(look, asked_N, [[place.get(t, 0) if t else 0 for t in phrases] for phrases in question])
    for maps_RP, phrases in zip(found, question, strict=True):
        maps_RP[[n for n, phrase in enumerate(phrases) if phrase is None]] = torch.nan
    return [maps_RP.numpy() for maps_RP in found]


class _Row(TypedDict):
    """A phrase of a picture: its values by metric, and what is kept of it by column."""

    item: str
    key: str
    values: dict[str, float]
    chance: dict[str, float]
    shuffled: dict[str, float]
    kept: dict[str, object]


def _picture_rows(model: PatchModel, picture: _Picture, read_out: str) -> list[_Row]:
    record, maps = picture.record, picture.maps[read_out]
    visible = model.preprocess.visible_box(*record.size)
    covers = [on_grid.region_cover(record, n, visible, picture.grid) for n in range(len(record.regions))]
    masks = [on_grid.object_patches(cover) for cover in covers]
    centre_P = on_grid.centre_prior(picture.grid)
    rows: list[_Row] = []
    for n, region in enumerate(record.regions):
        others = [mask for m, mask in enumerate(masks) if m != n and mask.any()]
        if not masks[n].any() or not others:
            continue
        values = {**_read(maps.own_RP[n], masks[n], others)}
        if read_out == COMMON:
            values |= {
                "area": float(masks[n].mean()),
                "centre_hit": _hit(centre_P, masks[n]),
                "centre_iou": _iou(centre_P, masks[n]),
            }
        if picture.absent[n] is not None:
            values["absent_hit"] = _hit(maps.absent_RP[n], masks[n])
            values["present_beats_absent"] = float(
                wins(maps.own_RP[n].max(keepdims=True), maps.absent_RP[n].max(keepdims=True))[1][0]
            )
        kept: dict[str, object] = {"phrase": region.phrase, "absent": picture.absent[n], "box": list(region.box), "grid": list(picture.grid)}
        kept |= {"map": maps.own_RP[n].tolist(), "cover": covers[n].tolist(), "best": int(maps.own_RP[n].argmax())}
        chance = _chance(maps.own_RP[n], masks[n], others)
        shuffled = {} if maps.shuffled_RP is None else _read(maps.shuffled_RP[n], masks[n], others)
        item = f"{record.key}:{n}"
        rows.append({"item": item, "key": record.key, "values": values, "chance": chance, "shuffled": shuffled, "kept": kept})
    return rows


def _hit(map_P: np.ndarray, mask_P: np.ndarray) -> float:
    return float(mask_P[on_grid.best_patches(map_P)].mean())


def _iou(map_P: np.ndarray, mask_P: np.ndarray) -> float:
    return on_grid.overlap(on_grid.thresholded(map_P), mask_P)


def _read(map_P: np.ndarray, own_P: np.ndarray, others: Sequence[np.ndarray]) -> dict[str, float]:
    return {
        "hit_own": _hit(map_P, own_P),
        "hit_other": float(np.mean([_hit(map_P, other) for other in others])),
        "iou_own": _iou(map_P, own_P),
        "iou_other": float(np.mean([_iou(map_P, other) for other in others])),
    }


def _chance(map_P: np.ndarray, own_P: np.ndarray, others: Sequence[np.ndarray]) -> dict[str, float]:
    marked, patches = int(on_grid.thresholded(map_P).sum()), len(map_P)

    def by_luck(mask_P: np.ndarray) -> float:
        return on_grid.chance_overlap(marked, int(mask_P.sum()), patches)

    area = float(own_P.mean())
    found = {
        "hit_own": area,
        "hit_other": float(np.mean([other.mean() for other in others])),
        "absent_hit": area,
        "centre_hit": area,
    }
    return found | {
        "iou_own": by_luck(own_P),
        "iou_other": float(np.mean([by_luck(o) for o in others])),
        "present_beats_absent": 0.5,
    }


def _as_rows(read_out: str, found: list[_Row]) -> Rows:
    """The rows of one read-out: those of the common one have no group and count in the figures without any."""

    def columns(part: Literal["values", "chance", "shuffled"]) -> dict[str, np.ndarray]:
        return {
            name: np.array([row[part].get(name, np.nan) for row in found])
            for name in METRICS
            if any(name in row[part] for row in found)
        }

    common = read_out == COMMON
    extra = {name: [row["kept"][name] for row in found] for name in found[0]["kept"]}
    items, keys = [row["item"] for row in found], [row["key"] for row in found]
    group, overall = ["" if common else read_out] * len(found), np.full(len(found), common)
    return Rows(items, group, keys, columns("values"), columns("chance"), columns("shuffled"), overall, extra)
