"""``wholegrain base``: makes the base model of the demo anew."""

from __future__ import annotations

from pathlib import Path

import tyro


def base(
    out: tyro.conf.Positional[Path],
    *,
    work: Path = Path("base-work"),
    glyphs: str = "A",
    crop_steps: int = 1400,
    steps: int = 500,
    seed: int = 0,
) -> int:
    """Trains the base model of the demo: plain CLIP on scenes, from nothing (about half an hour on two cores). Interrupted, it goes on.

    wholegrain base models/base

    Args:
        out: folder of the finished model.
        work: folder for data and runs; the same one continues an interrupted run.
        glyphs: the set of silhouettes, A or B.
        crop_steps: steps of the first stage, on crops of single objects.
        steps: steps of the second stage, on whole pictures.
        seed: of weights and batches.
    """
    from wholegrain.data.scenes.world import World
    from wholegrain.workflows.base import make_base

    print(f"written: {make_base(out, world=World(glyphs=glyphs), work=work, steps=(crop_steps, steps), seed=seed)}")
    print(f"next: wholegrain gates --model {out} --glyphs {glyphs}")
    return 0
