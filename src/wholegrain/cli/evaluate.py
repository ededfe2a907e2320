"""``wholegrain evaluate``: what a model can and cannot do on a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional


def evaluate(
    model: Positional[str],
    /,
    *,
    data: Path,
    split: str = "test",
    suite: str = "all",
    out: Path | None = None,
    seed: int = 0,
    batch: int = 64,
    device: str = "auto",
    cache: Path | None = None,
    one_caption: bool = False,
    owner_only: bool = False,
    subset: int | None = None,
    shortlist: int = 0,
    roles: tuple[str, ...] = (),
    templates: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TEMPLATE")] = (),
) -> None:
    """Evaluate a model: every figure with its interval, its chance level and the shuffled-images control.

    Under torchrun or srun all processes share the encoding.

    Args:
        model: a name ("ViT-B-32:openai", "small"), a folder or a run.
        data: a prepared data set.
        split: the split to test on.
        suite: tasks or suites, separated by commas: all, compositional, dense, classification, retrieval, composition,
            hard_positives, negatives, grounding, branches, zero_shot, linear_probe.
        out: a folder for results.json and the items behind the figures.
        seed: of resamples and permutations.
        batch: images per step.
        device: such as cpu or cuda:0; "auto" takes the GPU if there is one.
        cache: a folder to keep features in, so that the next call need not encode.
        one_caption: retrieval with the first caption of each image alone.
        owner_only: retrieval counts a caption as true of its own image alone.
        subset: retrieval among that many images.
        shortlist: retrieval with a joint score: score that many candidates of each query, the first by cosine; 0 scores all.
        roles: retrieval with captions in these roles alone.
        templates: sentences for zero-shot classification, {} is the class.
    """
    from wholegrain.data.dataset import Dataset
    from wholegrain.evaluation.result import save_results
    from wholegrain.evaluation.sharing import sharing
    from wholegrain.evaluation.show import print_results
    from wholegrain.evaluation.suite import evaluate as run
    from wholegrain.evaluation.suite import expand
    from wholegrain.towers import load_model
    from wholegrain.training.distributed import processes

    tasks, dataset = expand(suite), Dataset(data)
    settings: dict[str, dict] = {}
    asked = {"one_caption": one_caption, "owner_only": owner_only, "subset": subset, "roles": roles, "shortlist": shortlist}
    for task, given in (("retrieval", asked), ("zero_shot", {"templates": templates})):
        chosen = {name: value for name, value in given.items() if value}
        if chosen and task in tasks:
            settings[task] = chosen
    left_out: dict[str, str] = {}
    chosen = {"split": split, "tasks": tasks, "seed": seed, "batch": batch, "cache": cache, "settings": settings}
    with processes(None if device == "auto" else device) as place, sharing(place.group):
        loaded = place.together(lambda: load_model(model).to(place.device))
        results = run(loaded, dataset, progress=place.first, left_out=left_out, **chosen)
    if not place.first:
        return
    print_results(results)
    if out is not None:
        facts = {"dataset": str(data), "content_hash": dataset.content_hash, "model": model, "split": split, "seed": seed}
        path = save_results(results, out, facts | {"left_out": left_out, "settings": settings})
        print(f"written: {path}")
