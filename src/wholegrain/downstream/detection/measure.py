"""From detections to a result: average precisions with intervals and control, and every box behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wholegrain.downstream.detection.average_precision import (
    average_precisions,
    found_boxes,
    matched,
    mean_precisions,
    spreads,
)
from wholegrain.downstream.detection.boxes import BoxedPicture
from wholegrain.downstream.detection.detect import NOTHING, Detections
from wholegrain.errors import UserError
from wholegrain.evaluation.result import Figure, TaskResult
from wholegrain.evaluation.statistics.rows import Rows, figures, table
from wholegrain.evaluation.statistics.stand_ins import stand_ins

NOTE = "over all pictures together; not a mean of items"
_Z = 1.959963984540054


@dataclass(frozen=True)
class Judge:
    """What detections are held against.

    Attributes:
        pictures: with their boxes.
        names: the vocabulary that labels are places in.
        trained: names that some head saw in training: all others are *rare*.
        most: detections a picture.
        seed: of resamples and of the control.
    """

    pictures: Sequence[BoxedPicture]
    names: Sequence[str]
    trained: frozenset[str]
    most: int = 100
    seed: int = 0

    @property
    def groups(self) -> dict[str, np.ndarray]:
        """``rare`` (never trained) and ``common`` names, bool ``[C]``."""
        common_C = np.array([name in self.trained for name in self.names])
        return {"rare": ~common_C, "common": common_C}

    def result(self, task: str, found: Sequence[Detections], protocol: str) -> TaskResult:
        """``AP``, ``AP50``, ``AP_rare``, ``AP_common``, and ``recall50`` of the boxes, each a row of the items.

        Raises:
            UserError: no picture has a box, or faster-coco-eval is not installed.
        """
        if not any(picture.boxes for picture in self.pictures):
            raise UserError("No picture has a box to be found; choose another split or other annotations.")
        value = self.precisions(found)
        other = self._exchanged(found)
        shuffled = {} if other is None else self.precisions(other)
        error = spreads(matched(self.pictures, found, self.names, self.most), len(self.pictures), self.groups, self.seed)
        made = [
            Figure(name, value[name], *_around(value[name], error[name]), self._count(name), None, shuffled.get(name), note=NOTE)
            for name in value
            if np.isfinite(value[name])
        ]
        rows = self._rows(found, other)
        return TaskResult(task, f"{self._protocol()} {protocol}", (*made, *figures(rows, seed=self.seed)), table(rows))

    def precisions(self, found: Sequence[Detections]) -> dict[str, float]:
        """``AP``, ``AP50``, ``AP_rare`` and ``AP_common``; NaN where no name has a box."""
        ap_CT = average_precisions(self.pictures, found, self.names, self.most)
        return {name: float(value[0]) for name, value in mean_precisions(ap_CT[None], self.groups).items()}

    def _exchanged(self, found: Sequence[Detections]) -> list[Detections] | None:
        """Every picture's detections in another picture, at the same shares of its sides."""
        other_N = stand_ins([picture.key for picture in self.pictures], self.seed)
        if other_N is None:
            return None
        sizes = [np.tile(picture.size, 2) for picture in self.pictures]
        return [Detections(found[o].box_K4 / sizes[o] * sizes[n], found[o].score_K, found[o].label_K) for n, o in enumerate(other_N.tolist())]

    def _count(self, figure: str) -> int:
        chosen = self.groups.get(figure.removeprefix("AP_"), np.ones(len(self.names), dtype=bool))
        wanted = {name for name, here in zip(self.names, chosen, strict=True) if here}
        return sum(name in wanted and not crowd for p in self.pictures for name, crowd in zip(p.names, p.is_crowd, strict=True))

    def _rows(self, found: Sequence[Detections], other: Sequence[Detections] | None) -> Rows:
        keys, items, groups, labels, hits, control = [], [], [], [], [], []
        for n, (picture, one) in enumerate(zip(self.pictures, found, strict=True)):
            hit_M = found_boxes(picture, one, self.names)
            other_M = found_boxes(picture, NOTHING if other is None else other[n], self.names)
            for m, name in enumerate(picture.names):
                if not picture.is_crowd[m]:
                    keys.append(picture.key)
                    items.append(f"{picture.key}:{m}")
                    groups.append("common" if name in self.trained else "rare")
                    labels.append(name)
                    hits.append(float(hit_M[m]))
                    control.append(float(other_M[m]))
        shuffled = {} if other is None else {"recall50": np.array(control)}
        return Rows(items, groups, keys, {"recall50": np.array(hits)}, {}, shuffled, extra={"label": labels})

    def _protocol(self) -> str:
        rare = {name for picture in self.pictures for name in picture.names} - self.trained
        return (
            f"{len(self.pictures):,} pictures with {self._count('AP'):,} boxes, {len(self.names):,} names looked for, {len(rare):,} of those in the "
            f"boxes never trained (rare); COCO's average precision by LVIS's rules (faster-coco-eval), at most {self.most} detections a picture; "
            "shuffled: another picture's detections; intervals by the standard deviation over resamples of pictures; recall50: a box is met at an "
            "IoU of one half by one of the surest detections of its name, as many as that name has boxes."
        )


def _around(value: float, error: float) -> tuple[float, float]:
    """The 95% interval of a share by its standard error."""
    return max(0.0, value - _Z * error), min(1.0, value + _Z * error)
