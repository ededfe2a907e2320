"""All dense tasks on one folder: what it holds decides what can be done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wholegrain.errors import UserError
from wholegrain.evaluation.contract import PatchModel
from wholegrain.evaluation.dense.boxes import box_classification, pointing
from wholegrain.evaluation.dense.class_lists import class_list
from wholegrain.evaluation.dense.folder import boxed, class_set, segmented
from wholegrain.evaluation.dense.segmentation import SegmentationOptions, Windows, segmentation
from wholegrain.evaluation.dense.sparc_segmentation import sparc_segmentation
from wholegrain.evaluation.result import NotSupportedError, TaskResult
from wholegrain.evaluation.tasks.zero_shot import TEMPLATES

USUAL_TASKS = ("segmentation", "sparc_segmentation", "box_classification", "pointing")
DENSE_TASKS = (*USUAL_TASKS, "sparc_segmentation_plain")


@dataclass(frozen=True)
class DenseOptions:
    """How to evaluate; see ``wholegrain dense --help``."""

    tasks: Sequence[str] = USUAL_TASKS
    templates: Sequence[str] = TEMPLATES
    attention: str = "plain"
    present_classes: bool = False
    short: int = 0
    stride: int = 0
    scale: float = 0.0
    threshold: float = 0.1
    classes: str = ""
    subset: int = 0
    seed: int = 0
    batch: int = 64
    read_outs: Sequence[str] = ()


def dense(model: PatchModel, folder: Path, options: DenseOptions | None = None) -> tuple[list[TaskResult], dict[str, str]]:
    """Runs the tasks that the folder and the model allow.

    Returns:
        the results, and task -> why it was left out.

    Raises:
        UserError: when none can be done.
    """
    options = options or DenseOptions()
    results, left_out = [], {}
    for task in options.tasks:
        try:
            results += _run(task, model, folder, options)
        except NotSupportedError as reason:
            left_out[task] = str(reason)
        except UserError as reason:
            if len(options.tasks) == 1:
                raise
            left_out[task] = str(reason)
    if not results:
        raise UserError("No task could be done: " + " ".join(f"{task}: {reason}" for task, reason in left_out.items()))
    return results, left_out


def _run(task: str, model: PatchModel, folder: Path, options: DenseOptions) -> list[TaskResult]:
    common = {"templates": options.templates, "seed": options.seed, "batch": options.batch}
    if task in ("box_classification", "pointing"):
        pictures = _some(boxed(folder), options)
        if task == "pointing":
            return pointing(model, pictures, read_outs=options.read_outs, **common)
        return [box_classification(model, pictures, **common)]
    listed = class_list(options.classes) if options.classes else None
    pictures = _some(segmented(folder, listed.ending if listed else ""), options)
    present = None
    if options.present_classes:
        present = sorted({int(n) for picture in pictures for n in np.unique(picture.labels())})
    classes = class_set(folder, present=present, known=listed.classes if listed else None)
    if task in ("sparc_segmentation", "sparc_segmentation_plain"):
        return [sparc_segmentation(model, pictures, classes, patches="plain" if task.endswith("_plain") else "h_v", **common)]
    windows = Windows(options.short or (listed.short if listed else 0), options.stride)
    scale = options.scale or (listed.scale if listed else 40.0)
    how = SegmentationOptions(options.templates, windows, scale, options.threshold, options.attention, options.read_outs)
    return segmentation(model, pictures, classes, how, seed=options.seed, batch=options.batch)


def _some(found: list, options: DenseOptions) -> list:
    if not options.subset or options.subset >= len(found):
        return found
    return [found[n] for n in np.sort(np.random.default_rng(options.seed).permutation(len(found))[: options.subset])]
