"""What ``wholegrain segment`` does: trains two heads on a model's patches, and measures them beside class names without training."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from wholegrain.workflows.head_arguments import HeadArguments

if TYPE_CHECKING:
    from torch import nn

    from wholegrain.downstream.segmentation.labelled import LabelledPicture, LabelledPictures
    from wholegrain.downstream.segmentation.measure import Segmenter
    from wholegrain.downstream.segmentation.task import SegmentationSettings, SegmentationTargets, SegmentationTask
    from wholegrain.evaluation.result import TaskResult
    from wholegrain.progress import Show
    from wholegrain.report.segmentation_page import SegmentationCard
    from wholegrain.towers.model import Model
    from wholegrain.workflows.downstream import HeadDone, HeadWork

SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class SegmentArguments(HeadArguments):
    """Options of ``wholegrain segment``: those that all tasks on an image tower share. DATA may be a folder of images/, masks/ and classes.json, too;
    the splits are then its folders of pictures (images/train2017)."""


def segment(args: SegmentArguments) -> HeadDone | None:
    """Trains and measures; ``None`` in all processes but the main one."""
    from wholegrain.downstream.segmentation.task import SegmentationSettings
    from wholegrain.downstream.settings import load_settings
    from wholegrain.workflows.downstream import carry_out

    settings = load_settings("segment", SegmentationSettings, args.recipe, args.all_overrides)
    return carry_out(args, partial(_work, args, settings), "segment")


def _work(args: SegmentArguments, settings: SegmentationSettings, model: Model) -> HeadWork[LabelledPicture, SegmentationTargets]:
    from wholegrain.downstream.segmentation.labelled import examples, labelled_pictures
    from wholegrain.downstream.segmentation.task import SegmentationTask
    from wholegrain.workflows.downstream import HeadWork

    pictures = labelled_pictures(args.data)
    train, test = examples(pictures, args.train_split), examples(pictures, args.split)
    task = SegmentationTask(settings, pictures)
    facts = {"dataset": str(args.data), "split": args.split, "content_hash": pictures.content_hash, "classes": len(task.names)}
    keys = [[example.key for example in part] for part in (train, test)]
    return HeadWork(task, pictures, train, partial(_measure, args, pictures, task, *keys), facts)


def _measure(
    args: SegmentArguments,
    pictures: LabelledPictures,
    task: SegmentationTask,
    train: list[str],
    test: list[str],
    head: nn.Module,
    model: Model,
    show: Show,
) -> tuple[list[TaskResult], str]:
    """The trained heads' results, then those of class names without training; and the page."""
    from wholegrain.downstream.pictures import TowerTokens
    from wholegrain.downstream.segmentation.head import SegmentationHeads
    from wholegrain.downstream.segmentation.measure import Segmenter
    from wholegrain.evaluation.result import NotSupportedError
    from wholegrain.report.segmentation_page import segmentation_page

    assert isinstance(head, SegmentationHeads)
    settings = task.settings
    measured = Segmenter(pictures, test, settings, args.seed)
    tokens = TowerTokens(model, pictures, task.needs, settings.training.precision)
    chosen = sorted(np.random.default_rng([args.seed, 5]).permutation(test)[:SHOWN].tolist())
    tuned = "" if model.image_frozen else f"; of the image tower was tuned: {settings.training.tune}"
    said = f"{settings.training.steps:,} steps of {settings.training.batch} on {len(train):,} pictures{tuned}"
    found = measured.trained(head, tokens, said, chosen, show)
    results = found.results
    if model.image_frozen:  # a tuned tower no longer meets its text tower
        results.append(measured.untrained_regions(model, tokens, show))
        show("class names against patches", 0, 0)
        with suppress(NotSupportedError):  # of models that cannot be read out so there is no such row
            results += measured.untrained_pixels(model, train)
    return results, segmentation_page(args.model, args.data.resolve().name, _cards(pictures, measured, found.shown), results)


def _cards(pictures: LabelledPictures, measured: Segmenter, shown: dict[str, np.ndarray]) -> list[SegmentationCard]:
    from wholegrain.report.segmentation_page import segmentation_card

    return [
        segmentation_card(key, pictures.pixels(key), measured.maps.full(key), labels, measured.names, ground=len(measured.names) > measured.named)
        for key, labels in shown.items()
    ]
