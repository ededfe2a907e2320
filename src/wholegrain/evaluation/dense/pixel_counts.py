"""Pixels counted by picture and class, and how they become figures: IoU and its mean, accuracies, chance, controls, intervals over pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from wholegrain.evaluation.dense.folder import ClassSet
from wholegrain.evaluation.result import Figure, TaskResult
from wholegrain.evaluation.statistics.intervals import resample_counts
from wholegrain.evaluation.statistics.rows import Rows, table


@dataclass
class PixelCounts:
    """Pixels of each picture and class: int64 ``[N, C]``."""

    hit: np.ndarray
    true: np.ndarray
    found: np.ndarray
    shuffled_hit: np.ndarray
    shuffled_found: np.ndarray

    @classmethod
    def empty(cls, pictures: int, classes: int) -> PixelCounts:
        return cls(*(np.zeros((pictures, classes), dtype=np.int64) for _ in range(5)))

    def add(self, n: int, true_HW: np.ndarray, found_HW: np.ndarray) -> None:
        self.hit[n], self.true[n], self.found[n] = _pixels(true_HW, found_HW, self.hit.shape[1])

    def add_shuffled(self, n: int, true_HW: np.ndarray, other_HW: np.ndarray) -> None:
        """``other_HW``: another picture's labels, brought to this mask's shape."""
        resized = np.asarray(Image.fromarray(other_HW.astype(np.int32)).resize(true_HW.shape[::-1], Image.Resampling.NEAREST))
        self.shuffled_hit[n], _, self.shuffled_found[n] = _pixels(true_HW, resized, self.hit.shape[1])


def _pixels(true_HW: np.ndarray, found_HW: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    counted = true_HW >= 0
    true, found = true_HW[counted], found_HW[counted]
    return tuple(np.bincount(x, minlength=classes)[:classes] for x in (true[true == found], true, found))  # type: ignore[return-value]


def mean_iou(hit_rC: np.ndarray, true_rC: np.ndarray, found_rC: np.ndarray) -> np.ndarray:
    """``[r]``: the mean over classes that have pixels of hits / (true + found - hits).

    Example:
        >>> mean_iou(np.array([[2, 1]]), np.array([[2, 2]]), np.array([[3, 1]])).round(4).tolist()
        [0.5833]
    """
    return _mean_where(hit_rC / np.maximum(true_rC + found_rC - hit_rC, 1e-9), true_rC)


def _mean_where(values_rC: np.ndarray, true_rC: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.nansum(np.where(true_rC > 0, values_rC, 0.0), 1) / (true_rC > 0).sum(1)


def _figures_of(hit: np.ndarray, true: np.ndarray, found: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "miou": mean_iou(hit, true, found),
        "pixel_accuracy": hit.sum(1) / np.maximum(true.sum(1), 1e-9),
        "mean_class_accuracy": _mean_where(hit / np.maximum(true, 1e-9), true),
    }


def result_of_counts(
    task: str, pictures: Sequence[str], classes: ClassSet, counts: PixelCounts, protocol: str, seed: int
) -> TaskResult:
    """``miou`` over all pixels of the data, ``pixel_accuracy``, ``mean_class_accuracy``, what the most frequent class scores everywhere, and every
    class's IoU; pictures (their names) are drawn for the intervals, and are the items.
    """
    names = [*classes.names, *(["background"] if classes.background is not None else [])]
    drawn = np.concatenate(list(resample_counts(len(pictures), seed=seed))).astype(np.float64)
    spread = [drawn @ x for x in (counts.hit, counts.true, counts.found)]
    once = [x.sum(0, keepdims=True) for x in (counts.hit, counts.true, counts.found)]
    control = [x.sum(0, keepdims=True) for x in (counts.shuffled_hit, counts.true, counts.shuffled_found)] if len(pictures) > 1 else None
    value, low_high = _figures_of(*once), _figures_of(*spread)
    shuffled = {} if control is None else _figures_of(*control)
    true_1C = once[1].astype(np.float64)
    total, C = float(true_1C.sum()), len(names)
    random = _figures_of(true_1C / C, true_1C, np.full_like(true_1C, total / C))
    most = int(true_1C.argmax())
    one = np.zeros_like(true_1C)
    one[0, most] = 1.0
    majority = _figures_of(one * true_1C, true_1C, one * total)
    made = []
    for name in value:
        low, high = np.nanpercentile(low_high[name], [2.5, 97.5])
        made.append(_figure(name, value[name], (low, high), len(pictures), random[name], shuffled.get(name)))
    for name in ("miou", "pixel_accuracy"):
        note = f"every pixel is {names[most]}"
        short = "majority_miou" if name == "miou" else "majority_accuracy"
        made.append(
            Figure(
                short,
                float(majority[name][0]),
                low=float(majority[name][0]),
                high=float(majority[name][0]),
                count=len(pictures),
                note=note,
            )
        )
    made += _class_figures(names, once, spread, control, random_iou=true_1C[0] / C / (true_1C[0] + total / C - true_1C[0] / C))
    return TaskResult(task, protocol, tuple(made), table(_rows(pictures, counts)))


def _figure(
    name: str, value: np.ndarray, interval: tuple[float, float], count: int, chance: np.ndarray, shuffled: np.ndarray | None
) -> Figure:
    at, control = float(value[0]), None if shuffled is None else float(shuffled[0])
    return Figure(name, at, min(at, float(interval[0])), max(at, float(interval[1])), count, float(chance[0]), control)


def _class_figures(
    names: Sequence[str], once: list[np.ndarray], spread: list[np.ndarray], control: list[np.ndarray] | None, random_iou: np.ndarray
) -> list[Figure]:
    def iou(parts: list[np.ndarray]) -> np.ndarray:
        return np.where(parts[1] > 0, parts[0] / np.maximum(parts[1] + parts[2] - parts[0], 1e-9), np.nan)

    value, shuffled = iou(once)[0], None if control is None else iou(control)[0]
    spread_rC = iou(spread)
    made = []
    for c, name in enumerate(names):
        if once[1][0, c]:
            low, high = np.nanpercentile(spread_rC[:, c], [2.5, 97.5])
            low, high = float(min(low, value[c])), float(max(high, value[c]))
            pixels, luck = int(once[1][0, c]), float(random_iou[c])
            other = None if shuffled is None else float(shuffled[c])
            made.append(Figure(f"{name}/iou", float(value[c]), low, high, pixels, luck, other))
    return made


def _rows(names: Sequence[str], counts: PixelCounts) -> Rows:
    values = {
        "pixel_accuracy_of_picture": counts.hit.sum(1) / np.maximum(counts.true.sum(1), 1),
        "miou_of_picture": mean_iou(counts.hit, counts.true, counts.found),
    }
    extra = {part: getattr(counts, part).tolist() for part in ("hit", "true", "found")}
    return Rows(names, [""] * len(names), names, values, {}, {}, extra=extra)
