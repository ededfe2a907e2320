"""Zero-shot semantic segmentation: the class names of a data set against the patches, pixel by pixel, in sliding windows.

The protocol is that of SCLIP and COSMOS: the picture's shorter side is resized, square windows slide over it (the last ones are moved
inside, nothing is padded), each window's patches meet the class vectors by cosine, the maps are enlarged bilinearly, averaged where
windows overlap, and enlarged to the mask's size; the mask is never resized. A class with several words takes the best of them. Where the
data have a background class, a pixel whose greatest probability (softmax of ``scale`` times the cosines) is below ``threshold`` is
background; without one such pixels are not counted. Words given for the background compete for it, too; SCLIP's probability is over all
words, ours over the classes, each with its best word. SPARC has a protocol of its own (:mod:`wholegrain.evaluation.dense.sparc_segmentation`).

How a class meets a patch is a read-out (:mod:`wholegrain.evaluation.read_outs.registry`): one result each, of the same windows. The cosine
of pooled class vectors, ``pooled``, is that of the protocol; the threshold for a background is one for cosines.

Not zero-shot, and never to be put into one table with these: Cat-Seg and other decoders trained on masks.

Controls: ``chance`` labels every pixel at random; ``majority_…`` gives every pixel the most frequent class; ``shuffled`` takes the
prediction of another picture. Intervals draw pictures with replacement; a class that no drawn picture holds is left out of its mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from wholegrain.errors import UserError
from wholegrain.evaluation.contract import EvaluatedModel, PatchModel
from wholegrain.evaluation.dense.correlative import correlative
from wholegrain.evaluation.dense.folder import ClassSet, Masked
from wholegrain.evaluation.dense.maps import AskedNames, task_name
from wholegrain.evaluation.dense.pixel_counts import PixelCounts, result_of_counts
from wholegrain.evaluation.dense.windows import Windows, window_logits
from wholegrain.evaluation.features.encode import device_of, evaluating
from wholegrain.evaluation.read_outs.contract import AnyReadOut
from wholegrain.evaluation.read_outs.registry import default_read_outs, read_outs_named
from wholegrain.evaluation.read_outs.vectors import VectorReadOut
from wholegrain.evaluation.result import NotSupportedError, TaskResult
from wholegrain.evaluation.scores.similarity import unit
from wholegrain.evaluation.statistics.stand_ins import ring
from wholegrain.evaluation.tasks.zero_shot import TEMPLATES, class_vectors


@dataclass(frozen=True)
class SegmentationOptions:
    """How pictures are read and pixels labelled.

    Attributes:
        templates: sentences around a class's words.
        windows: how they slide.
        scale, threshold: only decide what is background.
        attention: ``plain`` or ``correlative`` (:mod:`wholegrain.evaluation.dense.correlative`); they rank models differently.
        read_outs: names of read-outs; by default ``pooled``, and the one that the model was trained for if it is a product of vectors.
    """

    templates: Sequence[str] = TEMPLATES
    windows: Windows = field(default_factory=Windows)
    scale: float = 40.0
    threshold: float = 0.1
    attention: str = "plain"
    read_outs: Sequence[str] = ()


@dataclass(frozen=True)
class WordVectors:
    """Unit vectors ``[W, D]`` of all words of all classes, and the class (its place) of each, int64 ``[W]``."""

    vector_WD: Tensor
    class_W: Tensor


def word_vectors(model: EvaluatedModel, words: Sequence[Sequence[str]], templates: Sequence[str], batch: int) -> WordVectors:
    """Of the words of each class."""
    named, class_W = words_of_classes(words)
    return WordVectors(class_vectors(model, named, templates, batch), class_W)


def words_of_classes(words: Sequence[Sequence[str]]) -> tuple[list[str], Tensor]:
    """All words of some classes, and the class (its place) of each, int64 ``[W]``."""
    named = [(place, word) for place, own in enumerate(words) for word in own]
    return [word for _, word in named], torch.tensor([place for place, _ in named])


def segmentation(
    model: PatchModel,
    pictures: Sequence[Masked],
    classes: ClassSet,
    options: SegmentationOptions = SegmentationOptions(),
    *,
    seed: int = 0,
    batch: int = 64,
) -> list[TaskResult]:
    """Sliding-window segmentation: a result for each read-out, ``segmentation`` for ``pooled``, ``segmentation_token`` and the like for others.

    Figures: ``miou`` over the data set's counts, ``pixel_accuracy``, ``mean_class_accuracy``, ``majority_miou``,
    ``majority_accuracy``, and ``CLASS/iou``.

    Raises:
        NotSupportedError: when the model gives no patches, no keys and queries where they are asked for, or cannot be read out as is asked.
    """
    check_masks(pictures, classes, options.attention)
    chosen = _read_outs(model, classes, options)
    counts = [PixelCounts.empty(len(pictures), len(classes.ids) + (classes.background is not None)) for _ in chosen]
    order = ring(len(pictures), seed)
    words, class_W = words_of_classes((*classes.words, classes.background_words))
    asked = [AskedNames.of(read_out, words, options.templates, batch) for read_out in chosen]
    before: tuple[np.ndarray, list[np.ndarray]] | None = None
    first: np.ndarray | None = None
    with correlative(model, options.attention == "correlative"):
        for n in order:
            picture = pictures[n]
            true_HW = true_places(picture, classes)
            found = window_logits(model, picture.pixels(), asked, class_W, options.windows, batch)
            labels = [_labels(logits_CHW, true_HW.shape, classes, options) for logits_CHW in found]
            for way, found_HW in enumerate(labels):
                counts[way].add(n, true_HW, found_HW)
                if before is not None:
                    counts[way].add_shuffled(n, true_HW, before[1][way])
            first = true_HW if first is None else first
            before = (true_HW, labels)
    assert before is not None
    assert first is not None
    results, names = [], [picture.name for picture in pictures]
    for way, read_out in enumerate(chosen):
        if len(order) > 1:
            counts[way].add_shuffled(order[0], first, before[1][way])
        protocol = _protocol(len(pictures), classes, int(model.preprocess.size), options, read_out)
        results.append(result_of_counts(task_name("segmentation", read_out), names, classes, counts[way], protocol, seed))
    return results


def _read_outs(model: PatchModel, classes: ClassSet, options: SegmentationOptions) -> list[AnyReadOut]:
    if not options.read_outs:
        usual = [read_out for read_out in default_read_outs(model) if isinstance(read_out, VectorReadOut)]
        return [read_out for read_out in usual if read_out.cosines or classes.background is None]
    chosen = read_outs_named(model, options.read_outs)
    other = next((read_out.name for read_out in chosen if not read_out.cosines), None)
    if other is not None and classes.background is not None:
        raise NotSupportedError(
            f"The background's threshold is one for cosines, which the read-out {other} does not give; use classes without a background "
            "(voc20 for voc21, context59 for context60), or pooled or token_cosine."
        )
    if options.attention == "correlative" and any(read_out.name == "gradient" for read_out in chosen):
        raise NotSupportedError("The read-out gradient is of the tower's own attention; use plain attention with it.")
    return chosen


def check_masks(pictures: Sequence[Masked], classes: ClassSet, attention: str) -> None:
    if not pictures or len(classes.ids) < 2:
        raise UserError("Segmentation needs at least one picture with a mask and two classes; check the folder.")
    if attention not in ("plain", "correlative"):
        raise UserError(f"attention is {attention!r}; choose plain or correlative.")


def true_places(picture: Masked, classes: ClassSet) -> np.ndarray:
    """int64 ``[H, W]``: places in the class list, background behind the last one, -1 where nothing is counted."""
    ids = picture.labels()
    top = max(int(ids.max(initial=0)), *classes.ids, classes.background or 0) + 1
    place = np.full(top, -1)
    place[list(classes.ids)] = np.arange(len(classes.ids))
    if classes.background is not None:
        place[classes.background] = len(classes.ids)
    place[[number for number in classes.ignore if number < top]] = -1
    return place[ids]


def patch_vectors(
    model: PatchModel, views: Sequence[np.ndarray], batch: int = 64, as_images: bool = False
) -> tuple[Tensor, tuple[int, int]]:
    """Unit patch vectors float32 ``[W, P, D]`` of uint8 views ``[3, S, S]``, on the CPU, and their grid.

    Args:
        as_images: each patch goes the way of the model's pooled vector (``Model.encode_patches_as_images``).

    Raises:
        NotSupportedError: when the model gives none.
    """
    found, grid = [], (0, 0)
    for start in range(0, len(views), batch):
        pixels = torch.from_numpy(np.stack([np.asarray(view) for view in views[start : start + batch]]))
        try:
            with evaluating(model):
                pixels_BCHW = pixels.to(device_of(model))
                image = model.encode_patches_as_images(pixels_BCHW) if as_images else model.encode_images(pixels_BCHW, frozenset({"patches"}))
        except UserError as error:
            raise NotSupportedError(str(error)) from error
        if image.patches_BPD is None or image.grid is None:
            raise NotSupportedError("The model gives no patch vectors; choose a model with a Vision Transformer.")
        found.append(unit(image.patches_BPD).cpu().clone())
        grid = image.grid
    return torch.cat(found), grid


def _labels(logits_CHW: Tensor, shape: tuple[int, ...], classes: ClassSet, options: SegmentationOptions) -> np.ndarray:
    threshold = None if classes.background is None else options.threshold
    return labels_of(logits_CHW, (shape[0], shape[1]), options.scale, threshold, background=len(classes.ids))


def labels_of(
    logits_CHW: Tensor,
    shape: tuple[int, int],
    scale: float,
    threshold: float | None,
    step: int = 16,
    background: int | None = None,
) -> np.ndarray:
    """int64 ``[H, W]``: the class of the greatest logit at ``shape``; ``background`` (C by default: behind the last one) where its
    probability is below the threshold. The background may have a logit of its own, at its place."""
    best = torch.full(shape, -torch.inf)
    label = torch.zeros(shape, dtype=torch.int64)
    total = torch.full(shape, -torch.inf)
    for start in range(0, len(logits_CHW), step):  # a few classes at a time: all at a large mask's size would fill the memory
        large = interpolate(logits_CHW[None, start : start + step], shape, mode="bilinear")[0]
        value, place = large.max(0)
        label = torch.where(value > best, place + start, label)
        best = torch.maximum(best, value)
        if threshold is not None:
            total = torch.logaddexp(total, torch.logsumexp(scale * large, 0))
    if threshold is not None:
        label = torch.where(
            torch.exp(scale * best - total) < threshold, len(logits_CHW) if background is None else background, label
        )
    return label.numpy()


def _protocol(pictures: int, classes: ClassSet, size: int, options: SegmentationOptions, read_out: AnyReadOut) -> str:
    windows = options.windows
    ground = (
        f"a background where the greatest probability (scale {options.scale:g}) is below {options.threshold:g}"
        if classes.background is not None
        else "no background class"
    )
    return (
        f"{pictures:,} pictures, {len(classes.ids):,} classes, {len(options.templates)} prompts a word, {options.attention} attention: shorter side "
        f"{windows.short or round(1.5 * size)}, windows of {size} every {windows.stride or max(1, size // 2)} pixels, values of patches "
        f"(read-out {read_out.name}: {read_out.sentence}) averaged and enlarged to the mask; {ground}; mIoU over all pixels of the data set "
        "and the classes that occur."
    )
