"""``wholegrain scenes``: pictures with known truth, as an ordinary data set."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True, kw_only=True)
class ScenesArguments:
    """The words and options of ``wholegrain scenes``.

    Attributes:
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

    out: tyro.conf.Positional[Path]
    glyphs: str = "A"
    size: int = 64
    seed: int = 0
    train: int = 20_000
    val: int = 1_000
    test: int = 1_000
    crowded: int = 1_000
    twins: int = 1_000
    train_twins: int = 0


def scenes(args: ScenesArguments) -> int:
    """Draws a data set of scenes: objects, attributes, relations, captions in roles, hard negatives, twins and hard positives.

    wholegrain scenes data/scenes --train 2000 --val 500 --test 500
    """
    from wholegrain.data.scenes.build import SceneCounts, build_scenes, picture_count
    from wholegrain.data.scenes.glyphs import GLYPHS
    from wholegrain.data.scenes.world import World
    from wholegrain.errors import UserError
    from wholegrain.progress import counted, showing

    if args.glyphs not in GLYPHS or args.size not in (64, 96, 128):
        raise UserError(f"scenes: --glyphs is {args.glyphs} and --size is {args.size}; glyphs are A or B, sizes 64, 96 or 128.")
    world = World(glyphs=args.glyphs, size=args.size, seed=args.seed)
    counts = SceneCounts(args.train, args.val, args.test, args.crowded, args.twins, args.train_twins)
    with showing() as show:
        tick = counted("drawing", picture_count(counts), show)
        dataset = build_scenes(args.out, world, counts, workers=os.cpu_count() or 1, tick=tick)
    print(f"{args.out}: {len(dataset):,} pictures, world {world.hash}")
    print(f"next: wholegrain inspect {shlex.quote(str(args.out))}, or: wholegrain train clip --data {shlex.quote(str(args.out))} --model small")
    return 0
