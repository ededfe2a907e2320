"""What ``wholegrain detect`` does: trains OWL-ViT's heads on a model's patches, and measures what they find."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wholegrain.workflows.head_arguments import HeadArguments

if TYPE_CHECKING:
    from torch import nn

    from wholegrain.downstream.detection.boxes import BoxedPicture
    from wholegrain.downstream.detection.detect import Detections
    from wholegrain.downstream.detection.measure import Judge
    from wholegrain.downstream.detection.task import DetectionSettings, DetectionTargets, DetectionTask
    from wholegrain.downstream.task import PictureData
    from wholegrain.evaluation.result import TaskResult
    from wholegrain.progress import Show
    from wholegrain.report.detection_page import BoxCard, DrawnBox
    from wholegrain.towers.model import Model
    from wholegrain.workflows.downstream import HeadDone, HeadWork

TRIED = 100
"""Training pictures on which the cut of heat maps is chosen."""
SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class DetectArguments(HeadArguments):
    """Options of ``wholegrain detect`` beside those that all tasks on an image tower share.

    Attributes:
        annotations: boxes to measure on in COCO's or LVIS's JSON; DATA is then the folder that its pictures' names begin in.
        train_annotations: boxes to train on, likewise.
    """

    annotations: Path | None = None
    train_annotations: Path | None = None


@dataclass(frozen=True)
class _Data:
    """Pictures to train and to measure on, and what is known of their names."""

    pictures: PictureData
    train: Sequence[BoxedPicture]
    test: Sequence[BoxedPicture]
    names: tuple[str, ...]
    rare: frozenset[str] | None


def detect(args: DetectArguments) -> HeadDone | None:
    """Trains and measures; ``None`` in all processes but the main one."""
    from wholegrain.progress import showing

    with showing() as show:
        show("loading libraries")  # torchvision alone takes seconds
        from wholegrain.downstream.detection.average_precision import require_library
        from wholegrain.downstream.detection.task import DetectionSettings
        from wholegrain.downstream.settings import load_settings
        from wholegrain.workflows.downstream import carry_out

        require_library()
        settings = load_settings("detect", DetectionSettings, args.recipe, args.all_overrides)
    return carry_out(args, partial(_work, args, settings), "detect")


def _work(args: DetectArguments, settings: DetectionSettings, model: Model) -> HeadWork[BoxedPicture, DetectionTargets]:
    from wholegrain.downstream.detection.boxes import held_out, vocabulary, without
    from wholegrain.downstream.detection.task import DetectionTask
    from wholegrain.workflows.downstream import HeadWork

    data = _data(args)
    out = data.rare if data.rare is not None else held_out(data.names, settings.data.held_out, settings.training.seed)
    examples = without(data.train, out)
    task = DetectionTask(settings, vocabulary(examples))
    facts = {"dataset": str(args.data), "split": args.split, "content_hash": data.pictures.content_hash, "trained_names": len(task.names)}
    return HeadWork(task, data.pictures, examples, partial(_measure, args, data, task), facts)


def _data(args: DetectArguments) -> _Data:
    """The data of prepared records, or of files of annotations."""
    from wholegrain.data.dataset import Dataset
    from wholegrain.downstream.detection.boxes import prepared, vocabulary
    from wholegrain.downstream.detection.coco import FilePictures, read_annotations
    from wholegrain.errors import UserError

    if args.annotations is None and args.train_annotations is None:
        dataset = Dataset(args.data)
        names = vocabulary(*(prepared(dataset, split) for split in (args.train_split, args.split)))
        train, test = (prepared(dataset, split, names) for split in (args.train_split, args.split))
        return _Data(dataset, train, test, names, None)
    if args.annotations is None or args.train_annotations is None:
        raise UserError("Give both --annotations (to measure on) and --train-annotations; or neither, with a prepared data set.")
    train, test = (read_annotations(path, args.data) for path in (args.train_annotations, args.annotations))
    keys = (picture.key for picture in (*train.pictures, *test.pictures))
    files = FilePictures(args.data, (args.train_annotations, args.annotations), keys)
    rare = test.rare if test.rare is not None else train.rare
    return _Data(files, train.pictures, test.pictures, tuple(dict.fromkeys((*test.names, *train.names))), rare)


def _measure(
    args: DetectArguments, data: _Data, task: DetectionTask, head: nn.Module, model: Model, show: Show
) -> tuple[list[TaskResult], str]:
    """The trained head's result, then a result of boxes out of heat maps by each read-out; and the page."""
    from wholegrain.downstream.detection.detect import detect as run
    from wholegrain.downstream.detection.measure import Judge
    from wholegrain.downstream.detection.task import Detector, text_vectors
    from wholegrain.downstream.pictures import TowerTokens
    from wholegrain.report.detection_page import detection_page

    assert isinstance(head, Detector)
    settings, judge = task.settings, Judge(data.test, data.names, frozenset(task.names), task.settings.data.detections, args.seed)
    text_CD = text_vectors(model, data.names, settings.data.templates)
    tokens = TowerTokens(model, data.pictures, task.needs, settings.training.precision)
    found = {"trained head": list(run(head, tokens, data.test, text_CD, settings.loss, most=judge.most, show=show))}
    show("average precision of the trained head", 0, 0)
    tuned = "" if model.image_frozen else f"; of the image tower was tuned: {settings.training.tune}"
    said = f"OWL-ViT's heads, {settings.training.steps:,} steps of {settings.training.batch} on {len(data.train):,} pictures{tuned}."
    results = [judge.result("detection", found["trained head"], said)]
    if model.image_frozen:  # a tuned tower is no longer the model whose maps these would be
        results += _heat_results(data, task, model, judge, found, show)
    return results, detection_page(args.model, args.data.resolve().name, _cards(data, judge, found, args.seed), results)


def _heat_results(
    data: _Data, task: DetectionTask, model: Model, judge: Judge, found: dict[str, list[Detections]], show: Show
) -> list[TaskResult]:
    """Boxes without training, by the common read-out and the model's own; what is found is put into ``found``, the best last."""
    from wholegrain.downstream.detection.boxes import vocabulary
    from wholegrain.downstream.detection.heat_boxes import CUTS, HeatBoxes
    from wholegrain.downstream.detection.measure import Judge
    from wholegrain.evaluation.read_outs.registry import default_read_outs

    templates, tried = task.settings.data.templates, [picture for picture in data.train if picture.boxes][:TRIED]
    trial = Judge(tried, vocabulary(tried), frozenset(), judge.most)
    results = []
    for read_out in default_read_outs(model):
        ways = [HeatBoxes(read_out, cut, most=judge.most) for cut in CUTS]
        scores = [trial.precisions(list(way.of_pictures(tried, data.pictures, trial.names, templates)))["AP50"] for way in ways]
        way = ways[int(np.argmax(scores))]
        boxes = list(way.of_pictures(data.test, data.pictures, data.names, templates, show))
        show(f"average precision of boxes from heat maps ({read_out.name})", 0, 0)
        said = (
            f"Without training: heat maps by the read-out {read_out.name} ({read_out.sentence}), cut at {way.cut:g} of their range (of "
            f"{', '.join(f'{cut:g}' for cut in CUTS)}, by AP50 on {len(tried)} training pictures), a box for each connected part."
        )
        results.append(judge.result(f"detection_heat_{read_out.name}", boxes, said))
        found[f"heat map, {read_out.name}"] = boxes
    return results


def _cards(data: _Data, judge: Judge, found: dict[str, list[Detections]], seed: int) -> list[BoxCard]:
    """Some pictures with boxes, at random: what is marked, the trained head's boxes, and those of the last read-out."""
    from wholegrain.report.detection_page import SIDE, BoxCard, BoxPanel, DrawnBox
    from wholegrain.report.pictures import data_uri, seen_part, shown_size

    boxed = [n for n, picture in enumerate(data.test) if picture.boxes]
    chosen = np.random.default_rng([seed, 5]).permutation(boxed)[:SHOWN]
    ways = [("trained head", found["trained head"]), *list(found.items())[1:][-1:]]
    cards = []
    for n in sorted(chosen.tolist()):
        picture = data.test[n]
        marked = [
            DrawnBox(*_place(box, picture.size), name, "true", rare=name not in judge.trained)
            for box, name in zip(picture.boxes, picture.names, strict=True)
        ]
        panels = [BoxPanel("marked", marked)] + [BoxPanel(title, _drawn(picture, boxes[n], judge)) for title, boxes in ways]
        size = shown_size((0.0, 0.0, float(picture.size[0]), float(picture.size[1])), SIDE)
        cards.append(BoxCard(data_uri(seen_part(data.pictures.pixels(picture.key), side=SIDE)), *size, picture.key, panels))
    return cards


def _place(box: Sequence[float] | np.ndarray, size: tuple[int, int]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = map(float, box)
    return x0 / size[0], y0 / size[1], (x1 - x0) / size[0], (y1 - y0) / size[1]


def _drawn(picture: BoxedPicture, found: Detections, judge: Judge) -> list[DrawnBox]:
    """As many of the surest boxes as are marked, none of which overlaps a surer one by half."""
    import torch
    from torchvision.ops import nms

    from wholegrain.downstream.detection.average_precision import iou_matrix
    from wholegrain.report.detection_page import DrawnBox

    kept = nms(torch.from_numpy(found.box_K4), torch.from_numpy(found.score_K), 0.5)[: len(picture.boxes)].tolist()
    true_M4 = np.asarray(picture.boxes, dtype=np.float64)
    iou_KM = iou_matrix(found.box_K4[kept].reshape(-1, 4), true_M4, np.zeros(len(true_M4), dtype=bool))
    drawn = []
    for k, iou_M in zip(kept, iou_KM, strict=True):
        name = judge.names[int(found.label_K[k])]
        right = any(iou >= 0.5 and other == name for iou, other in zip(iou_M, picture.names, strict=True))
        mark = "right" if right else "open" if name in picture.unsure or not picture.judged(name) else "wrong"
        place, score = _place(found.box_K4[k], picture.size), float(found.score_K[k])
        drawn.append(DrawnBox(*place, name, mark, score, name not in judge.trained))
    return drawn
