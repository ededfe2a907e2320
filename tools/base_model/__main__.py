"""``PYTHONPATH=tools python -m base_model OUT`` makes the demo's base model anew; ``… base_model gates`` says whether it serves."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from base_model.gates import run_gates
from base_model.make import COMMAND, make_base
from wholegrain.cli.main import main_of
from wholegrain.data.dataset import Dataset
from wholegrain.data.scenes.build import SceneCounts, build_scenes, picture_count
from wholegrain.data.scenes.world import World
from wholegrain.progress import counted, showing
from wholegrain.towers.base_model import load_base
from wholegrain.towers.io import load_model


def base(
    out: tyro.conf.Positional[Path],
    *,
    work: Path = Path("base-work"),
    glyphs: str = "A",
    crop_steps: int = 2500,
    steps: int = 700,
    seed: int = 0,
) -> int:
    """Trains the base model of the demo: plain CLIP on scenes, from nothing (about half an hour on two cores). Interrupted, it goes on.

    PYTHONPATH=tools python -m base_model models/base

    Args:
        out: folder of the finished model.
        work: folder for data and runs; the same one continues an interrupted run.
        glyphs: the set of silhouettes, A or B.
        crop_steps: steps of the first stage, on crops of single objects.
        steps: steps of the second stage, on whole pictures.
        seed: of weights and batches.
    """
    print(f"written: {make_base(out, world=World(glyphs=glyphs), work=work, steps=(crop_steps, steps), seed=seed)}")
    print(f"next: {COMMAND} gates --model {out} --glyphs {glyphs}")
    return 0


def gates(*, data: Path | None = None, model: str | None = None, glyphs: str = "A") -> int:
    """Prints the conditions that the scenes and the base model meet before any method is compared, and the weak kinds.

    PYTHONPATH=tools python -m base_model gates

    Args:
        data: a data set of scenes; without it one is drawn for the occasion.
        model: the base model; without it the one that ships.
        glyphs: the set of silhouettes, A or B.
    """
    world = World(glyphs=glyphs)
    base = load_model(model) if model else load_base(world)
    with tempfile.TemporaryDirectory() as folder, showing() as show:
        if data:
            dataset = Dataset(data)
        else:
            counts = SceneCounts(3000, 1000, 0, 0, 600)
            tick = counted("drawing scenes", picture_count(counts), show)
            dataset = build_scenes(Path(folder) / "scenes", world, counts, tick=tick)
        show("measuring the gates")
        found, _ = run_gates(base, dataset, world)
    table = Table("gate", "measured", "asked", "", title=f"world {world.hash}, development scenes")
    for gate in found:
        table.add_row(gate.name, gate.value, gate.asked, "[green]holds[/]" if gate.passed else "[red]fails[/]")
    Console().print(table)
    fine = all(gate.passed for gate in found)
    print("next: wholegrain demo" if fine else f"next: make the base model anew with more steps: {COMMAND} OUT")
    return 0 if fine else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["gates"]:
        del sys.argv[1]
        main_of(gates, f"{COMMAND} gates")
    else:
        main_of(base, COMMAND)
