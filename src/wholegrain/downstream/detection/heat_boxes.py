"""Boxes without training: a name's heat map by a model's read-out, enlarged, cut at a share of its range, and its connected parts.

As weakly supervised localisation does it (Zhou et al., *Learning deep features for discriminative localization*, CVPR 2016, section 3.2, with
one box of the largest part there; here every part is a box, whose score is its greatest value). What a trained head adds is measured against it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import interpolate

from wholegrain.downstream.detection.boxes import BoxedPicture
from wholegrain.downstream.detection.detect import NOTHING, Detections
from wholegrain.downstream.task import PictureData
from wholegrain.evaluation.dense.maps import AskedNames, seen_views
from wholegrain.evaluation.read_outs.contract import AnyReadOut
from wholegrain.evaluation.tasks.templates import templates_of
from wholegrain.progress import Show, nowhere
from wholegrain.towers.model import Model

LARGER = 4
"""Cells a patch of the enlarged map, along each side."""
CUTS = (0.3, 0.45, 0.6, 0.75, 0.9)
"""That are tried on training pictures."""


@dataclass(frozen=True)
class HeatBoxes:
    """How boxes are taken out of maps.

    Attributes:
        read_out: how a name meets a patch.
        cut: share of the map's range above which a cell belongs to a box.
        names: of so many names, those with the greatest values in the picture, maps are looked at.
        most: detections a picture.
    """

    read_out: AnyReadOut
    cut: float = 0.5
    names: int = 100
    most: int = 100

    def of_pictures(
        self,
        pictures: Sequence[BoxedPicture],
        data: PictureData,
        vocabulary: Sequence[str],
        templates: Sequence[str],
        show: Show = nowhere,
    ) -> Iterator[Detections]:
        """The detections of each picture, in order. The read-out's model sees each picture whole (``downstream/pictures.py:prepared_model``)."""
        model = self.read_out.model
        assert isinstance(model, Model)
        asked = AskedNames.of(self.read_out, vocabulary, templates_of(templates), 64)
        for start in range(0, len(pictures), 64):
            part = pictures[start : start + 64]
            views = [model.preprocess.image(data.pixels(picture.key)) for picture in part]
            for seen in seen_views(model, [self.read_out], views, 64):
                maps_BPC = self.read_out.all_maps(seen.looks[0], asked.asked_N, len(part))
                for picture, map_PC in zip(part, maps_BPC, strict=True):
                    yield self.boxes(map_PC.T.unflatten(1, seen.grid), picture.size)
            show(f"boxes from heat maps ({self.read_out.name})", min(len(pictures), start + 64), len(pictures))

    def boxes(self, map_CRQ: Tensor, size: tuple[int, int]) -> Detections:
        """The detections of one picture of ``size`` (width, height), from each name's map ``[C, R, Q]``."""
        label_N = map_CRQ.flatten(1).amax(1).topk(min(self.names, len(map_CRQ))).indices
        fine = interpolate(map_CRQ[label_N, None].float(), scale_factor=LARGER, mode="bilinear").squeeze(1).numpy()
        found = [(label, *part) for label, one in zip(label_N.tolist(), fine, strict=True) for part in self._parts(one)]
        if not found:
            return NOTHING
        label_K, score_K, box_K4 = (np.array(column) for column in zip(*found, strict=True))
        order = np.argsort(-score_K, kind="stable")[: self.most]
        cells = np.tile((fine.shape[2], fine.shape[1]), 2)
        return Detections(box_K4[order] / cells * np.tile(size, 2), score_K[order].astype(np.float64), label_K[order])

    def _parts(self, map_RQ: np.ndarray) -> Iterator[tuple[float, tuple[int, int, int, int]]]:
        """Score and box (in cells) of each connected part above the cut."""
        low, high = float(map_RQ.min()), float(map_RQ.max())
        if not high > low:
            return
        parts_RQ = np.zeros(map_RQ.shape, dtype=np.int32)
        ndimage.label(map_RQ >= low + self.cut * (high - low), output=parts_RQ)
        for number, (rows, columns) in enumerate(ndimage.find_objects(parts_RQ), 1):
            own_RQ = parts_RQ[rows, columns] == number
            yield float(map_RQ[rows, columns][own_RQ].max()), (columns.start, rows.start, columns.stop, rows.stop)
