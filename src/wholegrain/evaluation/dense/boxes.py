"""Boxes against class names: what is in the box, and does the phrase point into it?

* :func:`box_classification`: which of the classes is in a given box? Two read-outs: ``crop``, the box cut out, made square and encoded
  like a picture; ``pooled``, the mean of the whole picture's patches, each weighted by the share of it that the box covers (what region
  pooling on a patch grid comes to). ``acc1``, ``acc5`` over boxes, ``mean_per_class…`` over classes.
* :func:`pointing`: the pointing game (Zhang et al. 2016): for every picture and class in it, does the centre of the best patch lie in a
  box of the class? Ties share the point; no tolerance is given around the box. Chance is the share of patch centres that do (the area
  prior); ``centre_hit`` is what the middle of the picture scores. ``shuffled`` takes another picture's map. How a class meets a patch is
  a read-out (:mod:`wholegrain.evaluation.read_outs.registry`), a result each.

Pictures are seen whole: squashed to the model's square, so that no box is cut off.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from wholegrain.data.pictures import read_rgb
from wholegrain.data.record import Record, Region
from wholegrain.errors import UserError
from wholegrain.evaluation.contract import PatchModel
from wholegrain.evaluation.dense.folder import Boxed
from wholegrain.evaluation.dense.maps import AskedNames, seen_views, task_name
from wholegrain.evaluation.dense.segmentation import patch_vectors
from wholegrain.evaluation.features import regions as on_grid
from wholegrain.evaluation.features.encode import device_of, evaluating
from wholegrain.evaluation.read_outs.registry import default_read_outs, read_outs_named
from wholegrain.evaluation.result import NotSupportedError, TaskResult
from wholegrain.evaluation.scores.similarity import index_vectors, unit
from wholegrain.evaluation.statistics.rows import Rows, figures, join, table
from wholegrain.evaluation.statistics.stand_ins import stand_ins
from wholegrain.evaluation.tasks.zero_shot import TEMPLATES, class_values, class_vectors, per_class_figure


def box_classification(
    model: PatchModel,
    pictures: Sequence[Boxed],
    *,
    classes: Sequence[str] | None = None,
    templates: Sequence[str] = TEMPLATES,
    read_out: Sequence[str] = ("crop", "pooled"),
    seed: int = 0,
    batch: int = 64,
) -> TaskResult:
    """Classifies every box; the read-outs are the groups ``crop/…`` and ``pooled/…``.

    Args:
        classes: that compete; those that occur by default.

    Raises:
        NotSupportedError: a model without patches where only ``pooled`` is asked for.
    """
    names = tuple(sorted({c for p in pictures for c in p.classes})) if classes is None else tuple(classes)
    if len(names) < 2:
        raise UserError("Box classification needs boxes of two classes; check the folder.")
    class_CD = class_vectors(model, names, templates, batch)
    true_B = torch.tensor([names.index(c) for p in pictures for c in p.classes])
    items = [f"{p.name}:{n}" for p in pictures for n in range(len(p.boxes))]
    keys = [p.name for p in pictures for _ in p.boxes]
    other_B = stand_ins(keys, seed)
    rows, per_class, reasons = [], [], []
    for way in read_out:
        try:
            box_BD = (_crops if way == "crop" else _pooled)(model, pictures, batch)
        except NotSupportedError as reason:
            reasons.append(reason)
            continue
        scores_BC = box_BD @ class_CD.T
        values = class_values(scores_BC, true_B)
        shuffled = {} if other_B is None else class_values(scores_BC[torch.from_numpy(other_B)], true_B)
        chance = {f"acc{k}{end}": min(k / len(names), 1.0) for k in (1, 5) for end in ("", "_expected")}
        extra = {"label": [names[c] for c in true_B.tolist()], "predicted": [names[c] for c in scores_BC.argmax(1).tolist()]}
        rows.append(Rows(items, [way] * len(items), keys, values, chance, shuffled, np.zeros(len(items), dtype=bool), extra))
        for k in (1, 5):
            parts = values[f"acc{k}_expected"], shuffled.get(f"acc{k}_expected")
            per_class.append(per_class_figure(*parts, true_B.numpy(), keys, len(names), seed, k, f"{way}/mean_per_class_acc{k}"))
    if not rows:
        raise reasons[0]
    protocol = (
        f"{len(items):,} boxes of {len(pictures):,} pictures, {len(names):,} classes, {len(templates)} prompts: crop is the box made "
        f"square and encoded, pooled the mean of the picture's patches weighted by cover{''.join(f'; left out: {r}' for r in reasons)}."
    )
    together = join(rows)
    return TaskResult("box_classification", protocol, (*figures(together, seed=seed), *per_class), table(together))


def _crops(model: PatchModel, pictures: Sequence[Boxed], batch: int) -> Tensor:
    """Vectors ``[B, D]`` of the boxes' pixels, batch by batch."""
    found, waiting = [], []
    for n, picture in enumerate(pictures):
        pixels = read_rgb(picture.picture)
        waiting += [np.asarray(model.preprocess.image(pixels, _inside(box, pixels))) for box in picture.boxes]
        while len(waiting) >= batch or (waiting and n == len(pictures) - 1):
            now, waiting = waiting[:batch], waiting[batch:]
            with evaluating(model):
                image = model.encode_images(torch.from_numpy(np.stack(now)).to(device_of(model)), frozenset())
            found.append(index_vectors(image).cpu().clone())
    return torch.cat(found)


def _inside(box: tuple[float, float, float, float], pixels_HWC: np.ndarray) -> tuple[float, float, float, float]:
    """The box within the picture, at least one pixel wide and high."""
    height, width = pixels_HWC.shape[:2]
    x0, y0 = min(max(box[0], 0.0), width - 1.0), min(max(box[1], 0.0), height - 1.0)
    return x0, y0, min(max(box[2], x0 + 1.0), float(width)), min(max(box[3], y0 + 1.0), float(height))


def _records_and_views(model: PatchModel, pictures: Sequence[Boxed]) -> tuple[list[Record], list[np.ndarray]]:
    """Records with the boxes as regions, and the whole pictures as the model sees them."""
    records, views = [], []
    for picture in pictures:
        pixels = read_rgb(picture.picture)
        size = (pixels.shape[1], pixels.shape[0])
        regions = tuple(Region(_inside(box, pixels), name) for box, name in zip(picture.boxes, picture.classes, strict=True))
        records.append(Record(picture.name, picture.name, size, regions=regions))
        views.append(np.asarray(model.preprocess.image(pixels, (0.0, 0.0, float(size[0]), float(size[1])))))
    return records, views


def _covers(record: Record, grid: tuple[int, int]) -> list[np.ndarray]:
    whole = (0.0, 0.0, float(record.size[0]), float(record.size[1]))
    return [on_grid.region_cover(record, n, whole, grid) for n in range(len(record.regions))]


def _pooled(model: PatchModel, pictures: Sequence[Boxed], batch: int) -> Tensor:
    records, views = _records_and_views(model, pictures)
    patches_NPD, grid = patch_vectors(model, views, batch)
    found = []
    for record, patches_PD in zip(records, patches_NPD, strict=True):
        for cover_P in _covers(record, grid):
            found.append(unit(torch.from_numpy(cover_P).float() @ patches_PD))
    return torch.stack(found)


def pointing(
    model: PatchModel,
    pictures: Sequence[Boxed],
    *,
    templates: Sequence[str] = TEMPLATES,
    read_outs: Sequence[str] = (),
    seed: int = 0,
    batch: int = 64,
) -> list[TaskResult]:
    """The pointing game with class names; ``hit``, ``centre_hit``, and groups ``small`` and ``large`` by the area that counts as a hit.

    Args:
        read_outs: names of read-outs; by default ``pooled`` and the one that the model was trained for.

    Returns:
        a result for each read-out: ``pointing`` for ``pooled``, ``pointing_token`` and the like for others.

    Raises:
        NotSupportedError: when the model gives no patches, or cannot be read out as is asked.
    """
    names = sorted({c for p in pictures for c in p.classes})
    if not names:
        raise UserError("Pointing needs boxes; check the folder.")
    chosen = read_outs_named(model, read_outs) if read_outs else default_read_outs(model)
    asked = [AskedNames.of(read_out, names, templates, batch) for read_out in chosen]
    records, views = _records_and_views(model, pictures)
    maps, grid = _pointing_maps(model, asked, names, records, views, seed, batch)
    results = []
    for read_out, of_pair in zip(chosen, maps, strict=True):
        rows = _pointed(records, of_pair, grid)
        protocol = (
            f"{len(rows):,} pairs of a picture and a class in it ({len(records):,} pictures, {len(names):,} classes): right if the centre of "
            f"the best of {grid[0]} x {grid[1]} patches (read-out {read_out.name}: {read_out.sentence}) lies in a box of the class; chance is "
            "the share of centres that do; boxes without any are left out; small and large: up to a tenth of the centres, and more."
        )
        results.append(TaskResult(task_name("pointing", read_out), protocol, tuple(figures(rows, seed=seed)), table(rows)))
    return results


_Pair = tuple[int, str]
"""A record and a class in it."""


def _pointing_maps(
    model: PatchModel,
    asked: Sequence[AskedNames],
    names: Sequence[str],
    records: Sequence[Record],
    views: Sequence[np.ndarray],
    seed: int,
    batch: int,
) -> tuple[list[dict[_Pair, list[np.ndarray]]], tuple[int, int]]:
    """For each read-out, by pair, the map on the pair's own picture, then (of several pictures) that on another's; and the grid."""
    other = stand_ins([record.key for record in records], seed)
    classes = [list(dict.fromkeys(region.phrase for region in record.regions)) for record in records]
    # of each picture: its own pairs, then those of the picture that it stands in for
    questions = [[(n, name) for name in classes[n]] for n in range(len(records))]
    if other is not None:
        for n, stand_in in enumerate(other):
            questions[stand_in] += [(n, name) for name in classes[n]]
    place = {name: n for n, name in enumerate(names)}
    maps: list[dict[_Pair, list[np.ndarray]]] = [{} for _ in asked]
    grid = (0, 0)
    for seen in seen_views(model, [one.read_out for one in asked], views, batch):
        grid = seen.grid
        rows = [[place[name] for _, name in questions[view]] for view in seen.places]
        for found, one, look in zip(maps, asked, seen.looks, strict=True):
            for view, values_RP in zip(seen.places, one.read_out.maps(look, one.asked_N, rows), strict=True):
                for pair, map_P in zip(questions[view], values_RP.numpy(), strict=True):
                    found.setdefault(pair, []).insert(0 if pair[0] == view else 1, map_P)
    return maps, grid


def _pointed(records: Sequence[Record], maps: dict[_Pair, list[np.ndarray]], grid: tuple[int, int]) -> Rows:
    items, keys, kinds, values, control, chance = [], [], [], [], [], []
    for n, record in enumerate(records):
        for name in dict.fromkeys(region.phrase for region in record.regions):
            inside_P = _centres_inside(record, name, grid)
            if not inside_P.any():  # smaller than the grid can show: no patch centre lies in it
                continue
            hits = [float(inside_P[on_grid.best_patches(map_P)].mean()) for map_P in maps[n, name]]
            middle = float(inside_P[on_grid.best_patches(on_grid.centre_prior(grid))].mean())
            area = float(inside_P.mean())
            items.append(f"{record.key}:{name}")
            keys.append(record.key)
            kinds.append("large" if area > 0.1 else "small")
            values.append((hits[0], middle))
            control += hits[1:]
            chance.append(area)
    if not items:
        raise NotSupportedError(
            "No box holds the centre of a patch, so nothing can be pointed at; the model's grid is too coarse."
        )
    hit_N, centre_N = np.array(values).T
    return Rows(
        items, kinds, keys, {"hit": hit_N, "centre_hit": centre_N}, {"hit": np.array(chance), "centre_hit": np.array(chance)},
        {"hit": np.array(control)} if control else {}, np.ones(len(items), dtype=bool),
    )  # fmt: skip


def _centres_inside(record: Record, name: str, grid: tuple[int, int]) -> np.ndarray:
    """bool ``[P]``: the patches whose centre lies in a box of the class."""
    width, height = record.size
    y = np.repeat((np.arange(grid[0]) + 0.5) / grid[0] * height, grid[1])
    x = np.tile((np.arange(grid[1]) + 0.5) / grid[1] * width, grid[0])
    inside = np.zeros(len(x), dtype=bool)
    for region in record.regions:
        if region.phrase == name:
            x0, y0, x1, y1 = region.box
            inside |= (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
    return inside
