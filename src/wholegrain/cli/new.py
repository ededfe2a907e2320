"""``wholegrain new recipe|loss|benchmark NAME``: a working start of one's own, with its test."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import Positional


def new(kind: Positional[Literal["recipe", "loss", "benchmark"]], name: Positional[str], *, out: Path = Path(), like: str = "clip") -> None:
    """Writes a recipe, a loss or a benchmark that works, and its test, to be changed.

    wholegrain new loss my_loss

    Args:
        kind: recipe, loss or benchmark.
        name: in small letters, such as my_loss.
        out: the folder to write to; by default this one.
        like: the packaged recipe that a new recipe begins as.
    """
    from wholegrain.workflows.skeleton import write_skeleton

    target, test = write_skeleton(kind, name, out, like)
    print(f"written: {target}\nwritten: {test}")
    use = {
        "recipe": f"wholegrain train {target} --data data/photos --model ViT-B-32:openai",
        "loss": f"wholegrain verify {target}:{''.join(part.capitalize() for part in name.split('_'))}",
        "benchmark": f"wholegrain evaluate MODEL --benchmark {target}:{name}=FOLDER",
    }
    print(f"next: python -m pytest {test}; then: {use[kind]}")
