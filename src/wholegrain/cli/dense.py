"""``wholegrain dense``: segmentation, box classification and pointing on pictures with masks or boxes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional


@dataclass(frozen=True, kw_only=True)
class DenseArguments:
    """The words and options of ``wholegrain dense``.

    Attributes:
        model: a name ("ViT-B-32:openai", "small"), a folder or a run.
        data: a folder of pictures with masks (images/ and masks/, ADE20K, Pascal VOC, Cityscapes) or boxes (boxes.json, COCO's instances).
        tasks: separated by commas: segmentation, sparc_segmentation (or sparc_segmentation_plain: a SPARC head's patches without its layer h_v),
            box_classification, pointing.
        out: a folder for results.json, with every class's IoU, and the items behind the figures; by default RUN/results/dense-DATA for a
            run and results/MODEL/dense-DATA for any other model, where compare finds them.
        templates: plain, photo, openai (80 sentences), openai7, or sentences with {} for the class.
        classes: a list of class names: voc20, voc21, context59, context60, coco_object, coco_stuff, ade20k, cityscapes; the folder's own without it.
        attention: plain or correlative (SCLIP) in the last block, for segmentation.
        read_outs: how class names are read out of patches in segmentation and pointing: pooled, token, token_cosine, h_v, attention, gradient;
            a result each. By default pooled and the one that the model was trained for (in segmentation if it is as quick).
        present_classes: let only classes compete that occur in some mask, for a part of a data set.
        short: shorter side of the picture in pixels; 0 is that of the list of classes, else one and a half times the model's size.
        stride: of the sliding window in pixels; 0 is half the model's size.
        scale: factor on cosines, where there is a background class; 0 is that of the list of classes, else 40.
        threshold: least probability of a class, where there is a background class.
        subset: that many pictures, drawn by the seed; 0 takes all.
        seed: of draws and resamples.
        batch: pictures per step.
        device: such as cpu or cuda:0; "auto" takes the GPU if there is one.
    """

    model: Positional[str]
    data: Positional[Path]
    tasks: str = "segmentation,sparc_segmentation,box_classification,pointing"
    out: Path | None = None
    templates: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TEMPLATE")] = ("photo",)
    classes: str = ""
    attention: str = "plain"
    read_outs: Annotated[tuple[str, ...], tyro.conf.arg(metavar="READ_OUT")] = ()
    present_classes: bool = False
    short: int = 0
    stride: int = 0
    scale: float = 0.0
    threshold: float = 0.1
    subset: int = 0
    seed: int = 0
    batch: int = 64
    device: str = "auto"


def dense(args: DenseArguments) -> None:
    """What a model's patches know: class names against pixels and boxes, without training.

    wholegrain dense ViT-B-16:openai data/voc --classes voc21 --out results/dense
    """
    import sys
    from dataclasses import asdict, replace

    from wholegrain.errors import UserError
    from wholegrain.evaluation.dense.run import DENSE_TASKS, DenseOptions
    from wholegrain.evaluation.dense.run import dense as run
    from wholegrain.evaluation.read_outs.registry import check_names
    from wholegrain.evaluation.result_folders import check_results_folder, keep_results, results_folder, weights_of
    from wholegrain.evaluation.show import left_out_lines, print_results
    from wholegrain.evaluation.tasks.templates import templates_of
    from wholegrain.suggest import closest
    from wholegrain.towers import load_model
    from wholegrain.training.distributed.processes import choose_device

    names = tuple(name.strip() for name in args.tasks.split(","))
    unknown = [name for name in names if name not in DENSE_TASKS]
    if unknown:
        raise UserError(f"There is no dense task {unknown[0]!r}; {closest(unknown[0], DENSE_TASKS)}")
    options = DenseOptions(
        names, templates_of(args.templates), args.attention, args.present_classes, args.short, args.stride, args.scale, args.threshold,
        args.classes, args.subset, args.seed, args.batch, check_names(args.read_outs),
    )  # fmt: skip
    out = args.out or results_folder(args.model, f"dense-{args.data.resolve().name}")
    check_results_folder(out)
    loaded = load_model(args.model).to(choose_device(args.device))
    results, left_out = run(loaded, args.data, options)
    print_results(
        [replace(r, figures=tuple(f for f in r.figures if not f.name.endswith("/iou"))) for r in results]
    )  # a line a class
    for line in left_out_lines([left_out]):
        print(line, file=sys.stderr)
    chosen = {key: value for key, value in asdict(options).items() if key not in ("tasks", "templates", "seed", "batch")}
    facts = {"dataset": str(args.data), "model": args.model, "seed": args.seed, "left_out": left_out, "weights": weights_of(loaded)}
    facts |= {"templates": list(args.templates), "options": {**chosen, "templates": list(args.templates)}}
    print(f"written: {keep_results(results, out, facts)}")
    print(f"next: the same of another model, then: wholegrain compare OTHER {out}")
