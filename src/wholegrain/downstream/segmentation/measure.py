"""From trained heads, and from class names without training, to results on the same pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from wholegrain.downstream.pictures import TowerTokens
from wholegrain.downstream.segmentation.head import SegmentationHeads, patches_of, pooled_regions
from wholegrain.downstream.segmentation.labelled import LabelledPictures, LabelMaps, class_names
from wholegrain.downstream.segmentation.task import Regions, SegmentationSettings
from wholegrain.errors import UserError
from wholegrain.evaluation.dense.maps import AskedNames
from wholegrain.evaluation.dense.pixel_counts import PixelCounts, mean_iou, result_of_counts
from wholegrain.evaluation.dense.segmentation import SegmentationOptions, labels_of, segmentation, word_vectors, words_of_classes
from wholegrain.evaluation.dense.windows import Windows, window_logits
from wholegrain.evaluation.read_outs.registry import COMMON, read_outs_named
from wholegrain.evaluation.result import TaskResult
from wholegrain.evaluation.scores.similarity import unit
from wholegrain.evaluation.statistics.rows import Rows, figures, table
from wholegrain.evaluation.statistics.stand_ins import ring
from wholegrain.evaluation.tasks.templates import templates_of
from wholegrain.evaluation.tasks.zero_shot import class_values, per_class_figure
from wholegrain.progress import Show, nowhere
from wholegrain.towers.base import RawImage
from wholegrain.towers.model import Model

THRESHOLDS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95)
"""Least probabilities of a class, below which a pixel is background, that are tried on training pictures."""

Scored = Callable[[RawImage, Tensor, Tensor], Tensor]
"""Tokens of a batch, float masks ``[M, S, S]``, the picture of each -> scores ``[M, C]``."""


@dataclass
class RegionScores:
    """Scores of regions: ``[M, C]`` once under their own picture's masks and once on another picture, and what they are.

    Attributes:
        own, other: parts ``[m, C]``, picture by picture.
        class_M: true classes, picture by picture; ``keys``: their pictures.
    """

    own: list[Tensor] = field(default_factory=list[Tensor])
    other: list[Tensor] = field(default_factory=list[Tensor])
    classes: list[np.ndarray] = field(default_factory=list[np.ndarray])
    keys: list[str] = field(default_factory=list[str])

    def result(self, task: str, names: Sequence[str], protocol: str, seed: int) -> TaskResult:
        """``acc1``, ``acc5`` over regions, means over classes, a row a region.

        Raises:
            UserError: no picture has a region.
        """
        true_M = np.concatenate(self.classes) if self.classes else np.zeros(0, dtype=np.int64)
        if not len(true_M):
            raise UserError("No picture that is measured holds a region of a class; choose another split.")
        items = [f"{key}:{names[c]}" for key, c in zip(self.keys, true_M.tolist(), strict=True)]
        right = torch.from_numpy(true_M)
        values = class_values(torch.cat(self.own), right)
        shuffled = class_values(torch.cat(self.other), right) if self.other else {}
        common = float(np.bincount(true_M).max()) / len(true_M)
        chance = {f"acc{k}{end}": min(1.0, k / len(names)) for k in (1, 5) for end in ("", "_expected")}
        extra = {"label": [names[c] for c in true_M.tolist()], "predicted": [names[c] for c in torch.cat(self.own).argmax(1).tolist()]}
        rows = Rows(items, [""] * len(items), self.keys, values, chance, shuffled, extra=extra)
        each = per_class_figure(
            values["acc1_expected"], shuffled.get("acc1_expected"), true_M, self.keys, len(names), seed, 1, "mean_per_class_acc1"
        )
        said = f"{len(items):,} regions, {len(names):,} classes, the most frequent {100 * common:.1f}% of them; {protocol}"
        return TaskResult(task, said, (*figures(rows, seed=seed, hide=("tie_rate",)), each), table(rows))


@dataclass(frozen=True)
class Measured:
    """Results of the heads, and labels of a few pictures for the page: key -> int64 ``[H, W]``."""

    results: list[TaskResult]
    shown: dict[str, np.ndarray]


class Segmenter:
    """Measures heads and class names on some pictures.

    Args:
        pictures, keys: what is measured on.
        settings: the recipe.
        seed: of controls and resamples.
    """

    def __init__(self, pictures: LabelledPictures, keys: Sequence[str], settings: SegmentationSettings, seed: int = 0) -> None:
        self.pictures, self.keys, self.settings, self.seed = pictures, list(keys), settings, seed
        self.maps = LabelMaps(pictures, settings.data.side)
        self.names = class_names(pictures.classes)
        self.named = len(pictures.classes.ids)

    def trained(self, heads: SegmentationHeads, tokens: TowerTokens, said: str, keep: Sequence[str] = (), show: Show = nowhere) -> Measured:
        """``segment`` (the linear head) and ``segment_regions`` (the mask-pooling head)."""
        heads.eval()
        counts, scores, shown = PixelCounts.empty(len(self.keys), len(self.names)), RegionScores(), dict[str, np.ndarray]()
        place = {key: n for n, key in enumerate(self.keys)}
        for key, raw, other in self._pairs(tokens, show):
            true_HW = self.maps.full(key)
            found = [_labels(heads, one, (true_HW.shape[0], true_HW.shape[1])) for one in (raw, other) if one is not None]
            counts.add(place[key], true_HW, found[0])
            if len(found) > 1:
                counts.add_shuffled(place[key], true_HW, found[1])
            if key in keep:
                shown[key] = found[0]
            self._add_regions(scores, key, [one for one in (raw, other) if one is not None], heads.region_logits)
        whole = f"{len(self.keys):,} pictures, {len(self.names):,} classes{self._ground()}, each picture seen whole, made square"
        pixels = f"{whole}; a linear layer on patches, enlarged bilinearly to the mask. {said}; mIoU over all pixels of the data and the classes that occur."
        regions = f"the patches under a given mask (all pixels of a class in a picture) averaged, then a linear layer. {said}."
        first = result_of_counts("segment", self.keys, self.pictures.classes, counts, pixels, self.seed)
        return Measured([first, scores.result("segment_regions", self.names[: self.named], regions, self.seed)], shown)

    def untrained_regions(self, model: Model, tokens: TowerTokens, show: Show = nowhere) -> TaskResult:
        """``segment_regions_names``: pooled patches against class names' vectors, by cosine."""
        words = word_vectors(model, self.pictures.classes.words, templates_of(self.settings.data.templates), 256)
        scores = RegionScores()

        def scored(raw: RawImage, mask_MSS: Tensor, picture_M: Tensor) -> Tensor:
            patches_BPD = model.project_images(raw, frozenset({"patches"})).patches_BPD
            assert patches_BPD is not None
            near_MW = unit(pooled_regions(unit(patches_BPD), patches_of(raw)[1], mask_MSS, picture_M)).cpu() @ words.vector_WD.T
            return torch.stack([near_MW[:, words.class_W == c].amax(1) for c in range(self.named)], 1)

        for key, raw, other in self._pairs(tokens, show):
            self._add_regions(scores, key, [one for one in (raw, other) if one is not None], scored)
        said = "without training: unit patches under a given mask (all pixels of a class in a picture) averaged, against the class names by cosine."
        return scores.result("segment_regions_names", self.names[: self.named], said, self.seed)

    def untrained_pixels(self, model: Model, train_keys: Sequence[str]) -> list[TaskResult]:
        """``segment_names``: cosines of class names and patches, enlarged, as ``wholegrain dense`` does it, by its default read-outs.

        Pictures are read at the size at which the heads see them: the shorter side is the model's, so that a square picture is one window. The
        threshold of the background is the one of :data:`THRESHOLDS` with the best mIoU on some training pictures.

        Raises:
            NotSupportedError: the model cannot be read out so.
        """
        size = int(model.preprocess.size)
        options = SegmentationOptions(templates_of(self.settings.data.templates), Windows(size, size))
        chosen = ""
        if self.pictures.classes.background is not None:
            tried = [train_keys[n] for n in _spread(len(train_keys), self.settings.data.threshold_pictures)]
            options = replace(options, threshold=self._best_threshold(model, tried, options))
            chosen = f" The threshold was chosen on {len(tried):,} training pictures, of {', '.join(f'{one:g}' for one in THRESHOLDS)}."
        found = segmentation(model, [self.pictures.masked(key) for key in self.keys], self.pictures.classes, options, seed=self.seed)
        return [
            replace(one, task=one.task.replace("segmentation", "segment_names"), protocol=f"Without training: {one.protocol}{chosen}")
            for one in found
        ]

    def _best_threshold(self, model: Model, keys: Sequence[str], options: SegmentationOptions) -> float:
        """By mIoU, of the common read-out."""
        words, class_W = words_of_classes(self.pictures.classes.words)
        asked = AskedNames.of(read_outs_named(model, [COMMON])[0], words, options.templates, 64)
        counts = [PixelCounts.empty(len(keys), len(self.names)) for _ in THRESHOLDS]
        for n, key in enumerate(keys):
            true_HW = self.maps.full(key)
            (logits_CHW,) = window_logits(model, self.pictures.pixels(key), [asked], class_W, options.windows)
            for one, threshold in zip(counts, THRESHOLDS, strict=True):
                one.add(n, true_HW, labels_of(logits_CHW, (true_HW.shape[0], true_HW.shape[1]), options.scale, threshold))
        scores = [float(mean_iou(*(part.sum(0, keepdims=True) for part in (one.hit, one.true, one.found)))[0]) for one in counts]
        return THRESHOLDS[int(np.argmax(scores))]

    def _pairs(self, tokens: TowerTokens, show: Show) -> Iterator[tuple[str, RawImage, RawImage | None]]:
        """Each picture's key, its tokens (a batch of one), and those of the picture before it in a random ring, if there is one."""
        ordered = [self.keys[n] for n in ring(len(self.keys), self.seed)]
        first = before = None
        for keys, raw in tokens.batches(ordered, 32, show):
            for n, key in enumerate(keys):
                own = raw.map(lambda part, n=n: part[n : n + 1])
                if first is None:
                    first = key, own
                else:
                    yield key, own, before
                before = own
        if first is not None:
            yield *first, before if len(ordered) > 1 else None

    def _add_regions(self, scores: RegionScores, key: str, raws: Sequence[RawImage], scored: Scored) -> None:
        regions = Regions.of(self.maps.square(key), self.named, self.settings.data.least)
        if not len(regions.class_M):
            return
        patches_BPV, _ = patches_of(raws[0])
        mask_MSS = torch.from_numpy(regions.mask_MSS).to(patches_BPV.device).float()
        picture_M = torch.zeros(len(mask_MSS), dtype=torch.int64, device=patches_BPV.device)
        with torch.no_grad():
            found = [scored(raw, mask_MSS, picture_M).float().cpu() for raw in raws]
        scores.own.append(found[0])
        scores.other += found[1:]
        scores.classes.append(regions.class_M)
        scores.keys += [key] * len(regions.class_M)

    def _ground(self) -> str:
        return " with the background" if len(self.names) > self.named else ", no background"


def _labels(heads: SegmentationHeads, raw: RawImage, shape: tuple[int, int]) -> np.ndarray:
    """int64 ``[H, W]``: the class of the greatest logit."""
    with torch.no_grad():
        logits_CRQ = heads.pixel_logits(raw)[0].float().cpu()
    return labels_of(logits_CRQ, shape, 1.0, None)


def _spread(count: int, wanted: int) -> list[int]:
    """At most so many places, evenly over all."""
    return sorted({int(place) for place in np.linspace(0, count - 1, min(count, wanted))})
