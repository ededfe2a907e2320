"""``wholegrain segment``: a class for every pixel by heads that are trained on a model's patches."""

from __future__ import annotations

from wholegrain.workflows.commands.segment import SegmentArguments


def segment(args: SegmentArguments) -> None:
    """A class for every pixel: a linear head, and one that names regions whose masks are given, are trained on the patches of a model (its image
    tower stays as it is, unless --tune says otherwise) and measured; beside them class names against patches, without training.

    wholegrain segment base data/scenes --out results/segment

    wholegrain segment ViT-B-16:openai data/coco --train-split train2017 --split val2017

    DATA is scenes, or a folder of images/, masks/ and classes.json; the same command goes on with what is not finished.
    """
    from dataclasses import replace

    from wholegrain.evaluation.show import print_results
    from wholegrain.workflows.commands.segment import segment as run

    done = run(args)
    if done is None:
        return
    print_results([replace(r, figures=tuple(f for f in r.figures if not f.name.endswith("/iou"))) for r in done.results])  # a line a class
    print(f"written: {done.folder / 'results.json'}, {done.page}")
    print(f"next: open {done.page}, or the same of another model, then: wholegrain compare OTHER {done.folder}")
