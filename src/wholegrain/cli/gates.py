"""``wholegrain gates``: is the world of the scenes one in which a comparison means something?"""

from __future__ import annotations

from pathlib import Path


def gates(*, data: Path | None = None, model: str | None = None, glyphs: str = "A") -> int:
    """Prints the conditions that the scenes and the base model meet before any method is compared, and the weak kinds.

    wholegrain gates

    Args:
        data: a data set of scenes; without it one is drawn for the occasion.
        model: the base model; without it the one that ships.
        glyphs: the set of silhouettes, A or B.
    """
    import tempfile

    from rich.console import Console
    from rich.table import Table

    from wholegrain.data.dataset import Dataset
    from wholegrain.data.scenes.build import SceneCounts, build_scenes, picture_count
    from wholegrain.data.scenes.world import World
    from wholegrain.progress import counted, showing
    from wholegrain.towers.base_model import load_base
    from wholegrain.towers.io import load_model
    from wholegrain.workflows.gates import run_gates

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
    print("next: wholegrain demo" if fine else "next: make the base model anew with more steps: wholegrain base OUT")
    return 0 if fine else 1
