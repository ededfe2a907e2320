"""``python -m benchmarks.step``: what a training step costs on this machine, beside open_clip's own trainer."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from benchmarks.step.measure import Rival, Setting, StepCosts, measure_steps
from wholegrain.cli.main import main_of
from wholegrain.data.dataset import Dataset
from wholegrain.errors import UserError
from wholegrain.towers.io import load_model
from wholegrain.training.memory.precision import resolve_precision
from wholegrain.workflows.commands.train import workers_by_default

BEST = ("--torchcompile",)
FUSED = ("--opt-kwargs", "fused=True")  # where open_clip's trainer has that flag


@dataclass(frozen=True, kw_only=True)
class StepArguments:
    """The words and options of ``python -m benchmarks.step``.

    Attributes:
        data: a prepared data set whose captions are used; without it some are made. Pictures are noise.
        model: an architecture of open_clip, from scratch.
        batch: images in a step.
        precision: auto, fp32, bf16 or fp16, of all rivals.
        device: such as cpu or cuda; by default CUDA where there is one.
        rounds: turns of each pair.
        source: a folder with another version of open_clip (the one that holds "open_clip" and "open_clip_train"), for further pairs.
        compile: compile ours, too.
        workers: processes that load for ours; by default as "wholegrain train" chooses. open_clip's batches are ready in memory.
        only: pairs, by their numbers in the table, from 1.
        out: a JSON file for the figures.
    """

    data: str = ""
    model: str = "ViT-B-32"
    batch: int = 32
    precision: str = "auto"
    device: str = ""
    rounds: int = 3
    source: Path | None = None
    compile: bool = False
    workers: int | None = None
    only: tuple[str, ...] = ()
    out: Path | None = None


def step(args: StepArguments) -> int:
    """Measures training steps in turn with open_clip's trainer, at its defaults and at its best flags, and ours with each other:
    CLIP, CE-CLIP with four negatives, Holistic CLIP with five texts, SPARC.

    python -m benchmarks.step --data data/photos --batch 32
    """
    if min(args.batch, args.rounds) < 1:
        raise UserError("Batch and rounds must be at least 1; change the option that is not.")
    place = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if args.source is not None and not (args.source / "open_clip_train").is_dir():
        raise UserError(f"{args.source} has no folder open_clip_train; give the folder src of open_clip's source.")
    pairs = pairs_to_run(args.source, args.only)
    logging.getLogger().setLevel(logging.ERROR)  # open_clip warns of random weights, which are meant
    console = Console()
    setting = Setting(
        args.model,
        args.batch,
        resolve_precision(args.precision, place),
        str(place),
        args.rounds,
        args.compile,
        workers_by_default() if args.workers is None else args.workers,
    )
    captions = Dataset(args.data) if args.data else None
    costs = measure_steps(setting, pairs, captions, load_model(args.model), say=lambda said: console.print(f"[dim]{said} …"))
    if args.out is not None:
        costs.save(args.out)
    _print(costs, console)
    return 0


def pairs_to_run(source: Path | None, only: tuple[str, ...] = ()) -> list[tuple[Rival, Rival]]:
    """Ours, and what it is compared with."""
    ours = {name: Rival(name, recipe=name) for name in ("clip", "ce_clip", "holistic", "sparc")}
    theirs = Rival("open_clip, defaults")
    pairs = [(ours["clip"], theirs), (ours["clip"], Rival("open_clip, best flags", flags=BEST))]
    if source is not None:
        other = str(source)
        pairs.append((ours["clip"], Rival("open_clip of --source, defaults", source=other)))
        pairs.append((ours["clip"], Rival("open_clip of --source, best flags", flags=(*BEST, *FUSED), source=other)))
    pairs += [(ours["ce_clip"], theirs), (ours["holistic"], theirs)]
    pairs += [(ours["ce_clip"], Rival("ce_clip, padded", recipe="ce_clip", padded=True)), (ours["sparc"], ours["clip"])]
    wrong = [number for number in only if not number.isdigit() or not 1 <= int(number) <= len(pairs)]
    if wrong:
        raise UserError(f"--only {wrong[0]} is no pair; they are numbered from 1 to {len(pairs)}.")
    return [pairs[int(number) - 1] for number in only] if only else pairs


def _print(costs: StepCosts, console: Console) -> None:
    console.print(_pairs_table(costs))
    console.print(_rivals_table(costs))
    console.print(
        "Of the peak: matrix products that are computed, by the fastest product of two large matrices just after; padded: those that "
        "texts at the whole context would take. Ours with loading; open_clip's batches are ready in memory.",
        soft_wrap=True,
    )
    peaks = [peak / 1e9 for pair in costs.pairs for peak in pair.peaks]
    console.print(f"Peaks: {min(peaks):,.0f} to {max(peaks):,.0f} GFLOP/s.")
    console.print(", ".join(f"{name}: {fact}" for name, fact in costs.facts.items()))


def _pairs_table(costs: StepCosts) -> Table:
    setting = costs.setting
    title = f"{setting.model}, {setting.batch} images, {setting.precision}, captions of {costs.lengths[0]:.1f} tokens (at most {costs.lengths[1]})"
    table = Table("ours", "beside", Column("times as fast", justify="right"), "turns", title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for pair in costs.pairs:
        table.add_row(pair.ours, pair.other, f"{median(pair.ratios):.2f}", " ".join(f"{ratio:.2f}" for ratio in pair.ratios))
    return table


def _rivals_table(costs: StepCosts) -> Table:
    columns = [Column(name, justify="right") for name in ("images/s", "texts/s", "of the peak", "padded", "MB")]
    table = Table("", *columns, title="medians of all turns", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name, texts in costs.texts.items():
        seconds = costs.median_seconds(name)
        shares = [f"{costs.peak_share(name, padded):.2f}" for padded in (False, True)]
        table.add_row(
            name, f"{costs.setting.batch / seconds:.2f}", f"{texts / seconds:.2f}", *shares, f"{costs.megabytes[name]:,.0f}"
        )
    return table


if __name__ == "__main__":
    main_of(step, "python -m benchmarks.step")
