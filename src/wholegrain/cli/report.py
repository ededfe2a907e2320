"""``wholegrain report``: one HTML page that compares models, shows what they see, and where they fail."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from wholegrain.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from wholegrain.data.dataset import Dataset
    from wholegrain.evaluation.features.encode import Encoded
    from wholegrain.evaluation.result import TaskResult
    from wholegrain.towers.model import Model


@dataclass(frozen=True, kw_only=True)
class ReportArguments:
    """The words and options of ``wholegrain report``.

    Attributes:
        runs: folders of runs or models, or names such as ViT-B-32:openai; before and after are the first and the last.
        data: a prepared data set.
        split: the split to report on.
        out: the HTML file.
        names: what the runs are called, one each; by default the names of their folders.
        reference: the name of the run that the others are compared with; by default the first.
        title: of the page.
        notes: sentences below the summary.
        suite: tasks or suites for runs that are evaluated now; see "wholegrain evaluate --help".
        calibration: expected calibration error and a reliability diagram of every task of choices, from the same results.
        fresh: evaluate all runs again, whatever is saved.
        seed: of resamples, and of the examples that are shown.
        batch: images per step of an evaluation.
        device: "auto" takes the GPU if there is one.
        cache: a folder to keep features in; models with the same frozen towers share them.
    """

    runs: Positional[tuple[str, ...]]
    data: Path
    split: str = "test"
    out: Path = Path("report.html")
    names: tuple[str, ...] = ()
    reference: str = ""
    title: str = ""
    notes: tuple[str, ...] = ()
    suite: str = "all"
    calibration: bool = False
    fresh: bool = False
    seed: int = 0
    batch: int = 64
    device: str = "auto"
    cache: Path = Path("results/features")


def report(args: ReportArguments) -> None:
    """Compare models in one self-contained HTML page; runs that were not evaluated on this split are evaluated first.

    wholegrain report runs/base runs/latest --data data/photos --out report.html
    """
    if not args.runs:
        raise UserError(
            "A report needs at least one run or model, such as: wholegrain report runs/base runs/latest --data data/photos"
        )
    if args.names and len(args.names) != len(args.runs):
        raise UserError(f"There are {len(args.names)} names for {len(args.runs)} runs; give one each, or leave --names out.")
    from rich.console import Console

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"reading {args.data} and {len(args.runs)} model{'s' if len(args.runs) > 1 else ''}", markup=False)
    from wholegrain.data.dataset import Dataset
    from wholegrain.evaluation.features.encode import split_keys
    from wholegrain.evaluation.scores.similarity import logit_scale
    from wholegrain.evaluation.show import left_out_lines
    from wholegrain.evaluation.suite import expand
    from wholegrain.evaluation.tasks.calibration import calibrated
    from wholegrain.report.report import Entry, Report, write_report
    from wholegrain.towers import load_model
    from wholegrain.training.distributed.processes import choose_device

    dataset, tasks, place = Dataset(args.data), expand(args.suite), choose_device(args.device)
    split_keys(dataset, args.split)
    entries = []
    for number, (spec, name) in enumerate(zip(args.runs, args.names or _names(args.runs), strict=True), 1):
        console.print(f"{name} ({number} of {len(args.runs)})", markup=False)
        with console.status("loading"):
            model = load_model(spec).to(place)
        job = _Job(spec, model, dataset, args.data, args.split, tasks, args.seed, args.batch, args.cache, console)
        results, left_out = (None if args.fresh else job.saved()) or job.measured()
        if args.calibration:
            results = [*results, *calibrated(results, logit_scale(model), seed=args.seed)]
        lost = number == len(args.runs) and any(result.task == "retrieval" for result in results)  # the page shows what the last one lost
        entries.append(Entry(name, _folder(spec), model, results, left_out, job.features if lost else None))
    for line in left_out_lines([entry.left_out for entry in entries]):
        console.print(line, markup=False)
    title = args.title or f"{args.data.resolve().name}: {', '.join(entry.name for entry in entries)}"
    with console.status("writing the page: twins, heat maps, charts"):
        page = write_report(args.out, Report(entries, dataset, args.split, title, args.notes, args.reference, seed=args.seed))
    print(f"written: {page}")
    runs = " ".join(args.runs)
    others = f"wholegrain compare {runs}" if len(args.runs) > 1 else f"wholegrain report OTHER {runs} --data {args.data}"
    print(f"next: open {page} in a browser; which differences are no luck: {others}")


def _folder(spec: str) -> Path | None:
    """The folder of a run, or of a saved model; ``None`` for a model by name."""
    path = Path(spec)
    return path.resolve() if path.is_dir() else None


def _names(runs: tuple[str, ...]) -> list[str]:
    """Names of the folders; with as much of the path as it takes to tell them apart."""
    paths = [Path(run) if (folder := _folder(run)) is None else folder for run in runs]
    depth = 1
    while depth < 6 and len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return ["/".join(path.parts[-depth:]) for path in paths]


@dataclass
class _Job:
    """One model's results, saved or made now."""

    spec: str
    model: Model
    dataset: Dataset
    data: Path
    split: str
    tasks: tuple[str, ...]
    seed: int
    batch: int
    cache: Path
    console: Console

    def saved(self) -> tuple[list[TaskResult], dict[str, str]] | None:
        """Saved results of this model, data and split that hold all tasks, done as they are by default."""
        from wholegrain.evaluation.result import load_results
        from wholegrain.evaluation.result_folders import is_fresh, results_of

        for place in results_of(self.spec).values():
            results, meta = load_results(place)
            same = (meta.get("content_hash"), meta.get("split"), meta.get("seed")) == (self.dataset.content_hash, self.split, self.seed)
            left_out = meta.get("left_out") or {}
            plain = not set(self.tasks) & set(meta.get("settings") or {})
            if same and plain and set(self.tasks) <= {r.task for r in results} | set(left_out) and is_fresh(meta, self.model):
                return [r for r in results if r.task in self.tasks], {k: v for k, v in left_out.items() if k in self.tasks}
        return None

    def measured(self) -> tuple[list[TaskResult], dict[str, str]]:
        """New results, which are saved where evaluate would."""
        from wholegrain.evaluation.result import NotSupportedError
        from wholegrain.evaluation.result_folders import keep_results, results_folder, weights_of
        from wholegrain.evaluation.suite import EvaluationOptions, evaluate

        left_out: dict[str, str] = {}
        features = {}
        if {"retrieval", "branches", "faithfulness"} & set(self.tasks):  # the others need not all pictures and captions
            with suppress(NotSupportedError):  # without captions, which the tasks say
                features[self.split] = self.features
        results = evaluate(
            self.model, self.dataset, EvaluationOptions(self.seed, self.batch), split=self.split, tasks=self.tasks, left_out=left_out,
            features=features,
        )  # fmt: skip
        facts = {"dataset": str(self.data), "content_hash": self.dataset.content_hash, "model": self.spec, "split": self.split}
        facts |= {"seed": self.seed, "weights": weights_of(self.model), "left_out": left_out, "settings": {}}
        path = keep_results(results, results_folder(self.spec, f"{self.data.resolve().name}-{self.split}"), facts)
        self.console.print(f"written: {path}", markup=False)
        return results, left_out

    @cached_property
    def features(self) -> Encoded:
        """Of the split."""
        from wholegrain.workflows.split_features import split_features

        with self.console.status("pictures and captions") as status:
            return split_features(
                self.model, self.dataset, self.split, batch=self.batch, cache=self.cache, say=lambda text: status.update(text)
            )
