"""What ``wholegrain evaluate`` does: what a model can and cannot do on a data set, and on benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import Positional

if TYPE_CHECKING:
    import torch

    from wholegrain.evaluation.benchmarks.run import BenchmarkSpec
    from wholegrain.evaluation.contract import EvaluatedModel
    from wholegrain.evaluation.result import TaskResult
    from wholegrain.evaluation.suite import EvaluationOptions
    from wholegrain.structure import JsonTable


RETRIEVAL = ("one_caption", "owner_only", "subset", "roles", "shortlist")
"""Options of the command that are settings of the task ``retrieval``."""


@dataclass(frozen=True, kw_only=True)
class EvaluateArguments:
    """The words and options of ``wholegrain evaluate``.

    Attributes:
        model: a name ("ViT-B-32:openai", "small"), a folder or a run; or file.py:function, which returns any other model.
        data: a prepared data set.
        split: the split to test on.
        suite: tasks or suites on --data, separated by commas: all, compositional, dense, classification, retrieval, composition,
            hard_positives, negatives, grounding, branches, zero_shot, linear_probe, faithfulness, retrieval_diagonal; or a TOML file with [[benchmark]] tables.
        benchmark: a benchmark of the field and the folder with its files, as sugarcrepe=data/sugarcrepe (docs/evaluation.md lists
            them), or file.py:function of your own; may be given again.
        images: a further folder to look for the benchmarks' pictures in; may be given again.
        out: a folder for results.json and the items behind the figures; by default RUN/results/DATA-SPLIT for a run and
            results/MODEL/DATA-SPLIT for any other model, where compare and report find them.
        seed: of resamples and permutations.
        batch: images per step.
        device: such as cpu or cuda:0; "auto" takes the GPU if there is one.
        cache: a folder to keep features in, so that the next call need not encode.
        one_caption: retrieval with the first caption of each image alone.
        owner_only: retrieval counts a caption as true of its own image alone.
        subset: retrieval among that many images.
        grain: score by whole and grain, as 1 or 1:0.1 (weight, and temperature; and a spaCy pipeline): noun phrases against patches beside
            the cosine. "auto" takes the best of some on the split val of --data (docs/evaluation.md).
        branch_inference: of a model with branches, how they become one score: mean (the default), max, concat, selector:2 for one branch alone,
            or selector for the best one on the split val of --data (docs/evaluation.md).
        calibration: beside every task and benchmark of choices (classification, true against false) its expected calibration error.
        shortlist: retrieval with a joint score: score that many candidates of each query, the first by cosine; 0 scores all.
        roles: retrieval with captions in these roles alone.
        read_outs: for grounding, by what a phrase is read out of the patches: pooled, token, token_cosine, h_v, attention, gradient; by default
            pooled, the one that the model was trained for, and token (docs/evaluation.md).
        templates: sentences for zero-shot classification, {} is the class, or names: photo, openai, openai7, plain, a data set of CLIP's paper;
            a benchmark has its own unless some are given.
        probe: a linear probe on the training part of classification benchmarks.
        shots: few-shot probes with so many pictures of each class, as 1 2 4 8 16.
        corrupt: ImageNet-C's corruptions of the classification and retrieval benchmarks: all (15), extra (4 more), or names separated by commas.
        severities: of the corruptions, 1 to 5; all if none is given.
        frost: a folder with photographs of frost; without it frost is drawn.
        average: averages over benchmarks that papers quote: elevater_20, elevater_21, vl_compo_21, degla_11.
    """

    model: Positional[str]
    data: Path | None = None
    split: str = "test"
    suite: str = "all"
    benchmark: tyro.conf.UseAppendAction[Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=FOLDER")]] = ()
    images: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    out: Path | None = None
    seed: int = 0
    batch: int = 64
    device: str = "auto"
    cache: Path | None = None
    one_caption: bool = False
    owner_only: bool = False
    subset: int | None = None
    grain: str = ""
    branch_inference: str = ""
    calibration: bool = False
    shortlist: int = 0
    roles: tuple[str, ...] = ()
    read_outs: Annotated[tuple[str, ...], tyro.conf.arg(metavar="READ_OUT")] = ()
    templates: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TEMPLATE")] = ()
    probe: bool = False
    shots: tuple[int, ...] = ()
    corrupt: str = ""
    severities: tuple[int, ...] = ()
    frost: Path | None = None
    average: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation found.

    Attributes:
        results: a result each task and benchmark.
        left_out: task -> why it was not done.
        overlap: a sentence on pictures that the model was trained on.
        out: the folder of the results, as it was asked for.
        facts: what is kept beside the results.
        args: as they were understood: the grain taken out of the model's name.
    """

    results: Sequence[TaskResult]
    left_out: Mapping[str, str]
    overlap: str
    out: Path
    facts: JsonTable
    args: EvaluateArguments

    def keep(self) -> Path:
        """Writes them into the folder, with the items behind the figures."""
        from wholegrain.evaluation.result_folders import keep_results

        return keep_results(self.results, self.out, self.facts)


def evaluate(args: EvaluateArguments) -> Evaluated | None:
    """Measures; ``None`` in all processes but the main one."""
    from wholegrain.errors import UserError
    from wholegrain.evaluation.benchmarks.run import run_benchmarks
    from wholegrain.evaluation.features.sharing import sharing
    from wholegrain.evaluation.named import split_grain, split_inference
    from wholegrain.evaluation.read_outs.registry import check_names
    from wholegrain.evaluation.result_folders import check_results_folder, results_folder, weights_of
    from wholegrain.evaluation.scores.similarity import logit_scale
    from wholegrain.evaluation.suite import EvaluationOptions
    from wholegrain.evaluation.tasks.calibration import calibrated
    from wholegrain.training.distributed.processes import init_distributed
    from wholegrain.workflows.training_overlap import describe_overlap, training_pictures

    name, grain = split_grain(args.model)
    name, inference = split_inference(name)
    args = replace(args, model=name, grain=args.grain or grain, branch_inference=_inference(args.branch_inference or inference))
    wanted, suite, suite_name, average = _benchmarks(args)
    if args.data is None and not wanted:
        raise UserError("There is nothing to evaluate on; give --data FOLDER, --benchmark NAME=FOLDER or --suite FILE.toml.")
    scored = f"-grain-{args.grain}" if args.grain else f"-branches-{args.branch_inference}" if args.branch_inference else ""
    out = args.out or results_folder(args.model, _results_name(args.data, args.split, suite_name, [one.name for one in wanted]) + scored)
    check_results_folder(out)
    settings = {"retrieval": {name: getattr(args, name) for name in RETRIEVAL}, "zero_shot": {"templates": args.templates}}
    settings |= {"grounding": {"read_outs": check_names(args.read_outs)}}
    left_out: dict[str, str] = {}
    results, found, facts = [], [], {"model": args.model, "split": args.split, "seed": args.seed, "left_out": left_out}
    with init_distributed(args.device) as context, sharing(context.group):
        loaded, scored_as = context.on_all_processes(lambda: _loaded(args, context.device))
        if args.data is not None:
            options = EvaluationOptions(args.seed, args.batch, args.cache, context.is_main_process)
            results, more = _on_data(loaded, args.data, args.split, suite, settings, options, left_out)
            facts |= more
        if wanted:
            common = {"seed": args.seed, "batch": args.batch, "cache": args.cache, "progress": context.is_main_process}
            found = run_benchmarks(loaded, wanted, **common, left_out=left_out)
    if not context.is_main_process:
        return None
    results += found
    if args.calibration:
        results += calibrated(results, logit_scale(loaded), seed=args.seed)
    results += _averages(average, found, left_out)
    overlap, trained_on = describe_overlap(results, training_pictures(args.model))
    facts["model"] = f"{args.model}{scored_as}"
    asked = {result.task for result in found}
    datasets = {result.task: name for result in results if (name := result.task.removesuffix("_calibration")) in asked}
    facts |= {"trained_on": trained_on, "weights": weights_of(loaded), "datasets": datasets}
    return Evaluated(results, left_out, overlap, out, facts, args)


def _benchmarks(args: EvaluateArguments) -> tuple[list[BenchmarkSpec], str, str, tuple[str, ...]]:
    """The benchmarks, the suite for prepared data, the name of a suite's file (or ""), and the averages over benchmarks."""
    from wholegrain.evaluation.benchmarks.averages import check_average
    from wholegrain.evaluation.benchmarks.run import BenchmarkExtras, parse_benchmark, suite_averages, suite_file

    frost = None if args.frost is None else str(args.frost)
    extras = BenchmarkExtras(args.corrupt, args.severities, frost, args.probe, args.shots, args.templates)
    wanted = [parse_benchmark(text, args.images, extras) for text in args.benchmark]
    suite, average = args.suite, args.average
    suite_name = Path(suite).stem if suite.endswith(".toml") else ""
    if suite_name:
        wanted, average, suite = [*wanted, *suite_file(suite)], (*average, *suite_averages(suite)), "all"
    for name in average:
        check_average(name, [one.name for one in wanted])
    return wanted, suite, suite_name, average


def _averages(names: tuple[str, ...], results: Sequence[TaskResult], left_out: dict[str, str]) -> list[TaskResult]:
    """The averages over benchmarks that can be taken; what cannot is added to ``left_out``."""
    from wholegrain.errors import UserError
    from wholegrain.evaluation.benchmarks.averages import averaged

    found = []
    for name in dict.fromkeys(names):
        try:
            found += averaged(name, results)
        except UserError as reason:  # a set could not be done
            left_out[name] = str(reason)
    return found


def _inference(how: str) -> str:
    """A way to use branches, checked before anything is loaded; the mean is what every model does unasked."""
    from wholegrain.evaluation.scores.branch_inference import parse_inference

    return "" if not how or parse_inference(how) == ("mean", None) else how


def _loaded(args: EvaluateArguments, device: torch.device) -> tuple[EvaluatedModel, str]:
    """The model, scored by whole and grain or by its branches if asked for, and what stands behind its name for that."""
    from wholegrain.errors import UserError
    from wholegrain.evaluation.named import load_any
    from wholegrain.evaluation.scores.whole_and_grain import GrainOptions

    model = load_any(args.model, device)
    if args.branch_inference:
        return _by_branches(args, model)
    if not args.grain:
        return model, ""
    if args.grain != "auto":
        given = GrainOptions.parse(args.grain)
        return given.of(model), f",grain={given}"
    if args.data is None or args.split == "val":
        raise UserError("--grain auto looks for the best weight on the split val of --data, and reports on another one; give both, or a weight.")
    from wholegrain.data.dataset import Dataset
    from wholegrain.evaluation.tasks.grain_weight import choose_grain

    found = choose_grain(model, Dataset(args.data), "val", batch=args.batch)
    chosen = GrainOptions(found.weight, found.temperature)
    print(f"grain {chosen}: recall@1 {found.tried[found.weight, found.temperature]:.1%} on val, the mean of both ways; the whole alone "
          f"{found.whole:.1%}")  # fmt: skip
    return chosen.of(model), f",grain={chosen}"


def _by_branches(args: EvaluateArguments, model: EvaluatedModel) -> tuple[EvaluatedModel, str]:
    """The same for a model that is scored by its branches; the best one is looked for on the split val."""
    from wholegrain.errors import UserError
    from wholegrain.evaluation.scores.branch_inference import SELECTOR, BranchInference

    how = args.branch_inference
    if args.grain:
        raise UserError("--grain and --branch-inference are two ways to score; give one of them.")
    if how == SELECTOR:
        if args.data is None or args.split == "val":
            raise UserError("--branch-inference selector looks for the best branch on the split val of --data, and reports on another one; give both, "
                            "or name the branch, as selector:0.")  # fmt: skip
        from wholegrain.data.dataset import Dataset
        from wholegrain.evaluation.tasks.branch_choice import choose_branch

        found = choose_branch(model, Dataset(args.data), "val", batch=args.batch)
        how = found.how
        print(f"branch {found.branch}: recall@1 {found.tried[found.branch]:.1%} on val, the mean of both ways; of all branches "
              f"{', '.join(f'{value:.1%}' for value in found.tried)}")  # fmt: skip
    return BranchInference(model, how), f",branch_inference={how}"


def _results_name(data: Path | None, split: str, suite_file: str, benchmarks: list[str]) -> str:
    """What results are of, as the last part of their folder."""
    names = list(dict.fromkeys(benchmarks))
    on_data = [f"{data.resolve().name}-{split}"] if data is not None else []
    return "+".join([*on_data, *([suite_file] if suite_file else names if len(names) < 4 else [f"{len(names)}-benchmarks"])])


def _on_data(
    model: EvaluatedModel,
    data: Path,
    split: str,
    suite: str,
    settings: Mapping[str, Mapping[str, object]],
    options: EvaluationOptions,
    left_out: dict[str, str],
) -> tuple[list[TaskResult], dict[str, object]]:
    """The tasks of a suite on a prepared data set, and what to keep beside the results."""
    from wholegrain.data.dataset import Dataset
    from wholegrain.evaluation.suite import evaluate as run
    from wholegrain.evaluation.suite import expand

    tasks, dataset = expand(suite), Dataset(data)
    chosen = {task: {name: value for name, value in own.items() if value} for task, own in settings.items() if task in tasks}
    chosen = {task: own for task, own in chosen.items() if own}
    results = run(model, dataset, options, split=split, tasks=tasks, settings=chosen, left_out=left_out)
    return results, {"dataset": str(data), "content_hash": dataset.content_hash, "settings": chosen}
