"""Making the base model that ships with the package: plain CLIP on scenes, from nothing, in two stages.

First crops of single objects with their noun phrases, then whole pictures with an overview and a phrase each, from a head
that whitens what the first stage sees in them. No hard
negatives: what the base model cannot do is what plain CLIP cannot do. ``docs/base.md`` holds the story and the figures.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from base_model.crops import crop_regions
from base_model.gates import weak_kinds
from base_model.whiten import whiten_head
from wholegrain.data.dataset import Dataset
from wholegrain.data.scenes.build import SceneCounts, picture_count
from wholegrain.data.scenes.captions import vocabulary
from wholegrain.data.scenes.world import World
from wholegrain.errors import UserError
from wholegrain.evaluation.suite import evaluate
from wholegrain.objectives.recipe import load_recipe
from wholegrain.progress import counted, showing
from wholegrain.text.trained import train_tokenizer
from wholegrain.towers.io import save_model
from wholegrain.towers.model import Model
from wholegrain.towers.sources.small import SmallConfig, at_image_size, small_model
from wholegrain.training.step import seed_everything
from wholegrain.training.trainer import TrainOptions
from wholegrain.workflows.runs import drawn, train_once

COMMAND = "PYTHONPATH=tools python -m base_model"
COUNTS = SceneCounts(train=40_000, val=1_000, test=0, crowded=0, twins=400)
CONFIG = SmallConfig(image_size=32, image_layers=2, text_layers=2)


def make_base(
    out: Path, *, world: World, work: Path, counts: SceneCounts = COUNTS, steps: tuple[int, int] = (2500, 700), seed: int = 0
) -> Path:
    """Trains a base model; interrupted, the same call goes on.

    Args:
        out: folder of the finished model.
        work: folder for data and runs.
        steps: optimiser steps of the two stages, of 128 images each.
    """
    console = Console(stderr=True)
    with showing() as show:
        whole = drawn(work / "scenes", world, counts, counted("drawing scenes", picture_count(counts), show))
        show("cutting out objects")
        crops = _crops(whole, work / "crops", seed)
    first, second = (
        load_recipe(Path(__file__).with_name(f"{name}.toml"), [f"--optimiser.steps={n}", f"--seed={seed}"])
        for name, n in zip(("base_crops", "base_scenes"), steps, strict=True)
    )
    seed_everything(seed)
    start = small_model(CONFIG, train_tokenizer(vocabulary(world), 1024, CONFIG.context))
    console.print(f"stage 1 of 2: {len(crops):,} crops of single objects")
    learnt = train_once(first, crops, start, TrainOptions(work / "run-crops", origin={"command": COMMAND}))
    console.print(f"stage 2 of 2: {counts.train:,} pictures")
    grown = at_image_size(learnt, world.size)
    whiten_head(grown, _pooled(grown, whole, 5000))
    grown = train_once(second, whole, grown, TrainOptions(work / "run-scenes", origin={"command": COMMAND}))
    save_model(grown, out)
    origin = {
        "world": {**asdict(world), "hash": world.hash},
        "command": f"{COMMAND} OUT --glyphs {world.glyphs} --crop-steps {steps[0]} --steps {steps[1]} --seed {seed}",
        "data": whole.content_hash,
        "pairs": {"crops": steps[0] * first.optimiser.batch, "pictures": steps[1] * second.optimiser.batch},
        "seed": seed,
        "weak_kinds": _weak_kinds(grown, whole),
    }
    (out / "origin.json").write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
    return out


def _weak_kinds(model: Model, dataset: Dataset) -> list[str]:
    found = evaluate(model, dataset, split="val", tasks=("composition",))[0]
    first = ("relation", "swap_object")
    return sorted(weak_kinds(found), key=lambda kind: (kind not in first, kind))


@torch.inference_mode()
def _pooled(model: Model, dataset: Dataset, count: int, batch: int = 128) -> Tensor:
    """The image tower's pooled vectors of the first training pictures, ``[count, V]``."""
    keys, prepare = dataset.keys("train")[:count], model.preprocess.image
    groups = (keys[first : first + batch] for first in range(0, len(keys), batch))
    pixels = (torch.stack([torch.as_tensor(np.asarray(prepare(dataset.pixels(key)))) for key in group]) for group in groups)
    return torch.cat([model.raw_images(pixels_BCHW).pooled_BV for pixels_BCHW in pixels])


def _crops(whole: Dataset, folder: Path, seed: int) -> Dataset:
    if not (folder / "manifest.json").exists():
        return crop_regions(whole, folder, side=CONFIG.image_size, seed=seed)
    crops = Dataset(folder)
    if crops.manifest.get("of") != whole.content_hash:
        raise UserError(f"The crops in {folder} are of other scenes than those beside them; delete the folder.")
    return crops
