"""The path that all tasks of :mod:`wholegrain.downstream` share: options, training, measuring, results, a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Generic

import tyro
from torch import nn
from tyro.conf import Positional

from wholegrain.downstream.run_folder import HeadFolder
from wholegrain.downstream.task import ExampleT, HeadTask, PictureData, TargetsT
from wholegrain.downstream.trainer import HeadOptions, train_head
from wholegrain.evaluation.result import TaskResult
from wholegrain.evaluation.result_folders import check_results_folder, results_folder
from wholegrain.progress import Show, showing
from wholegrain.report.page import write_page
from wholegrain.towers.io import load_model
from wholegrain.towers.model import Model
from wholegrain.training.distributed.processes import init_distributed


@dataclass(frozen=True, kw_only=True)
class HeadArguments:
    """The words and options that all tasks on top of an image tower share.

    Attributes:
        model: a name ("base", "ViT-B-16:openai"), a folder or a run.
        data: a prepared data set.
        out: a folder for the trained head, results.json, the items behind the figures and a page; by default below RUN/results or
            results/MODEL, where compare finds them. The same command goes on there with what is not finished.
        recipe: a TOML file in the place of the packaged recipe; --training.lr 1e-4 and the like override single keys.
        split: to measure on.
        train_split: to train on.
        steps: optimiser steps; the recipe's by default.
        batch: examples per step; the recipe's by default.
        lr: peak learning rate of the head; the recipe's by default.
        tune: what is trained of the image tower beside the head: none, all or last:N; the recipe's by default (none).
        seed: of the training and of resamples.
        device: such as cpu or cuda:0; "auto" takes the GPU if there is one.
        cache: a folder that keeps features of frozen towers from run to run.
    """

    model: Positional[str]
    data: Positional[Path]
    out: Path | None = None
    recipe: Path | None = None
    split: str = "test"
    train_split: str = "train"
    steps: int | None = None
    batch: int | None = None
    lr: float | None = None
    tune: Annotated[str | None, tyro.conf.arg(metavar="HOW")] = None
    seed: int = 0
    device: str = "auto"
    cache: Path | None = None
    overrides: tuple[str, ...] = ()

    @property
    def all_overrides(self) -> list[str]:
        """Of the recipe: ``overrides``, and the options that are short for some."""
        short = {"steps": self.steps, "batch": self.batch, "lr": self.lr, "tune": self.tune, "seed": self.seed}
        return [*self.overrides, *(f"--training.{name}={value}" for name, value in short.items() if value is not None)]

    def folder(self, task: str) -> Path:
        """``out``, or where results of this task lie by default."""
        seed = f"-seed{self.seed}" if self.seed else ""
        return self.out or results_folder(self.model, f"{task}-{self.data.resolve().name}{seed}")


@dataclass(frozen=True)
class HeadWork(Generic[ExampleT, TargetsT]):
    """One task on one data set, ready to be done.

    Attributes:
        task: what is trained.
        pictures, examples: to train on.
        measure: the trained head on top of the model -> results, and an HTML page of them.
        facts: kept beside the results, such as ``dataset`` and ``split``.
    """

    task: HeadTask[ExampleT, TargetsT]
    pictures: PictureData
    examples: Sequence[ExampleT]
    measure: Callable[[nn.Module, Model, Show], tuple[list[TaskResult], str]]
    facts: dict[str, object]


@dataclass(frozen=True)
class HeadDone:
    """What a task's command found: results, and where they lie."""

    results: list[TaskResult]
    folder: Path
    page: Path


def carry_out(args: HeadArguments, make: Callable[[Model], HeadWork[ExampleT, TargetsT]], name: str) -> HeadDone | None:
    """Trains and measures, each unless it is done already; ``None`` in all processes but the main one.

    Args:
        make: what is to be done with the model; reads the data.
        name: of the task, for the default folder.
    """
    out = args.folder(name)
    check_results_folder(out)
    with init_distributed(args.device) as context, showing() as show:
        show("loading the model and the data")
        model = context.on_all_processes(lambda: load_model(args.model))
        work = context.on_all_processes(lambda: make(model))
        show.clear()
        options = HeadOptions(out, args.cache, origin={"model_name": args.model, "dataset": str(args.data)})
        head, folder = train_head(work.task, model, work.pictures, work.examples, options, context)
        if not context.is_main_process:
            return None
        return _measured(args, work, head, model, folder, show)


def _measured(
    args: HeadArguments, work: HeadWork[ExampleT, TargetsT], head: nn.Module, model: Model, folder: HeadFolder, show: Show
) -> HeadDone:
    page = folder.path / f"{work.task.name}.html"
    facts = {"model": args.model, "seed": args.seed, "weights": folder.identity.model, **work.facts}
    with folder.lock():
        found = folder.results(facts)
        if found is None or not page.exists():
            found, html = work.measure(head, model, show)
            write_page(page, html)
            folder.save_results(found, facts)
    return HeadDone(found, folder.path, page)
