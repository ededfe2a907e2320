"""The demo: see a model fail, see why, see it repaired; then the comparison.

Act one shows a pair of pictures that the shipped base model confuses. Act two fine-tunes that base with each method on equal data,
steps and seed, and measures them all on unseen scenes, wordings and combinations. Act three is the line for the user's own photos.
Everything lies in one folder; interrupted, the same call goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from wholegrain.app.base import load_base
from wholegrain.app.gates import weak_kinds
from wholegrain.app.scene_recipes import scene_recipe
from wholegrain.data.dataset import Dataset
from wholegrain.data.record import Twin
from wholegrain.data.scenes.build import SceneCounts, build_scenes, picture_count
from wholegrain.data.scenes.world import World
from wholegrain.evaluation.compare import compare
from wholegrain.evaluation.intervals import Difference
from wholegrain.evaluation.result import TaskResult, load_results, save_results
from wholegrain.evaluation.suite import evaluate
from wholegrain.report.report import Entry, write_report
from wholegrain.report.terminal import show_twin
from wholegrain.towers.io import load_model
from wholegrain.towers.model import Model
from wholegrain.training.loop import train

METHODS = ("clip", "negclip", "sparc", "ce_clip", "holistic", "wholegrain")
NAMES = {
    "base": "base",
    "clip": "CLIP",
    "negclip": "NegCLIP",
    "sparc": "SPARC",
    "ce_clip": "CE-CLIP",
    "holistic": "Holistic",
    "wholegrain": "Wholegrain",
}
TASKS = ("retrieval", "composition", "hard_positives", "grounding", "branches")
SETTINGS: Mapping[str, Mapping[str, object]] = {"retrieval": {"roles": ("overview",)}}


@dataclass(frozen=True)
class Size:
    """How large the demo is: what is drawn, how many steps each method trains, which methods."""

    counts: SceneCounts
    steps: int
    methods: tuple[str, ...] = METHODS


FULL = Size(SceneCounts(train=10_000, val=300, test=1_000, crowded=0, twins=200), steps=75)
QUICK = Size(
    SceneCounts(train=2_000, val=100, test=300, crowded=0, twins=50), steps=15, methods=("clip", "ce_clip", "wholegrain")
)


def demo(out: Path, *, size: Size = FULL, seed: int = 0, console: Console | None = None) -> Path:
    """Runs the demo and returns the report's path.

    Args:
        out: the demo's folder; an interrupted demo of the same size goes on there.
        size: :data:`FULL` (under ten minutes on two cores) or :data:`QUICK`.
        seed: of the draws and of training.
    """
    console, started, world = console or Console(), time.perf_counter(), World()
    base = load_base(world)
    dataset = _scenes(out / "scenes", world, size.counts, console)
    twin, weak = act_one(base, dataset, out, console, seed)
    console.rule("[bold]Act two: the same base, fine-tuned with each method")
    console.print(
        f"{size.steps} steps of 128 pictures each, the same pictures, captions and seed; tested on scenes, wordings and combinations never trained on.\n"
    )
    entries = [Entry(NAMES["base"], None, base, measured(base, dataset, out / "runs" / "base", "test", seed))]
    for place, method in enumerate(size.methods, 1):
        console.print(f"[bold]{NAMES[method]}[/] ({place} of {len(size.methods)})")
        run = out / "runs" / method
        model = fine_tuned(method, base_copy(world), dataset, run, size.steps, seed)
        entries.append(Entry(NAMES[method], run, model, measured(model, dataset, run / "test", "test", seed)))
    console.print(show_twin(console, entries[-1].model, dataset, twin))
    console.print(comparison(entries, weak))
    report = out / "report.html"
    write_report(
        report,
        entries=entries,
        dataset=dataset,
        split="test",
        title="Wholegrain: what each method learns to see",
        notes=notes(size, weak, world),
    )
    console.rule("[bold]Act three: your own photos")
    console.print(
        "wholegrain prepare photos.csv data/photos && wholegrain train wholegrain --data data/photos --model ViT-B-32:openai\n"
    )
    console.print(f"The report, with pictures and heat maps: [bold]{report}[/]   ({time.perf_counter() - started:.0f} s)")
    return report


def act_one(base: Model, dataset: Dataset, out: Path, console: Console, seed: int) -> tuple[Twin, tuple[str, ...]]:
    """Shows a twin pair of a weak kind that the base model gets wrong; returns it with the weak kinds."""
    console.rule("[bold]Act one: two pictures, two captions, one model")
    development = measured(base, dataset, out / "runs" / "base-val", "val", seed, tasks=("composition",))[0]
    weak = weak_kinds(development)
    found = measured(base, dataset, out / "runs" / "base-twins", "test", seed, tasks=("composition",))[0]
    twin = failed_twin(found, dataset, weak)
    console.print(show_twin(console, base, dataset, twin))
    shown = ", ".join(f"{kind} {found.figure(f'{kind}/picks_caption').value:.0%}" for kind in weak)
    console.print(f"Plain CLIP is near chance (50%) at choosing the right caption where order and place matter: {shown}.\n")
    return twin, weak


def failed_twin(composition: TaskResult, dataset: Dataset, kinds: Sequence[str]) -> Twin:
    """The first twin of the given kinds that the model gets wrong both ways (else any that it gets wrong)."""
    rows = composition.items.to_pylist()
    twins = {(t.kind, t.item): t for t in dataset.twins if t.split == "test"}
    wrong = sorted(
        (row["text_score"] + row["image_score"], row["group"], row["item"])
        for row in rows
        if row["group"] in kinds and not row["group_score"]
    )
    if not wrong:
        return next(iter(twins.values()))
    return twins[(wrong[0][1], wrong[0][2])]


def base_copy(world: World) -> Model:
    """A fresh copy of the base model, since training changes a model in place."""
    return load_base(world)


def fine_tuned(method: str, start: Model, dataset: Dataset, run: Path, steps: int, seed: int) -> Model:
    """The base fine-tuned by one method; a run that is finished is loaded, one that was interrupted goes on."""
    if not (run / "finished").exists():
        begun = (run / "run.json").exists()
        recipe = scene_recipe(method, [f"--optimiser.steps={steps}", f"--seed={seed}"])
        train(
            recipe,
            dataset,
            load_model(str(run / "model")) if begun else start,
            run,
            resume=begun,
            origin={"command": "wholegrain demo"},
        )
        (run / "finished").touch()
    return load_model(str(run / "model"))


def measured(
    model: Model, dataset: Dataset, folder: Path, split: str, seed: int, tasks: Sequence[str] = TASKS
) -> list[TaskResult]:
    """The model's results on a split, kept in ``folder`` so that an interrupted demo need not measure twice."""
    if not (folder / "results.json").exists():
        settings = {task: SETTINGS[task] for task in tasks if task in SETTINGS}
        results = evaluate(model, dataset, split=split, tasks=tasks, seed=seed, settings=settings, left_out={})
        save_results(results, folder, {"dataset": "scenes", "split": split, "content_hash": dataset.content_hash, "seed": seed})
    return load_results(folder)[0]


def _scenes(folder: Path, world: World, counts: SceneCounts, console: Console) -> Dataset:
    if (folder / "manifest.json").exists():
        return Dataset(folder)
    with Progress(console=console) as progress:
        task = progress.add_task("drawing scenes", total=picture_count(counts))
        return build_scenes(folder, world, counts, tick=lambda n: progress.advance(task, n))


def comparison(entries: Sequence[Entry], weak: Sequence[str]) -> Table:
    """The demo's table: one row per method, differences from CLIP beside the weak kinds."""
    table = Table(title="test scenes; in brackets the difference from CLIP with its 95% interval, where it is clear of zero")
    for column in ("", "R@1", *weak, "other kinds", "hard positives", "phrase on own / other object", "shuffled"):
        table.add_column(column, justify="left" if not column else "right")
    reference = {r.task: r for r in next(e for e in entries if e.name == NAMES["clip"]).results}
    for entry in entries:
        results = {r.task: r for r in entry.results}
        table.add_row(entry.name, *_cells(results, None if entry.name == NAMES["clip"] else reference, weak))
    table.add_row("[dim]chance[/]", "[dim]0.1%[/]", *["[dim]16.7%[/]"] * (len(weak) + 1), "[dim]33.3%[/]", "", "[dim]50%[/]")
    return table


def _cells(results: Mapping[str, TaskResult], reference: Mapping[str, TaskResult] | None, weak: Sequence[str]) -> list[str]:
    twins, grounding = results["composition"], results["grounding"]
    kinds = [f.name.split("/")[0] for f in twins.figures if f.name.endswith("/group_score")]
    others = [twins.figure(f"{kind}/group_score").value for kind in kinds if kind not in weak]
    shuffled = [twins.figure(f"{kind}/picks_caption").shuffled or 0.5 for kind in kinds if kind.startswith("swap")]
    cells = [f"{results['retrieval'].figure('image_retrieval_recall@1').value:.1%}"]
    for kind in weak:
        difference = compare(twins, reference["composition"], f"{kind}/group_score") if reference else None
        cells.append(f"{twins.figure(f'{kind}/group_score').value:.1%}{_clear(difference)}")
    cells.append(f"{sum(others) / max(1, len(others)):.1%}")
    cells.append(f"{results['hard_positives'].figure('both_win').value:.1%}")
    cells.append(f"{grounding.figure('hit_own').value:.0%} / {grounding.figure('hit_other').value:.0%}")
    return [*cells, f"{sum(shuffled) / max(1, len(shuffled)):.1%}"]


def _clear(difference: Difference | None) -> str:
    if difference is None or difference.low <= 0 <= difference.high:
        return ""
    return f" ({100 * difference.value:+.0f} [{100 * difference.low:+.0f}, {100 * difference.high:+.0f}])"


def notes(size: Size, weak: Sequence[str], world: World) -> list[str]:
    """What the report says about how the numbers came about."""
    return [
        f"Every method starts from the same base model (plain CLIP, world {world.hash}) and trains {size.steps} steps of 128 pictures with the same seed.",
        f"Weak kinds (the base stands at 47% to 58% on development twins): {', '.join(weak) or 'none'}.",
        "count and swap_fill are never trained on by any method: they measure transfer.",
        "One seed; intervals are over pictures. The differences between methods are paired, item by item.",
    ]
