"""The demo: see a model fail, see why, see it repaired, and see where this run stands among the published ones.

Act one shows a pair of pictures that the shipped base model confuses and that its own patches tell apart: a mean cannot hold which colour sits
on which noun, a noun phrase finds the place. Act two fine-tunes that base on equal data, steps and seed, and measures every model on unseen
scenes, wordings and combinations. Act three is the line for the user's own photos. Everything lies in one folder; interrupted, the same call
goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from wholegrain.data.dataset import Dataset
from wholegrain.data.record import Twin
from wholegrain.data.scenes.build import SceneCounts, picture_count
from wholegrain.data.scenes.world import World
from wholegrain.evaluation.result import TaskResult
from wholegrain.evaluation.scores.whole_and_grain import WholeAndGrain
from wholegrain.evaluation.statistics.compare import compare
from wholegrain.objectives.recipe import load_recipe
from wholegrain.progress import counted, showing
from wholegrain.report.published import Among, among_published, load_published
from wholegrain.report.report import Entry, Report, write_report
from wholegrain.report.terminal import show_twin
from wholegrain.report.words import plain
from wholegrain.towers.base_model import load_base, load_weak_kinds
from wholegrain.towers.model import Model
from wholegrain.training.trainer import TrainOptions
from wholegrain.workflows.runs import Suite, drawn, evaluate_once, train_once

METHODS = ("clip", "ce_clip", "wholegrain")
NAMES = {"base": "base", "grain": "base + grain", "clip": "CLIP", "ce_clip": "CE-CLIP", "wholegrain": "Wholegrain"}
TASKS = ("retrieval", "composition", "hard_positives", "grounding", "branches")
SETTINGS: Mapping[str, Mapping[str, object]] = {"retrieval": {"roles": ("overview",)}}
BOUND, ORDERED = "swap_attribute", "relation"
"""Kinds of twins that act one and act two show: what the patches hold and one vector does not, and what only training repairs."""
WEIGHT = 2.0
"""Of the grain beside the whole: that of recipe ``scenes/wholegrain``."""


@dataclass(frozen=True)
class Size:
    """How large the demo is: what is drawn, how many steps each method trains, which methods."""

    counts: SceneCounts
    steps: int
    methods: tuple[str, ...] = METHODS


FULL = Size(SceneCounts(train=8_000, val=300, test=1_000, crowded=0, twins=200), steps=150)
QUICK = Size(SceneCounts(train=0, val=0, test=500, crowded=0, twins=100), steps=0, methods=())
"""What needs no training; fewer steps than :data:`FULL` has repair nothing well."""


def demo(out: Path, *, size: Size = FULL, seed: int = 0, console: Console | None = None) -> Path:
    """Runs the demo and returns the report's path.

    Args:
        out: the demo's folder; an interrupted demo of the same size goes on there.
        size: :data:`FULL` or :data:`QUICK`, which trains nothing.
        seed: of the draws and of training.
    """
    console, started, world = console or Console(), time.perf_counter(), World()
    base = load_base(world)
    dataset = _scenes(out / "scenes", world, size.counts, console)
    twin, entries = act_one(base, dataset, out, console, seed)
    if size.methods:
        act_two(entries, dataset, out, size, seed, console)
        show_repaired(entries, dataset, twin, console)
    else:
        console.print("[bold]wholegrain demo[/] without --quick trains the same base and shows that pair repaired.\n")
    console.print(comparison(entries, load_weak_kinds()))
    report = out / "report.html"
    title = "Wholegrain: what a model misses, and what repairs it"
    notes, among = what_was_done(size, load_weak_kinds(), world), among_the_published(entries, dataset, size)
    write_report(report, Report(entries, dataset, title=title, notes=notes, reference=reference_of(entries), published=among))
    console.rule("[bold]Act three: your own photos")
    console.print(
        "wholegrain prepare photos.csv data/photos && wholegrain enrich data/photos --negatives && "
        "wholegrain train wholegrain --data data/photos --model ViT-B-32:openai\n"
    )
    console.print(f"The report, with pictures and heat maps: [bold]{report}[/]   ({time.perf_counter() - started:.0f} s)")
    return report


def act_one(base: Model, dataset: Dataset, out: Path, console: Console, seed: int) -> tuple[Twin, list[Entry]]:
    """Shows a pair that the base's one vector confuses and its patches tell apart; returns a pair that neither does, and the two entries."""
    console.rule("[bold]Act one: two pictures, two captions, one model")
    both = [(NAMES["base"], base, "base"), (NAMES["grain"], WholeAndGrain(base, WEIGHT), "base-grain")]
    entries = [Entry(name, None, model, results_of(model, dataset, out / "runs" / folder, seed)) for name, model, folder in both]
    whole, grain = (entry.result("composition") for entry in entries)
    assert whole is not None
    assert grain is not None
    bound = failed_twin(whole, dataset, (BOUND,), told_apart(entries[1], BOUND))
    console.print(show_twin(console, base, dataset, bound))
    scores = [f"{100 * found.figure(f'{BOUND}/group_score').value:.0f}%" for found in (whole, grain)]
    console.print(
        f"One vector for the picture, one for the caption: all four choices are right in {scores[0]} of such pairs. The model's own patches know "
        f"better (the map): the same caption, scored as a whole [italic]and[/] by its noun phrases on the patches that they find: {scores[1]}, without "
        "any training."
    )
    console.print(show_twin(console, entries[1].loaded, dataset, bound))
    order = failed_twin(whole, dataset, (ORDERED,))
    shown = ", ".join(f"{entry.name} {len(told_apart(entry, ORDERED))}" for entry in entries)
    total = sum(row["group"] == ORDERED for row in whole.items.to_pylist())
    console.print(f"Which thing is left of which is in no phrase. Pairs told apart, of {total}: {shown}. That takes training.\n")
    return order, entries


def act_two(entries: list[Entry], dataset: Dataset, out: Path, size: Size, seed: int, console: Console) -> None:
    """Fine-tunes the base by every method, and adds their entries."""
    console.rule("[bold]Act two: the same base, fine-tuned")
    console.print(
        f"{size.steps} steps of 128 pictures each, the same pictures, captions and seed; tested on scenes, wordings and combinations never trained on.\n"
    )
    for place, method in enumerate(size.methods, 1):
        console.print(f"[bold]{NAMES[method]}[/] ({place} of {len(size.methods)})")
        run = out / "runs" / method
        model = fine_tuned(method, dataset, run, size.steps, seed)
        entries.append(Entry(NAMES[method], run, model, results_of(model, dataset, run / "test", seed)))


def failed_twin(composition: TaskResult, dataset: Dataset, kinds: Sequence[str], repaired: Collection[str] = ()) -> Twin:
    """A twin that the model gets wrong, both ways if possible, of the first of these kinds that has one; one of ``repaired`` if any is."""
    rows = composition.items.to_pylist()
    twins = {(t.kind, t.item): t for t in dataset.twins if t.split == "test"}
    order = {kind: place for place, kind in enumerate(kinds)}
    wrong = [row for row in rows if row["group"] in order and not row["group_score"]]
    wrong = [row for row in wrong if row["item"] in repaired] or wrong
    worst = min(wrong, key=lambda row: (order[row["group"]], row["text_score"] + row["image_score"], row["item"]), default=None)
    return next(iter(twins.values())) if worst is None else twins[worst["group"], worst["item"]]


def show_repaired(entries: Sequence[Entry], dataset: Dataset, twin: Twin, console: Console) -> None:
    """Shows act one's pair after the last method that tells it apart; if none does, says so and shows another of its kind."""
    able = [entry for entry in entries[1:] if twin.item in told_apart(entry, twin.kind)]
    if able:
        console.print(f"[bold]The same pair after {able[-1].name}.[/] Told apart by {', '.join(entry.name for entry in able)}.")
        console.print(show_twin(console, able[-1].loaded, dataset, twin))
    else:
        console.print(f"No method repairs this pair in so few steps. {_shares(entries, twin.kind)}")
        best = max(entries[1:], key=lambda entry: len(told_apart(entry, twin.kind)))
        repaired = sorted(told_apart(best, twin.kind) - told_apart(entries[0], twin.kind))
        if repaired:
            other = next(t for t in dataset.twins if (t.split, t.kind, t.item) == ("test", twin.kind, repaired[0]))
            console.print(f"[bold]One that {entries[0].name} confuses, after {best.name}:[/]")
            console.print(show_twin(console, best.loaded, dataset, other))


def _shares(entries: Sequence[Entry], kind: str) -> str:
    counts = ", ".join(f"{entry.name} {len(told_apart(entry, kind))}" for entry in entries)
    return f"Pairs of its kind that are told apart, all four choices right: {counts}."


def told_apart(entry: Entry, kind: str) -> set[str]:
    """The pairs of a kind in which a model gives both pictures their captions and both captions their pictures."""
    result = entry.result("composition")
    rows = [] if result is None else result.items.to_pylist()
    return {row["item"] for row in rows if row["group"] == kind and row["group_score"]}


def fine_tuned(method: str, dataset: Dataset, run: Path, steps: int, seed: int) -> Model:
    """The base fine-tuned by one method; a run that is finished is loaded, one that was interrupted goes on."""
    recipe = load_recipe(f"scenes/{method}", [f"--optimiser.steps={steps}", "--optimiser.schedule=wsd", f"--seed={seed}"])
    return train_once(recipe, dataset, load_base(World()), TrainOptions(run, origin={"command": "wholegrain demo"}, workers=1))


def results_of(model: Model, dataset: Dataset, folder: Path, seed: int, tasks: Sequence[str] = TASKS) -> list[TaskResult]:
    """The model's results on the test split, kept in ``folder`` so that an interrupted demo need not measure twice."""
    return evaluate_once(model, dataset, folder, Suite("test", tasks, SETTINGS, seed))


def among_the_published(entries: Sequence[Entry], dataset: Dataset, size: Size) -> Among | None:
    """Where the trained models stand among the published runs; ``None`` where nothing was trained, or on other scenes."""
    published, names = load_published(), {name: method for method, name in NAMES.items()}
    if not size.methods or dataset.content_hash != published.data:
        return None
    trained = {names[entry.name]: entry for entry in entries if names[entry.name] in size.methods}
    return among_published(published, trained, size.steps * load_recipe("scenes/clip").optimiser.batch)


def _scenes(folder: Path, world: World, counts: SceneCounts, console: Console) -> Dataset:
    with showing() as show:
        return drawn(folder, world, counts, counted("drawing scenes", picture_count(counts), show))


def comparison(entries: Sequence[Entry], weak: Sequence[str]) -> Table:
    """The demo's table: a column per method, a row per figure; a star where the difference from the reference is clear of zero."""
    title = f"unseen test scenes, per cent\n+ weak kind   * paired difference from {reference_of(entries)} clear of zero (95%)"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 0, 0, 1), pad_edge=False)
    for column in ("", *(entry.name for entry in entries), "chance"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    reference = next(entry for entry in entries if entry.name == reference_of(entries))
    for label, task, figure, chance in rows_of(entries[0], weak):
        cells = [_cell(entry, reference, task, figure) for entry in entries]
        table.add_row(label, *cells, "" if chance is None else f"{100 * chance:.1f}", end_section=label.startswith("R@1"))
    table.add_row("R@1, own role", *(f"{100 * _role_recall(entry):.1f} " for entry in entries), "")
    shuffled = [_mean_shuffled(entry) for entry in entries]
    table.add_row("swaps, shuffled", *(f"{100 * value:.1f}" for value in shuffled), "50.0")
    return table


def reference_of(entries: Sequence[Entry]) -> str:
    """CLIP, fine-tuned on the same captions; the base where it was not."""
    return next((entry.name for entry in entries if entry.name == NAMES["clip"]), entries[0].name)


def rows_of(entry: Entry, weak: Sequence[str]) -> list[tuple[str, str, str, float | None]]:
    """(label, task, figure, chance): retrieval, the weak kinds, the other kinds, hard positives, grounding."""
    twins = entry.result("composition")
    assert twins is not None
    kinds = [f.name.split("/")[0] for f in twins.figures if f.name.endswith("/group_score")]
    ordered = [*(k for k in kinds if k in weak), *(k for k in kinds if k not in weak)]
    groups = [(f"{'+' if k in weak else ' '}{k}", "composition", f"{k}/group_score", 1 / 6) for k in ordered]
    return [
        ("R@1", "retrieval", "image_retrieval_recall@1", None),
        *groups,
        ("hard positives", "hard_positives", "both_win", 1 / 3),
        ("own object", "grounding", "hit_own", None),
        ("own object, token", "grounding", "token/hit_own", None),
        ("other object", "grounding", "hit_other", None),
    ]


def _cell(entry: Entry, reference: Entry, task: str, name: str) -> str:
    result, other = entry.result(task), reference.result(task)
    assert result is not None
    assert other is not None
    if name not in result.metrics or name not in other.metrics:  # results of an earlier version
        return "– "
    star = " "
    if entry is not reference:
        difference = compare(result, other, name)
        star = "*" if difference.low > 0 or difference.high < 0 else " "
    return f"{100 * result.figure(name).value:.1f}{star}"


def _role_recall(entry: Entry) -> float:
    """Caption -> image R@1, mean over the roles: through the branch that was trained on the role, or through the one vector there is."""
    result = entry.result("branches")
    assert result is not None
    known = {figure.name for figure in result.figures}
    roles = enumerate(load_recipe("scenes/holistic").terms[0].settings["roles"])
    names = [(f"{role}/branch_{h}_recall@1", f"{role}/single_recall@1") for h, role in roles]
    found = [result.figure(own if own in known else single).value for own, single in names if {own, single} & known]
    return sum(found) / len(found)


def _mean_shuffled(entry: Entry) -> float:
    """Choice of a caption on the trained-on swaps when every picture is replaced by another one."""
    figures = [entry.figure("composition", f"{kind}/picks_caption") for kind in ("swap_object", "swap_attribute")]
    values = [f.shuffled for f in figures if f is not None and f.shuffled is not None]
    return sum(values) / max(1, len(values))


def what_was_done(size: Size, weak: Sequence[str], world: World) -> list[str]:
    """What the report says about how the numbers came about."""
    base = f"plain CLIP on scenes of the world {world.hash}"
    trained = f"Every method starts from the same base ({base}) and trains {size.steps} steps of 128 pictures with the same seed."
    return [
        trained if size.methods else f"The base is {base}; nothing is trained here.",
        f"Weak kinds (on development twins the base is no better than lots): {', '.join(map(plain, weak)) or 'none'}.",
        f"base + grain is the base itself, scored by its whole vector and {WEIGHT:g} times its noun phrases on the patches that they find; Wholegrain is "
        "trained for that score.",
        "One seed; intervals are over pictures. Several seeds, more steps and more methods: docs/results.",
    ]
