"""Grounding: does a phrase light up the patches of its own object, and of no other object of the same picture?

One read-out for every method: the cosine of the phrase's text vector with every patch vector, on the model's patch grid. For
every region of a picture with at least two:

* ``hit_own``: the best patch lies on the phrase's own object; ``hit_other``: on another object of the picture (the control: a map
  that shows any object scores alike on both). Patches that tie for best share the point;
* ``iou_own``, ``iou_other``: intersection over union of the map, scaled to 0..1 and cut at 0.5, with the object's patches;
* ``centre_hit``, ``centre_iou``: what the middle of the picture would score;
* ``absent_hit``: the best patch of a phrase of *another* picture lies on this object (objects light up whatever is said);
  ``present_beats_absent``: the own phrase's peak is higher than the absent one's, ties one half.

Chance of a hit is the object's share of the patches (the area prior), chance of an overlap is that of the same map with its
patches mixed at random, and the shuffled control asks the same of another picture's patches. An object owns the patches that it
covers at least half as much as its best-covered one; regions that the model's crop cuts away are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from wholegrain.data.record import Record
from wholegrain.evaluation.contract import EvaluatedData, PatchModel
from wholegrain.evaluation.features import regions as on_grid
from wholegrain.evaluation.features.encode import encode_patches, encode_texts, split_keys
from wholegrain.evaluation.result import NotSupportedError, TaskResult
from wholegrain.evaluation.scores.similarity import unit
from wholegrain.evaluation.statistics.blind import words
from wholegrain.evaluation.statistics.rows import Rows, figures, table
from wholegrain.evaluation.statistics.stand_ins import stand_ins
from wholegrain.evaluation.statistics.ties import wins

METRICS = (
    "hit_own", "hit_other", "iou_own", "iou_other", "centre_hit", "centre_iou", "absent_hit", "present_beats_absent", "area"
)  # fmt: skip


@dataclass
class _Picture:
    """One record with what is asked of it; maps are ``[regions, P]``."""

    record: Record
    absent: tuple[str | None, ...]
    grid: tuple[int, int] = (0, 0)
    own_RP: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    absent_RP: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    shuffled_RP: np.ndarray | None = None


def grounding(model: PatchModel, dataset: EvaluatedData, split: str = "test", *, seed: int = 0, batch: int = 64) -> TaskResult:
    """Phrases against patches for all records of a split with at least two regions; see the module for the figures.

    Items keep the phrase, the absent phrase, the box, the grid, the similarity map and each patch's cover.

    Raises:
        NotSupportedError: when the split has no such record, or the model gives no patches.
    """
    records = [r for key in split_keys(dataset, split) if len((r := dataset.record(key)).regions) >= 2]
    if not records:
        raise NotSupportedError(
            f"No record of the split {split!r} has two regions with phrases; choose another split, or leave grounding out."
        )
    absent = _absent_phrases(records, seed)
    pictures = [_Picture(record, phrases) for record, phrases in zip(records, absent, strict=True)]
    _fill_maps(model, dataset, pictures, seed, batch)
    found = [row for picture in pictures for row in _picture_rows(model, picture)]
    if not found:
        raise NotSupportedError(
            f"No region of the split {split!r} lies inside what the model sees of its picture; check boxes and masks."
        )
    rows = _as_rows(found)
    grid = pictures[0].grid
    protocol = (
        f"{len(found):,} phrases of {len(records):,} pictures, each against {grid[0]} x {grid[1]} patches by cosine: best patch "
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


def _fill_maps(model: PatchModel, dataset: EvaluatedData, pictures: list[_Picture], seed: int, batch: int) -> None:
    """Patches are used batch by batch and not kept: each picture's patches meet its own phrases, absent ones, and another
    picture's."""
    texts = list(dict.fromkeys(t for p in pictures for t in (*(r.phrase for r in p.record.regions), *p.absent) if t is not None))
    place = {text: n for n, text in enumerate(texts)}
    text_ND = unit(encode_texts(model, texts, frozenset()).pooled_ND)
    keys = [picture.record.key for picture in pictures]
    other = stand_ins(keys, seed)
    asks = None if other is None else np.argsort(other)  # picture b's patches are shown to the phrases of picture asks[b]
    start = 0
    for image in encode_patches(model, dataset, keys, batch=batch):
        assert image.patches_BPD is not None
        assert image.grid is not None
        for row, patches_PD in enumerate(unit(image.patches_BPD)):
            picture = pictures[start + row]

            def read(phrases: Sequence[str | None], patches_PD=patches_PD) -> np.ndarray:
                maps_RP = text_ND[torch.tensor([place.get(t, 0) if t else 0 for t in phrases])] @ patches_PD.T
                maps_RP[[n for n, phrase in enumerate(phrases) if phrase is None]] = torch.nan
                return maps_RP.numpy()

            picture.grid = image.grid
            picture.own_RP, picture.absent_RP = read([r.phrase for r in picture.record.regions]), read(picture.absent)
            if asks is not None:
                asker = pictures[asks[start + row]]
                asker.shuffled_RP = read([r.phrase for r in asker.record.regions])
        start += len(image.patches_BPD)


def _picture_rows(model: PatchModel, picture: _Picture) -> list[dict[str, Any]]:
    record = picture.record
    visible = model.preprocess.visible_box(*record.size)
    covers = [on_grid.region_cover(record, n, visible, picture.grid) for n in range(len(record.regions))]
    masks = [on_grid.object_patches(cover) for cover in covers]
    centre_P = on_grid.centre_prior(picture.grid)
    rows = []
    for n, region in enumerate(record.regions):
        others = [mask for m, mask in enumerate(masks) if m != n and mask.any()]
        if not masks[n].any() or not others:
            continue
        values = {**_read(picture.own_RP[n], masks[n], others), "area": float(masks[n].mean())}
        values["centre_hit"], values["centre_iou"] = _hit(centre_P, masks[n]), _iou(centre_P, masks[n])
        if picture.absent[n] is not None:
            values["absent_hit"] = _hit(picture.absent_RP[n], masks[n])
            values["present_beats_absent"] = float(
                wins(picture.own_RP[n].max(keepdims=True), picture.absent_RP[n].max(keepdims=True))[1][0]
            )
        kept = {"phrase": region.phrase, "absent": picture.absent[n], "box": list(region.box), "grid": list(picture.grid)}
        kept |= {"map": picture.own_RP[n].tolist(), "cover": covers[n].tolist(), "best": int(picture.own_RP[n].argmax())}
        chance = _chance(picture.own_RP[n], masks[n], others)
        rows.append({"item": f"{record.key}:{n}", "key": record.key, "values": values, "chance": chance, "kept": kept})
        rows[-1]["shuffled"] = {} if picture.shuffled_RP is None else _read(picture.shuffled_RP[n], masks[n], others)
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


def _as_rows(found: list[dict[str, Any]]) -> Rows:
    def columns(part: str) -> dict[str, np.ndarray]:
        return {
            name: np.array([row[part].get(name, np.nan) for row in found])
            for name in METRICS
            if any(name in row[part] for row in found)
        }

    extra = {name: [row["kept"][name] for row in found] for name in found[0]["kept"]}
    items, keys = [row["item"] for row in found], [row["key"] for row in found]
    return Rows(items, [""] * len(found), keys, columns("values"), columns("chance"), columns("shuffled"), extra=extra)
