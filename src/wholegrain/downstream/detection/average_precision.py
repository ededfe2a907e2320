"""Average precision of detections, by faster-coco-eval, and its intervals.

The figures are COCO's (Lin et al., ECCV 2014: ten thresholds of intersection over union, 101 recalls) by the rules of LVIS (Gupta et al., CVPR 2019):
a detection of a name that nobody looked for in a picture is dropped, and one of a name that is not exhaustively boxed there counts only where it
meets a box. Both are faster-coco-eval's ``COCOeval_faster(lvis_style=True)``.

An average precision is no mean over pictures, so its interval needs the curve of every resample of pictures. The library does not give the matches
that this takes: :class:`Matches` makes them by the same rules, and its figures with every picture once are the library's own (a test holds it
to that).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO

import numpy as np

from wholegrain.downstream.detection.boxes import BoxedPicture
from wholegrain.downstream.detection.detect import Detections
from wholegrain.errors import UserError
from wholegrain.evaluation.statistics.intervals import resample_counts

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
RESAMPLES = 500
"""Of pictures; the other figures of an evaluation have four times as many, which are cheaper there."""
MISSING = 'Average precision needs the package faster-coco-eval; install it: pip install "wholegrain[detect]"'


def require_library() -> None:
    """Raises :class:`UserError` where faster-coco-eval is not installed."""
    try:
        importlib.import_module("faster_coco_eval")
    except ImportError:
        raise UserError(f"{MISSING}.") from None


def average_precisions(
    pictures: Sequence[BoxedPicture], found: Sequence[Detections], names: Sequence[str], most: int
) -> np.ndarray:
    """``[C, 10]``: each name's average precision at each threshold, by the library; NaN for a name without a box.

    Args:
        names: what labels of detections are places in.
        most: detections a picture and name that are looked at.
    """
    require_library()
    from faster_coco_eval import COCO, COCOeval_faster

    truth = COCO(_as_coco(pictures, names))
    rows = [
        {"image_id": n + 1, "category_id": int(label) + 1, "bbox": [x0, y0, x1 - x0, y1 - y0], "score": float(score)}
        for n, one in enumerate(found)
        for (x0, y0, x1, y1), score, label in zip(one.box_K4.tolist(), one.score_K, one.label_K, strict=True)
    ]
    if not rows or not any(picture.boxes for picture in pictures):
        boxed = np.isin(np.arange(len(names)), [names.index(name) for picture in pictures for name in picture.names])
        return np.where(boxed[:, None], 0.0, np.nan) * np.ones(len(THRESHOLDS))
    judge = COCOeval_faster(truth, truth.loadRes(rows), "bbox", lvis_style=True)
    judge.params.maxDets, judge.params.areaRng, judge.params.areaRngLbl = [most], [[0, 1e10]], ["all"]
    with redirect_stdout(StringIO()):
        judge.evaluate()
        judge.accumulate()
    precision_TRC = np.asarray(judge.eval["precision"])[:, :, :, 0, 0]
    return np.where(precision_TRC > -1, precision_TRC, np.nan).mean(1).T


def _as_coco(pictures: Sequence[BoxedPicture], names: Sequence[str]) -> dict[str, object]:
    place = {name: n + 1 for n, name in enumerate(names)}
    images, annotations = [], []
    for n, picture in enumerate(pictures):
        own, unsure = set(picture.names), {*picture.unsure}
        absent = picture.absent if picture.absent is not None else [name for name in names if name not in own and name not in unsure]
        stated = {"neg_category_ids": [place[x] for x in absent if x in place], "not_exhaustive_category_ids": [place[x] for x in unsure if x in place]}
        images.append({"id": n + 1, "width": picture.size[0], "height": picture.size[1], **stated})
        for (x0, y0, x1, y1), name, crowd in zip(picture.boxes, picture.names, picture.is_crowd, strict=True):
            box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": int(crowd)}
            annotations.append({"id": len(annotations) + 1, "image_id": n + 1, "category_id": place[name], **box})
    categories = [{"id": n + 1, "name": name, "frequency": "f"} for n, name in enumerate(names)]
    return {"images": images, "annotations": annotations, "categories": categories, "info": {}}


@dataclass(frozen=True)
class Matched:
    """One name's detections in all pictures, the surest first, and what each is.

    Attributes:
        picture_N: in which picture.
        hit_TN, counted_TN: at each threshold, whether it meets a box of its own, and whether it counts.
        boxes_I: boxes of each picture that are to be found.
    """

    picture_N: np.ndarray
    hit_TN: np.ndarray
    counted_TN: np.ndarray
    boxes_I: np.ndarray

    def average_precision(self, weight_RI: np.ndarray) -> np.ndarray:
        """``[R, T]`` where picture i is there ``weight_RI[r, i]`` times; NaN where no box is."""
        total_R = weight_RI @ self.boxes_I
        made = np.zeros((len(weight_RI), len(THRESHOLDS)))
        behind = 1 + np.flatnonzero(self.hit_TN.any(0)).max(initial=-1)  # what comes after the last hit moves no recall
        weight_RN = weight_RI[:, self.picture_N[:behind]]
        before, seen_RN = None, weight_RN
        for t, (hit_N, counted_N) in enumerate(zip(self.hit_TN[:, :behind], self.counted_TN[:, :behind], strict=True)):
            at = np.flatnonzero(hit_N)
            if len(at):
                if before is None or not np.array_equal(before, counted_N):  # mostly all count, at every threshold
                    before, seen_RN = counted_N, np.cumsum(weight_RN * counted_N, 1)
                hits_RK, seen_RK = np.cumsum(weight_RN[:, at], 1), seen_RN[:, at]
                precision_RK = np.maximum.accumulate((hits_RK / np.maximum(seen_RK, 1e-9))[:, ::-1], 1)[:, ::-1]
                recall_RK = hits_RK / np.maximum(total_R, 1e-9)[:, None]
                reached_RK = np.searchsorted(RECALLS, recall_RK.ravel(), "right").reshape(recall_RK.shape) * (hits_RK > 0)
                made[:, t] = (np.diff(reached_RK, axis=1, prepend=0) * precision_RK).sum(1) / len(RECALLS)
        return np.where(total_R[:, None] > 0, made, np.nan)


def matched(pictures: Sequence[BoxedPicture], found: Sequence[Detections], names: Sequence[str], most: int) -> list[Matched]:
    """For each name its detections against its boxes, as COCO and LVIS match them."""
    per_name: list[list[tuple[int, np.ndarray, np.ndarray, np.ndarray]]] = [[] for _ in names]
    boxes_CI = np.zeros((len(names), len(pictures)))
    place = {name: n for n, name in enumerate(names)}
    for i, (picture, one) in enumerate(zip(pictures, found, strict=True)):
        truth: dict[str, list[int]] = {}
        for n, name in enumerate(picture.names):
            truth.setdefault(name, []).append(n)
            boxes_CI[place[name], i] += not picture.is_crowd[n]
        box_M4, crowd_M = np.asarray(picture.boxes, dtype=np.float64).reshape(-1, 4), np.array(picture.is_crowd, dtype=bool)
        for c in map(int, np.unique(one.label_K)):
            name = names[c]
            if picture.judged(name) or name in picture.unsure:
                mine = np.flatnonzero(one.label_K == c)
                mine = mine[np.argsort(-one.score_K[mine], kind="stable")][:most]
                own = truth.get(name, [])
                met_TK, counted_TK = match_picture(one.box_K4[mine], box_M4[own], crowd_M[own])
                hit_TK = met_TK >= 0
                if name in picture.unsure:
                    counted_TK = counted_TK & hit_TK
                per_name[c].append((i, one.score_K[mine], hit_TK, counted_TK))
    return [_joined(parts, boxes_I) for parts, boxes_I in zip(per_name, boxes_CI, strict=True)]


def _joined(parts: list[tuple[int, np.ndarray, np.ndarray, np.ndarray]], boxes_I: np.ndarray) -> Matched:
    if not parts:
        nothing = np.zeros((len(THRESHOLDS), 0), dtype=bool)
        return Matched(np.zeros(0, dtype=np.int64), nothing, nothing, boxes_I)
    order = np.argsort(-np.concatenate([score for _, score, _, _ in parts]), kind="stable")
    picture_N = np.concatenate([np.full(len(score), i) for i, score, _, _ in parts])[order]
    hit_TN, counted_TN = (np.concatenate([part[k] for part in parts], 1)[:, order] for k in (2, 3))
    return Matched(picture_N, hit_TN, counted_TN, boxes_I)


def match_picture(box_K4: np.ndarray, true_M4: np.ndarray, crowd_M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """COCO's matching of one name in one picture, the surest first: each takes the free box that it covers best, if that reaches the threshold.

    Returns:
        ``[T, K]`` each: int64, which box a detection meets that is to be found, -1 for none; bool, whether it counts (no crowd explains it).
    """
    met_TK = np.full((len(THRESHOLDS), len(box_K4)), -1, dtype=np.int64)
    counted_TK = np.ones_like(met_TK, dtype=bool)
    if not len(true_M4):
        return met_TK, counted_TK
    iou_KM = iou_matrix(box_K4, true_M4, crowd_M)
    for t, threshold in enumerate(THRESHOLDS):
        free_M = ~crowd_M
        for k in range(len(box_K4)):
            open_M = np.where(free_M, iou_KM[k], -1.0)
            best = len(open_M) - 1 - int(open_M[::-1].argmax())  # of equals the last, as COCO's loop has it
            if open_M[best] >= min(threshold, 1 - 1e-10):
                met_TK[t, k], free_M[best] = best, False
            elif crowd_M.any() and iou_KM[k, crowd_M].max() >= min(threshold, 1 - 1e-10):
                counted_TK[t, k] = False
    return met_TK, counted_TK


def iou_matrix(box_K4: np.ndarray, true_M4: np.ndarray, crowd_M: np.ndarray) -> np.ndarray:
    """Intersection over union ``[K, M]``; with a crowd the share of the detection that lies in it."""
    low = np.maximum(box_K4[:, None, :2], true_M4[None, :, :2])
    high = np.minimum(box_K4[:, None, 2:], true_M4[None, :, 2:])
    inside_KM = np.clip(high - low, 0, None).prod(-1)
    own_K, true_M = (np.clip(box[:, 2:] - box[:, :2], 0, None).prod(-1) for box in (box_K4, true_M4))
    either_KM = np.where(crowd_M, own_K[:, None], own_K[:, None] + true_M - inside_KM)
    return inside_KM / np.maximum(either_KM, 1e-12)


def mean_precisions(ap_RCT: np.ndarray, groups: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """``AP``, ``AP50``, and ``AP_GROUP`` of groups of names (bool ``[C]``): means over names that have boxes, ``[R]`` each."""
    with np.errstate(invalid="ignore"):
        made = {"AP": _mean(ap_RCT.mean(2)), "AP50": _mean(ap_RCT[:, :, 0])}
        return made | {f"AP_{name}": _mean(ap_RCT[:, chosen].mean(2)) for name, chosen in groups.items()}


def _mean(value_RC: np.ndarray) -> np.ndarray:
    there_RC = np.isfinite(value_RC)
    return np.where(there_RC, value_RC, 0).sum(1) / np.where(there_RC.any(1), there_RC.sum(1), np.nan)


def spreads(found: Sequence[Matched], pictures: int, groups: Mapping[str, np.ndarray], seed: int) -> dict[str, float]:
    """Standard errors of :func:`mean_precisions`: their standard deviations over resamples of pictures; NaN where no resample has a value.

    No percentiles: a picture that is drawn twice has the same hit at the same rank twice, so average precisions of names with few boxes lie higher
    in resamples than in what they are drawn from, and percentiles can miss the value itself. The spread is not moved by that.
    """
    drawn: dict[str, list[np.ndarray]] = {}
    for block in resample_counts(pictures, RESAMPLES, seed):
        ap_RCT = np.stack([one.average_precision(block.astype(np.float64)) for one in found], 1)
        for name, value_R in mean_precisions(ap_RCT, groups).items():
            drawn.setdefault(name, []).append(value_R)
    joined = {name: np.concatenate(values) for name, values in drawn.items()}
    return {name: float(np.nanstd(value_R, ddof=1)) if np.isfinite(value_R).sum() > 1 else np.nan for name, value_R in joined.items()}


def found_boxes(picture: BoxedPicture, found: Detections, names: Sequence[str]) -> np.ndarray:
    """bool ``[M]``: which boxes are met at an intersection over union of one half by one of the surest detections of their own name, of which there
    are as many as boxes of that name."""
    hit_M = np.zeros(len(picture.boxes), dtype=bool)
    box_M4, crowd_M = np.asarray(picture.boxes, dtype=np.float64).reshape(-1, 4), np.array(picture.is_crowd, dtype=bool)
    for name in set(picture.names):
        own = np.array([n for n, other in enumerate(picture.names) if other == name])
        mine = np.flatnonzero(found.label_K == names.index(name))
        mine = mine[np.argsort(-found.score_K[mine], kind="stable")][: len(own)]
        met_K = match_picture(found.box_K4[mine], box_M4[own], crowd_M[own])[0][0]
        hit_M[own[met_K[met_K >= 0]]] = True
    return hit_M
