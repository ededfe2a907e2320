"""The path that all tasks of :mod:`wholegrain.downstream` share: training, measuring, results, a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

from torch import nn

from wholegrain.downstream.run_folder import HeadFolder
from wholegrain.downstream.task import ExampleT, HeadTask, PictureData, TargetsT
from wholegrain.downstream.trainer import HeadOptions, train_head
from wholegrain.evaluation.result import TaskResult
from wholegrain.evaluation.result_folders import check_results_folder
from wholegrain.progress import Show, showing
from wholegrain.report.page import write_page
from wholegrain.towers.io import load_model
from wholegrain.towers.model import Model
from wholegrain.training.distributed.processes import init_distributed
from wholegrain.workflows.head_arguments import HeadArguments


@dataclass(frozen=True)
class HeadWork(Generic[ExampleT, TargetsT]):
    """One task on one data set, ready to be done.

    Attributes:
        task: what is trained.
        pictures, examples: to train on.
        measure: the trained head on top of the model -> results, and an HTML page of them.
        facts: kept beside the results, such as ``dataset`` and ``split``.
        after: what is done behind the results every time, also where they lay there already.
    """

    task: HeadTask[ExampleT, TargetsT]
    pictures: PictureData
    examples: Sequence[ExampleT]
    measure: Callable[[nn.Module, Model, Show], tuple[list[TaskResult], str]]
    facts: dict[str, object]
    after: Callable[[nn.Module, Model, Show], None] | None = None


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
        if work.after is not None:
            work.after(head, model, show)
    return HeadDone(found, folder.path, page)
