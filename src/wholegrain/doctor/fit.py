"""Do recipe, data and processes fit each other? What training would refuse, and what it would do without a word."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from wholegrain.data.dataset import Dataset
from wholegrain.doctor.finding import Finding, level_of
from wholegrain.doctor.sample import DataSample
from wholegrain.errors import UserError
from wholegrain.objectives.objective import choose_terms
from wholegrain.objectives.schema import Recipe
from wholegrain.towers.model import Model
from wholegrain.training.loading.loader import PlanSampler, names_of
from wholegrain.training.loading.plan import Plan
from wholegrain.training.run import offers, twins_of

Value = TypeVar("Value")


def processes_of(environment: Mapping[str, str]) -> int:
    """How many processes the launcher started, or will: ``WORLD_SIZE`` (torchrun) or ``SLURM_NTASKS``."""
    told = environment.get("WORLD_SIZE") or environment.get("SLURM_NTASKS") or "1"
    return int(told) if told.isdigit() and int(told) > 0 else 1


def terms_and_data(recipe: Recipe, dataset: Dataset, model: Model) -> list[Finding]:
    """Roles, negatives, features that the recipe needs and the data or the model lack."""
    try:
        names = names_of(dataset, recipe.data)
        _, notes = choose_terms(recipe, names.roles, offers(recipe, dataset, model))
    except UserError as problem:
        said = str(problem).replace(" DATA ", f" {dataset.folder} ")
        return [Finding("what the recipe needs", "stop", said, "change what the sentence names")]
    if notes:
        do = "nothing, if you can do without; else do what the sentence says"
        return [Finding("what the recipe needs", "look", note.replace(" DATA ", f" {dataset.folder} "), do) for note in notes]
    return [Finding("what the recipe needs", "fine", f"Data and model have all that {recipe.name or 'the recipe'} needs.")]


def batches(recipe: Recipe, dataset: Dataset, processes: int, workers: int) -> list[Finding]:
    """Batch, processes and workers against the number of images and of shards."""
    layout, drawn, size = dataset.layout(recipe.data.split), recipe.data, recipe.optimiser.batch
    twin_of = twins_of(dataset, recipe)
    plan = _or_sentence(
        lambda: Plan(layout, size, recipe.seed, drawn.twin_share, twin_of, drawn.shuffle_window, drawn.per_source)
    )
    if isinstance(plan, str):
        return [Finding("batch", "stop", plan, "change what the sentence names")]
    refused = _or_sentence(lambda: PlanSampler(plan, 0, 0, 0, processes))
    if isinstance(refused, str):
        return [Finding("batch", "stop", refused, "change what the sentence names")]
    findings, lost = [], len(layout) % size
    numbers = {"images": len(layout), "batch": size, "steps per epoch": plan.steps_per_epoch, "left out": lost}
    if lost > 0.2 * len(layout):
        said = f"A batch of {size:,} leaves {lost:,} of {len(layout):,} images out of each epoch (other ones each time)."
        better = len(layout) // (plan.steps_per_epoch + 1) // processes * processes
        do = f"set --batch to {better:,} (now {size:,})" if better else "give more images"
        findings.append(Finding("batch", "look", said, do, numbers))
    shards, readers = len(np.unique(layout.shard_N)), processes * max(1, workers)
    if readers > shards and readers > 1:
        said = (
            f"{processes} processes with {workers} workers read {shards} shards. Training here is exact all the same, for any sample is read by its "
            f"place; other readers of such shards would give {readers - shards} of them nothing, and a far store is asked for the same shard by several."
        )
        do = (
            f"set --workers to {shards // processes} (now {workers}), or prepare with --shard-mib {_shard_mib(dataset, readers)}, if the data lie "
            "far away or other tools read them"
        )
        findings.append(Finding("shards", "look", said, do, {"shards": shards, "readers": readers}))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    local = processes if "LOCAL_WORLD_SIZE" not in os.environ else int(os.environ["LOCAL_WORLD_SIZE"])
    if local * (1 + workers) > 2 * cores:
        said = f"{local} processes with {workers} workers each are {local * (1 + workers)} at work on {cores} cores."
        few = max(0, 2 * cores // local - 1)
        do = f"set --workers to {few} (now {workers})" if few < workers else f"start {max(1, cores)} processes on a machine (now {local})"
        findings.append(Finding("shards", "look", said, do, {"cores": cores}))
    if not findings:
        said = f"A batch of {size:,} out of {len(layout):,} images makes {plan.steps_per_epoch:,} steps an epoch, for {processes} processes."
        findings.append(Finding("batch", "fine", said, numbers=numbers))
    return findings + _schedule(recipe, plan)


def _shard_mib(dataset: Dataset, readers: int) -> int:
    """The size of shards of which every reader would get one."""
    total = sum(file.stat().st_size for file in (Path(dataset.folder) / "shards").glob("*.tar"))
    return max(1, int(total / readers / 2**20))


def _schedule(recipe: Recipe, plan: Plan) -> list[Finding]:
    settings = recipe.optimiser
    total = settings.steps or max(1, round(settings.epochs * plan.steps_per_epoch))
    epochs = total / plan.steps_per_epoch
    numbers = {"steps": total, "epochs": round(epochs, 2), "warm-up": settings.warmup_steps}
    odd = []
    if total < 20:
        more = math.ceil(20 / plan.steps_per_epoch)
        odd.append((f"The run takes {total} steps in all", f"set --epochs to {more} or more (now {epochs:.3g}), or a smaller --batch (now {plan.size})"))
    if settings.warmup_steps > total / 2:
        odd.append(
            (
                f"The warm-up of {settings.warmup_steps} steps is cut to half of the {total} steps",
                f"set --optimiser.warmup_steps to {max(1, total // 10)}, a tenth of the steps (now {settings.warmup_steps})",
            )
        )
    if epochs > 200:
        do = f"set --steps to {200 * plan.steps_per_epoch:,} or less (now {total:,}): the images will be learned by heart"
        odd.append((f"Every image comes {epochs:,.0f} times", do))
    if odd:
        return [Finding("schedule", "look", f"{said}.", do, numbers) for said, do in odd]
    return [Finding("schedule", "fine", f"{total:,} steps are {epochs:.3g} epochs.", numbers=numbers)]


def negatives(recipe: Recipe, sample: DataSample, dataset: Dataset) -> list[Finding]:
    """Hard negatives that are true after all, and captions without any."""
    if not recipe.data.negatives.count or not dataset.negative_kinds:
        return []
    rows = wrong = captions = without = 0
    first = ""
    for item in sample.trained:
        record = dataset.record(item.place)
        true = {_plain(caption.text) for caption in record.captions}
        for caption in record.captions:
            found = dataset.negatives.get((record.key, caption.id), ())
            captions, without, rows = captions + 1, without + (not found), rows + len(found)
            for row in found:
                if _plain(row.text) in true:
                    wrong, first = wrong + 1, first or f"{item.where}, {row.kind}: {row.text[:60]!r}"
    numbers = {"negatives": rows, "true": wrong / max(1, rows), "captions without": without / max(1, captions)}
    findings = []
    if wrong:
        said = f"{wrong:,} of {rows:,} negatives are a true caption of their own image; first: {first}."
        do = f"make them anew: wholegrain enrich {dataset.folder} --negatives --replace"
        findings.append(Finding("negatives", level_of(wrong / rows, 0, 0.1), said, do, numbers))
    if without > 0.5 * captions:
        said = f"{without:,} of {captions:,} captions have no negative, though the recipe asks for {recipe.data.negatives.count}."
        do = f"make some of all kinds (wholegrain enrich {dataset.folder} --negatives --replace), or expect a weak effect"
        findings.append(Finding("negatives", "look", said, do, numbers))
    return findings or [Finding("negatives", "fine", f"None of {rows:,} negatives is true of its image.", numbers=numbers)]


def _plain(text: str) -> str:
    return " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


def _or_sentence(made: Callable[[], Value]) -> Value | str:
    try:
        return made()
    except UserError as problem:
        return str(problem)
