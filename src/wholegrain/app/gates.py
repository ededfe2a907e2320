"""The gates of the scenes: is this world one in which the comparison means something?

Set with plain CLIP alone, on development scenes, before any method is compared: a bag of words must tell a random batch apart and be
blind to order; the base model must retrieve, and must stand near chance on some kinds. Those are the *weak* kinds, which a method may
repair; the others are what plain CLIP solves by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from wholegrain.data.dataset import Dataset
from wholegrain.data.scenes.oracle import bag_retrieval, bag_twins
from wholegrain.data.scenes.world import World
from wholegrain.evaluation.encode import encode_patches
from wholegrain.evaluation.regions import object_patches, region_cover
from wholegrain.evaluation.result import TaskResult
from wholegrain.evaluation.suite import evaluate
from wholegrain.towers.model import Model

WEAK = (0.47, 0.58)
BATCH = 128


@dataclass(frozen=True)
class Gate:
    """One condition: what was measured, what is asked, and whether it holds."""

    name: str
    value: str
    asked: str
    passed: bool


def weak_kinds(composition: TaskResult) -> tuple[str, ...]:
    """The kinds of twins on which a model's single choices of a caption stand between 47% and 58%."""
    kinds = [f.name.split("/")[0] for f in composition.figures if f.name.endswith("/picks_caption")]
    return tuple(k for k in kinds if WEAK[0] <= composition.figure(f"{k}/picks_caption").value <= WEAK[1])


def run_gates(model: Model, dataset: Dataset, world: World) -> tuple[list[Gate], tuple[str, ...]]:
    """All gates on the development split ``val``, and the weak kinds.

    Args:
        model: the base model.
        dataset: scenes of this world, with ``val`` pictures and twins.
    """
    gates = [_oracle_gate(world)]
    for kind in ("swap_object", "swap_attribute"):
        blind = bag_twins(kind, world)
        gates.append(Gate(f"bag of words on {kind}", f"{blind:.1%}", "50%", blind == 0.5))
    reads, worst = glyph_probe(model, dataset, world)
    gates.append(Gate("glyphs read by a supervised probe", f"{reads:.1%}", "at least 95%", reads >= 0.95))
    gates.append(Gate("the glyph it reads worst", worst, "(shown)", True))
    found = evaluate(
        model,
        dataset,
        split="val",
        tasks=("retrieval", "composition"),
        progress=False,
        settings={"retrieval": {"roles": ("overview",)}},
    )
    retrieval, composition = found
    recall = retrieval.figure("image_retrieval_recall@1").value
    size = len(dataset.keys("val"))
    gates.append(Gate(f"base model: R@1 of {size:,} pictures by overview", f"{recall:.1%}", "at least 60%", recall >= 0.6))
    weak = weak_kinds(composition)
    gates.append(
        Gate("kinds near chance for the base model (47% to 58%)", ", ".join(weak) or "none", "at least three", len(weak) >= 3)
    )
    return gates, weak


def _oracle_gate(world: World) -> Gate:
    share = bag_retrieval(world, BATCH)
    return Gate(f"bag of words: R@1 in a batch of {BATCH}", f"{share:.1%}", "at least 98%", share >= 0.98)


def glyph_probe(
    model: Model, dataset: Dataset, world: World, *, splits: Sequence[str] = ("train", "val"), limit: int = 6000
) -> tuple[float, str]:
    """Whether the pictures show what they should: a linear probe that reads the noun of an object from its patches.

    A ridge regression from the mean of the object's patch features to the noun, fitted on training pictures and read on others.

    Returns:
        share of objects read rightly, and the worst noun with its share.
    """
    place = {noun: n for n, noun in enumerate(world.nouns)}
    sets = [_object_features(model, dataset, dataset.keys(split)[:limit], place) for split in splits]
    (x, y), (x_test, y_test) = sets
    mean, deviation = x.mean(0), x.std(0) + 1e-6
    x, x_test = (np.c_[(v - mean) / deviation, np.ones(len(v))] for v in (x, x_test))
    weights = np.linalg.solve(x.T @ x + 1e-2 * len(x) * np.eye(x.shape[1]), x.T @ np.eye(len(place))[y])
    right = (x_test @ weights).argmax(1) == y_test
    by_noun = {noun: float(right[y_test == n].mean()) for noun, n in place.items() if (y_test == n).any()}
    worst = min(by_noun, key=lambda noun: by_noun[noun])
    return float(right.mean()), f"{worst}: {by_noun[worst]:.0%}"


def _object_features(model: Model, dataset: Dataset, keys: Sequence[str], place: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """The mean patch vector of every object, ``[n, D]``, and its noun, ``[n]``."""
    features, nouns, waiting = [], [], iter(keys)
    for image in encode_patches(model, dataset, keys):
        assert image.patches_BPD is not None
        assert image.grid is not None
        for patches_PD in image.patches_BPD:
            record = dataset.record(next(waiting))
            for number, region in enumerate(record.regions):
                own = object_patches(region_cover(record, number, model.preprocess.visible_box(*record.size), image.grid))
                if own.any():
                    features.append(patches_PD[torch.from_numpy(own)].mean(0).numpy())
                    nouns.append(place[region.phrase.rsplit(" ", 1)[-1]])
    return np.stack(features), np.array(nouns)
