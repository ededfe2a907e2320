"""Any classification or retrieval set under ImageNet-C's corruptions: one row for each corruption, the mean over severities.

Pictures are first brought to the size that the corruptions are made for: for classification the shorter side to 256 pixels and the middle 224
cut out, as ImageNet-C; for retrieval the shorter side to 224 and nothing cut, since captions speak of the edges, too. The row ``clean`` is the
same view without corruption. ImageNet-C's files were also saved as JPEG of quality 85, which is left out here.

``corruption_error`` is 1 - accuracy, and over all rows the mean corruption error *without* AlexNet's normalisation. For ``imagenet`` with all 15
corruptions and all severities ``mce_alexnet`` stands beside it: each corruption's error divided by AlexNet's, then averaged (it may exceed
100%); on other sets AlexNet's errors on ImageNet mean nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from wholegrain.evaluation.benchmarks.caption_retrieval import encoded_captions
from wholegrain.evaluation.benchmarks.classification import classification_result, image_features, zero_shot_classifier
from wholegrain.evaluation.benchmarks.corruptions import ALEXNET, SEVERITIES, corrupt, frost_photos, generator
from wholegrain.evaluation.benchmarks.items import CaptionSet, LabelledSet, Picture
from wholegrain.evaluation.benchmarks.pictures import Pictures
from wholegrain.evaluation.contract import EvaluatedModel
from wholegrain.evaluation.features.feature_store import FeatureStore
from wholegrain.evaluation.result import NotSupportedError, TaskResult
from wholegrain.evaluation.scores.similarity import logit_scale
from wholegrain.evaluation.statistics.rows import Rows, figures, join, table
from wholegrain.evaluation.tasks.retrieval import RetrievalOptions, retrieval

CLEAN = "clean"
SHOWN = ("acc1", "acc5", "acc1_expected", "recall@1", "recall@5", "recall@10")


@dataclass(frozen=True)
class Corruptions:
    """What is done to pictures.

    Attributes:
        names, severities: every one with every other.
        frost: a folder with photographs of frost; ``None`` draws it.
        seed: of all draws.
    """

    names: tuple[str, ...] = tuple(ALEXNET)
    severities: tuple[int, ...] = SEVERITIES
    frost: Path | None = None
    seed: int = 0

    def each(self) -> list[tuple[str, int]]:
        """All pairs, the clean view first."""
        return [(CLEAN, 0), *((name, severity) for name in self.names for severity in self.severities)]


class Corrupted:
    """Pictures under one corruption, in the form of :class:`~wholegrain.evaluation.benchmarks.pictures.Pictures`."""

    def __init__(self, pictures: Pictures, name: str, severity: int, how: Corruptions, crop: bool) -> None:
        self._pictures, self._name, self._severity, self._how, self._crop = pictures, name, severity, how, crop
        ice = f"-{how.frost.resolve()}" if how.frost is not None and name == "frost" else ""
        self._ending = f"~{name}-{severity}-{how.seed}-{'crop' if crop else 'whole'}{ice}"
        self.key: dict[Picture, str] = {picture: key + self._ending for picture, key in pictures.key.items()}

    def pixels(self, key: str) -> np.ndarray:
        """uint8 RGB of the corrupted view."""
        own = key.removesuffix(self._ending)
        view = source_view(self._pictures.pixels(own), self._crop)
        if self._name == CLEAN:
            return view
        how = self._how
        return corrupt(view, self._name, self._severity, generator(how.seed, own, self._name, self._severity), frost=how.frost)


def source_view(pixels_HWC: np.ndarray, crop: bool) -> np.ndarray:
    """The view that is corrupted: 224 x 224 from the middle of 256, or the whole picture with its shorter side at 224."""
    height, width = pixels_HWC.shape[:2]
    grow = (256 if crop else 224) / min(height, width)
    size = (max(1, round(width * grow)), max(1, round(height * grow)))
    made = np.asarray(Image.fromarray(pixels_HWC).resize(size, Image.Resampling.BILINEAR))
    if not crop:
        return made
    top, left = (size[1] - 224) // 2, (size[0] - 224) // 2
    return np.ascontiguousarray(made[top : top + 224, left : left + 224])


def corrupted_classes(found: LabelledSet, model: EvaluatedModel, store: FeatureStore, how: Corruptions, *, seed: int = 0) -> TaskResult:
    """``NAME_corrupted``: zero-shot accuracy under each corruption.

    Raises:
        NotSupportedError: for sets with several labels a picture.
    """
    if any(len(label) != 1 for label in found.labels):
        raise NotSupportedError(
            f"Pictures of {found.name} have several labels; corruptions are for sets with one class a picture."
        )
    pictures, classify, results = Pictures(found.pictures), zero_shot_classifier(found, model, store), {}
    _check(how)
    keys = [pictures.key[picture] for picture in found.pictures]
    for name, severity in how.each():
        image = image_features(found.pictures, Corrupted(pictures, name, severity, how, crop=True), store)
        results[name, severity] = classification_result(found, classify(image), keys, seed, logit_scale(model))
    alexnet = found.name == "imagenet" and set(how.names) >= set(ALEXNET) and set(how.severities) == set(SEVERITIES)
    protocol = "; ".join((found.protocol, *found.notes))
    return stacked(f"{found.name}_corrupted", results, f"{protocol}; {_description(how, 'the middle 224 pixels of 256')}", alexnet, seed)


def corrupted_captions(found: CaptionSet, model: EvaluatedModel, store: FeatureStore, how: Corruptions, *, seed: int = 0) -> TaskResult:
    """``NAME_corrupted``: recall in both directions under each corruption."""
    if len(found.pictures) < 2:
        raise NotSupportedError(f"{found.name} has a single picture, so there is nothing to choose from.")
    _check(how)
    pictures, results = Pictures(found.pictures), {}
    encoded, _ = encoded_captions(found, store)
    for name, severity in how.each():
        image = image_features(found.pictures, Corrupted(pictures, name, severity, how, crop=False), store)
        results[name, severity] = retrieval(replace(encoded, image=image), RetrievalOptions(owner_only=not found.shared), model=model, seed=seed)
    return stacked(
        f"{found.name}_corrupted", results, f"{found.protocol}; {_description(how, 'the shorter side at 224 pixels')}", False, seed
    )


def _check(how: Corruptions) -> None:
    """Says what is wrong with the settings before anything is encoded."""
    blank = np.zeros((32, 32, 3), np.uint8)
    for name, severity in how.each()[1:]:
        corrupt(blank, name, severity, generator(0, "", name, severity))
    if how.frost is not None and "frost" in how.names:
        frost_photos(how.frost)


def _description(how: Corruptions, view: str) -> str:
    frost = (
        ""
        if "frost" not in how.names
        else "; frost is drawn, not photographed"
        if how.frost is None
        else f"; frost from {how.frost}"
    )
    return f"{len(how.names)} corruptions of ImageNet-C at severities {', '.join(map(str, how.severities))} of {view}{frost}."


def stacked(task: str, results: Mapping[tuple[str, int], TaskResult], protocol: str, alexnet: bool, seed: int) -> TaskResult:
    """One result of several over the same items: a group for each corruption, all severities in it; over all without ``clean``."""
    parts = [_rows(name, severity, result, alexnet) for (name, severity), result in results.items()]
    rows = join(parts)
    units = {"mce_alexnet": "ratio"}
    notes = {
        "corruption_error": "not divided by AlexNet's",
        "mce_alexnet": "divided by AlexNet's",
    }
    return TaskResult(task, protocol, tuple(figures(rows, units=units, notes=notes, seed=seed)), table(rows))


def _rows(name: str, severity: int, result: TaskResult, alexnet: bool) -> Rows:
    items = result.items.filter(result.items["overall"])
    kept = [figure for figure in result.figures if figure.name.endswith(SHOWN) and figure.name in items.column_names]
    values = {figure.name: _numbers(items[figure.name]) for figure in kept}
    chance = {figure.name: figure.chance for figure in kept if figure.chance is not None}
    shuffled = {figure.name: np.full(len(items), figure.shuffled) for figure in kept if figure.shuffled is not None}
    if "acc1" in values:
        values["corruption_error"] = 1 - values["acc1"]
    if alexnet:
        values["mce_alexnet"] = np.full(len(items), np.nan) if name not in ALEXNET else (1 - values["acc1"]) / ALEXNET[name]
    names = [f"{severity}|{item}" for item in items["item"].to_pylist()]
    overall = np.full(len(items), name != CLEAN)
    extra = {"severity": [severity] * len(items)}
    return Rows(names, [name] * len(items), items["cluster"].to_pylist(), values, chance, shuffled, overall, extra)


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in column.to_pylist()], dtype=np.float64)


def check_severities(severities: Sequence[int]) -> tuple[int, ...]:
    """Severities in order, each once; all five if none is given."""
    return tuple(sorted(set(severities))) or SEVERITIES
