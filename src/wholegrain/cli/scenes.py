"""``wholegrain scenes``: pictures with known truth, as an ordinary data set."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import tyro


def scenes(
    out: tyro.conf.Positional[Path],
    *,
    glyphs: str = "A",
    size: int = 64,
    seed: int = 0,
    train: int = 20_000,
    val: int = 1_000,
    test: int = 1_000,
    crowded: int = 1_000,
    twins: int = 1_000,
    train_twins: int = 0,
) -> int:
    """Draws a data set of scenes: objects, attributes, relations, captions in roles, hard negatives, twins and hard positives.

    wholegrain scenes data/scenes --train 2000 --val 500 --test 500

    Args:
        out: the data set's folder, new.
        glyphs: the set of 60 silhouettes, A for development or B for confirmation.
        size: side of the pictures in pixels: 64, 96 or 128.
        seed: another seed is another world of pictures.
        train: training pictures.
        val: pictures for development.
        test: pictures with held-out wordings and combinations.
        crowded: test pictures with four or five objects.
        twins: test items per kind.
        train_twins: pairs of training pictures that differ in one fact (for data.twin_share).
    """
    from wholegrain.data.scenes.build import SceneCounts, build_scenes, picture_count
    from wholegrain.data.scenes.glyphs import GLYPHS
    from wholegrain.data.scenes.world import World
    from wholegrain.errors import UserError
    from wholegrain.progress import counted, showing

    if glyphs not in GLYPHS or size not in (64, 96, 128):
        raise UserError(f"scenes: --glyphs is {glyphs} and --size is {size}; glyphs are A or B, sizes 64, 96 or 128.")
    world = World(glyphs=glyphs, size=size, seed=seed)
    counts = SceneCounts(train, val, test, crowded, twins, train_twins)
    with showing() as show:
        tick = counted("drawing", picture_count(counts), show)
        dataset = build_scenes(out, world, counts, workers=os.cpu_count() or 1, tick=tick)
    print(f"{out}: {len(dataset):,} pictures, world {world.hash}")
    print(f"next: wholegrain inspect {shlex.quote(str(out))}, or: wholegrain train clip --data {shlex.quote(str(out))} --model small")
    return 0
