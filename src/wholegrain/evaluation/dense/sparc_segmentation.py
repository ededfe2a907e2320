"""SPARC's own segmentation protocol (Bica et al. 2024, section 4.6).

The whole picture in one view, a class per patch, the label map enlarged to the mask's size; intersection over union per class averaged
over the classes present in the picture, then over pictures; countable classes only. The paper leaves open whether all classes compete
or only those present, so both are given.

Patches go through h_v, the layer that SPARC's head has on its way to the pooled vector, as in the paper (appendix D.7); ``patches="plain"``
reads them without, as the local loss and all other tasks do. Heads without such a layer give the same by both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wholegrain.evaluation.contract import PatchModel
from wholegrain.evaluation.dense.folder import ClassSet, Masked
from wholegrain.evaluation.dense.segmentation import check_masks, patch_vectors, true_places, word_vectors
from wholegrain.evaluation.result import NotSupportedError, TaskResult
from wholegrain.evaluation.statistics.rows import Rows, figures, table
from wholegrain.evaluation.statistics.stand_ins import ring


def sparc_segmentation(
    model: PatchModel,
    pictures: Sequence[Masked],
    classes: ClassSet,
    *,
    templates: Sequence[str] = ("{}",),
    patches: Literal["h_v", "plain"] = "h_v",
    seed: int = 0,
    batch: int = 64,
) -> TaskResult:
    """SPARC's protocol: ``miou`` where all classes compete, ``miou_present`` where only those present do; countable classes only.

    Args:
        patches: through ``h_v``, as in the paper (the task's name is then ``sparc_segmentation``), or ``plain``
            (``sparc_segmentation_plain``).

    Raises:
        NotSupportedError: when the model gives no patches, or no picture holds a countable class.
    """
    check_masks(pictures, classes, "plain")
    words = word_vectors(model, classes.words, templates, batch)
    thing_C = np.array(classes.things)
    order = ring(len(pictures), seed)
    other: Tensor | None = None
    found: dict[int, dict[str, dict[str, float]]] = {}
    for n in [*order, order[0]] if len(order) > 1 else order:  # the first again, for it needs the last one's map
        pixels, true_HW = pictures[n].pixels(), true_places(pictures[n], classes)
        view = np.asarray(model.preprocess.image(pixels, (0.0, 0.0, float(pixels.shape[1]), float(pixels.shape[0]))))
        patches_VPD, grid = patch_vectors(model, [view], batch, as_images=patches == "h_v")
        near = (patches_VPD[0] @ words.vector_WD.T).T.unflatten(1, grid)
        near = torch.stack([near[words.class_W == c].amax(0) for c in range(len(classes.ids))])
        present = np.flatnonzero(np.bincount(true_HW[true_HW >= 0], minlength=len(thing_C))[: len(thing_C)])
        things = present[thing_C[present]]
        if len(things):
            kept = found.setdefault(n, {"here": _picture_iou(near, true_HW, things, present)})
            if other is not None:
                kept["shuffled"] = _picture_iou(other, true_HW, things, present)
            kept["chance"] = _picture_chance(true_HW, things, present, len(classes.ids))
        other = near
    if not found:
        raise NotSupportedError(
            "No mask holds a countable class, so SPARC's protocol has nothing to count; use the sliding window."
        )
    places = sorted(found)
    names = [pictures[n].name for n in places]

    def column(part: str) -> dict[str, np.ndarray]:
        return {m: np.array([found[n][part][m] for n in places]) for m in ("miou", "miou_present")}

    shuffled = column("shuffled") if len(pictures) > 1 else {}
    rows = Rows(names, [""] * len(names), names, column("here"), column("chance"), shuffled)
    protocol = (
        f"{len(names):,} pictures, {int(thing_C.sum()):,} countable of {len(thing_C):,} classes: the whole picture in one view, a class per "
        f"patch ({grid[0]} x {grid[1]}), labels enlarged to the mask; IoU averaged over the countable classes present in a picture, then "
        "over pictures; miou_present lets only classes present compete; patches "
        + ("by the way of the pooled vector (SPARC's head: through h_v)." if patches == "h_v" else "as they are (SPARC's head: without h_v).")
    )
    name = "sparc_segmentation" if patches == "h_v" else "sparc_segmentation_plain"
    return TaskResult(name, protocol, tuple(figures(rows, seed=seed)), table(rows))


def _picture_iou(near_CRQ: Tensor, true_HW: np.ndarray, things: np.ndarray, present: np.ndarray) -> dict[str, float]:
    return {
        "miou": _thing_iou(near_CRQ.argmax(0).numpy(), true_HW, things),
        "miou_present": _thing_iou(present[near_CRQ[torch.from_numpy(present)].argmax(0).numpy()], true_HW, things),
    }


def _thing_iou(label_RQ: np.ndarray, true_HW: np.ndarray, things: np.ndarray) -> float:
    large = np.asarray(Image.fromarray(label_RQ.astype(np.int32)).resize(true_HW.shape[::-1], Image.Resampling.NEAREST))
    counted = true_HW >= 0
    parts = [((large == c) & counted, true_HW == c) for c in things]
    return float(np.mean([np.count_nonzero(a & b) / np.count_nonzero(a | b) for a, b in parts]))


def _picture_chance(true_HW: np.ndarray, things: np.ndarray, present: np.ndarray, classes: int) -> dict[str, float]:
    """Labels drawn at random pixel by pixel, in expectation of the counts."""
    counted = max(1, int((true_HW >= 0).sum()))
    share = np.array([(true_HW == c).sum() / counted for c in things])

    def iou(C: int) -> float:
        return float(np.mean(share / C / (share + 1 / C - share / C)))

    return {"miou": iou(classes), "miou_present": iou(len(present))}
