"""``wholegrain demo``: see a model fail, see why, see it repaired."""

from __future__ import annotations

from pathlib import Path


def demo(*, out: Path | None = None, quick: bool = False, seed: int = 0) -> int:
    """Shows on scenes drawn on the spot what plain CLIP cannot do and why, repairs it without and with training, and compares.

    wholegrain demo --quick

    Args:
        out: the demo's folder, "demo" or "demo-quick" by default; an interrupted demo goes on there.
        quick: what is repaired without training, in under 90 seconds.
        seed: of the draws and of training.
    """
    from wholegrain.workflows.demo import FULL, QUICK
    from wholegrain.workflows.demo import demo as run

    run(out or Path("demo-quick" if quick else "demo"), size=QUICK if quick else FULL, seed=seed)
    return 0
