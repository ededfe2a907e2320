"""What ``wholegrain train`` does: a recipe, data and a model in, a run's folder out."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from wholegrain.errors import UserError

if TYPE_CHECKING:
    from wholegrain.data.dataset import Dataset
    from wholegrain.objectives.schema import Recipe
    from wholegrain.towers.model import Model


@dataclass(frozen=True)
class TrainArguments:
    """The words and options of ``wholegrain train``.

    Attributes:
        recipe: a packaged recipe (see "wholegrain methods") or a TOML file.
        data: a prepared data set, or its address (https://..., s3://...); several are mixed, with weights such as photos:3 scenes:1.
        model: where to start: small (from scratch), base (the scenes' own), ViT-B-32:openai, hf-hub:..., a folder, a run, or a
            pair in TOML; ",context=248" behind it makes its texts longer.
        out: the run's folder; by default runs/RECIPE-DATA-TIME.
        resume: go on with this run, such as runs/latest; recipe, data and model are then the run's own.
        seed: of everything random; the recipe's by default.
        steps: optimiser steps, in place of epochs.
        epochs: passes over the training split.
        batch: images per step.
        lr: peak learning rate.
        workers: processes that load data; by default up to 8, and none on a machine with two cores or fewer.
        device: such as cpu or cuda:0; by default CUDA where there is one.
        quiet: no progress.
        cache: a folder that keeps what frozen towers make of the data, so that the next run need not encode them again.
        timeout: seconds to wait for another process before it is taken for lost.
        tracker: report to wandb, trackio or mlflow, too (pip install "wholegrain[wandb]", "wholegrain[trackio]" or "wholegrain[mlflow]").
        project: the tracker's project.
    """

    recipe: tyro.conf.Positional[str] = ""
    data: tuple[str, ...] = ()
    model: str = "small"
    out: Path | None = None
    resume: Path | None = None
    seed: int | None = None
    steps: int | None = None
    epochs: float | None = None
    batch: int | None = None
    lr: float | None = None
    workers: int | None = None
    device: str | None = None
    quiet: bool = False
    cache: Path | None = None
    timeout: float = 600.0
    tracker: str = ""
    project: str = "wholegrain"
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trained:
    """What a training made.

    Attributes:
        folder: the run's.
        model: the trained model's folder, in it.
        dataset: what it was trained on.
        main_process: whether this process is the one that speaks.
    """

    folder: Path
    model: Path
    dataset: Dataset
    main_process: bool


def train(args: TrainArguments, command: str) -> Trained:
    """Trains; ``command`` is how it was asked for, which the run keeps."""
    from wholegrain.training.distributed.launch import launch
    from wholegrain.training.start import load_run_inputs
    from wholegrain.training.trackers import require_tracker
    from wholegrain.training.trainer import TrainOptions
    from wholegrain.training.trainer import train as run_training
    from wholegrain.workflows.validation import validation

    if args.tracker:
        require_tracker(args.tracker)
    launched = launch()
    if launched.may_restart and args.out is None and args.resume is None:
        raise UserError("The launcher may start this run anew (--max-restarts): name its folder with --out, so that it is found.")
    dotted, folder = _dotted(args), args.resume
    if folder is not None and (args.recipe or args.data or args.out or dotted or args.model != "small"):
        raise UserError("--resume goes on with a run as it began; leave out the recipe, --data, --model, --out and recipe options.")
    if launched.may_restart and args.out is not None and _is_of(args.out, command):
        folder = args.out
    resume, origin = folder is not None, {}
    if folder is not None:
        folder = folder.resolve()  # runs/latest may point elsewhere by the end
        recipe, dataset, model = load_run_inputs(folder)
    else:
        recipe, dataset, model, folder, origin = _new_run(args, dotted, command)
    options = TrainOptions(
        folder,
        resume=resume,
        device=args.device,
        workers=workers_by_default() if args.workers is None else args.workers,
        timeout=args.timeout,
        cache=args.cache,
        quiet=args.quiet,
        tracker=(args.tracker, args.project) if args.tracker else None,
        origin=origin,
    )
    trained = run_training(recipe, dataset, model, options, evaluate=validation(dataset, recipe, cache=args.cache))
    return Trained(folder, Path(trained), dataset, launched.rank == 0)


def _dotted(args: TrainArguments) -> list[str]:
    """Overrides of the recipe, the options that stand for one among them."""
    shortcuts = {
        "seed": args.seed,
        "optimiser.steps": args.steps,
        "optimiser.epochs": args.epochs,
        "optimiser.batch": args.batch,
        "optimiser.lr": args.lr,
    }
    dotted = [*args.overrides, *(f"--{key}={value}" for key, value in shortcuts.items() if value is not None)]
    return [*dotted, "--optimiser.steps=0"] if args.epochs is not None and args.steps is None else dotted


def _new_run(args: TrainArguments, dotted: list[str], command: str) -> tuple[Recipe, Dataset, Model, Path, dict[str, object]]:
    """Recipe, data, model, folder, and the facts of where they come from."""
    from wholegrain.data.mixture import absolute
    from wholegrain.training.start import load_inputs

    if not args.recipe or not args.data:
        raise UserError("Training needs a recipe and --data, such as: wholegrain train clip --data data/photos")
    recipe, dataset, model = load_inputs(args.recipe, args.data, args.model, dotted)
    folder = args.out or Path("runs") / f"{recipe.name}-{dataset.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    named = [absolute(source) for source in args.data]
    return recipe, dataset, model, folder, {"command": command, "data": named if len(named) > 1 else named[0], "model": args.model}


def _is_of(folder: Path, command: str) -> bool:
    """Whether a folder holds a run that this very command began."""
    from wholegrain.training.checkpoints.run_folder import read_run

    return (folder / "run.json").exists() and read_run(folder).get("command") == command


def workers_by_default() -> int:
    """Processes that load: up to 8, one core left free; none on two cores or fewer."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if cores <= 2 else min(8, cores - 1)
