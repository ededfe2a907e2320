"""Benchmarks by name, or as a function in the user's own file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from inspect import signature
from pathlib import Path
from typing import NotRequired, TypeAlias, TypedDict

from rich.console import Console

from wholegrain.errors import UserError
from wholegrain.evaluation.benchmarks import captions as c
from wholegrain.evaluation.benchmarks.aro import aro
from wholegrain.evaluation.benchmarks.bivlc import bivlc
from wholegrain.evaluation.benchmarks.bla import bla
from wholegrain.evaluation.benchmarks.caption_retrieval import score_captions
from wholegrain.evaluation.benchmarks.class_images import class_set
from wholegrain.evaluation.benchmarks.class_ranking import score_ranking
from wholegrain.evaluation.benchmarks.class_table import CLASS_TASKS
from wholegrain.evaluation.benchmarks.classification import score_classes, score_probes
from wholegrain.evaluation.benchmarks.coco_counterfactuals import coco_counterfactuals, coco_counterfactuals_retrieval
from wholegrain.evaluation.benchmarks.cola_single_object import cola_single_object
from wholegrain.evaluation.benchmarks.colorfoil import colorfoil
from wholegrain.evaluation.benchmarks.corrupted import Corruptions, check_severities, corrupted_captions, corrupted_classes
from wholegrain.evaluation.benchmarks.corruptions import corruption_names
from wholegrain.evaluation.benchmarks.crepe import crepe
from wholegrain.evaluation.benchmarks.fg_ovd import fg_ovd
from wholegrain.evaluation.benchmarks.files import of_its_form
from wholegrain.evaluation.benchmarks.half_truths import half_truths
from wholegrain.evaluation.benchmarks.items import Benchmark, CaptionSet, ClassRanking, Item, LabelledSet, Statements
from wholegrain.evaluation.benchmarks.mmvp_vlm import mmvp_vlm
from wholegrain.evaluation.benchmarks.negbench import negbench, negbench_retrieval
from wholegrain.evaluation.benchmarks.pairs import pairs
from wholegrain.evaluation.benchmarks.quads import cola, colorswap, eqben, winoground
from wholegrain.evaluation.benchmarks.scoring import score
from wholegrain.evaluation.benchmarks.spec import spec
from wholegrain.evaluation.benchmarks.statements import score_statements
from wholegrain.evaluation.benchmarks.sugarcrepe import sugarcrepe, sugarcrepe_plus
from wholegrain.evaluation.benchmarks.svo_probes import svo_probes
from wholegrain.evaluation.benchmarks.valse import valse
from wholegrain.evaluation.benchmarks.vismin import vismin
from wholegrain.evaluation.benchmarks.vl_checklist import vl_checklist
from wholegrain.evaluation.benchmarks.vsr import vsr
from wholegrain.evaluation.benchmarks.whatsup import whatsup
from wholegrain.evaluation.contract import EvaluatedModel
from wholegrain.evaluation.features.feature_store import FeatureStore
from wholegrain.evaluation.named import is_function, load_function
from wholegrain.evaluation.result import NotSupportedError, TaskResult
from wholegrain.files import read_toml
from wholegrain.structure import StructureError, structure
from wholegrain.suggest import closest

READERS: dict[str, Callable[..., Found | list[CaptionSet] | list[ClassRanking]]] = {
    "sugarcrepe": sugarcrepe, "sugarcrepe_plus": sugarcrepe_plus, "aro": aro, "valse": valse, "vl_checklist": vl_checklist,
    "winoground": winoground, "colorswap": colorswap, "eqben": eqben, "cola": cola, "crepe": crepe, "whatsup": whatsup,
    "svo_probes": svo_probes, "negbench": negbench, "negbench_retrieval": negbench_retrieval, "vsr": vsr, "pairs": pairs,
    "bivlc": bivlc, "vismin": vismin, "mmvp_vlm": mmvp_vlm, "coco_counterfactuals": coco_counterfactuals,
    "coco_counterfactuals_retrieval": coco_counterfactuals_retrieval, "spec": spec, "bla": bla, "colorfoil": colorfoil, "fg_ovd": fg_ovd,
    "cola_single_object": cola_single_object, "half_truths": half_truths,
    "coco_karpathy": c.karpathy("coco"), "coco_val2017": c.coco_val2017, "flickr30k": c.karpathy("flickr30k"),
    "flickr8k": c.karpathy("flickr8k"), "urban1k": c.urban1k, "sharegpt4v_1k": c.sharegpt4v(1000),
    "sharegpt4v_10k": c.sharegpt4v(10_000), "docci": c.docci, "captions": c.captions,
    "classes": class_set("classes"), **{name: class_set(name) for name in CLASS_TASKS},
}  # fmt: skip
"""name -> reader of a folder (or table)."""
Found: TypeAlias = Benchmark | CaptionSet | ClassRanking | LabelledSet | Statements | TaskResult
"""What a reader or a function of the user's own gives."""


@dataclass(frozen=True)
class BenchmarkExtras:
    """What is scored on a set beside its own protocol.

    Attributes:
        corrupt: corruptions (:func:`~wholegrain.evaluation.benchmarks.corruptions.corruption_names`) of classification and retrieval sets; empty is none.
        severities: of them; empty is all five.
        frost: a folder with photographs of frost.
        probe: a linear probe on the training part of classification sets.
        shots: few-shot probes with so many pictures of each class.
        templates: sentences of classification sets in place of their own, or names of sentences.
    """

    corrupt: str = ""
    severities: tuple[int, ...] = ()
    frost: str | None = None
    probe: bool = False
    shots: tuple[int, ...] = ()
    templates: tuple[str, ...] = ()


@dataclass(frozen=True)
class BenchmarkSpec:
    """A benchmark to score.

    Attributes:
        name: one of :data:`READERS`, or ``file.py:function`` / ``module:function``.
        folder: where its files are; a function may do without.
        images: further folders to look for pictures in.
        settings: further arguments of the reader or function.
        extras: see :class:`BenchmarkExtras`.
    """

    name: str
    folder: Path | None = None
    images: tuple[Path, ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    extras: BenchmarkExtras = BenchmarkExtras()


def parse_benchmark(text: str, images: Sequence[Path] = (), extras: BenchmarkExtras = BenchmarkExtras()) -> BenchmarkSpec:
    """``NAME=FOLDER``, or a function with or without ``=FOLDER``.

    Raises:
        UserError: for an unknown name, or a name without a folder.

    Example:
        >>> parse_benchmark("winoground=data/winoground").name
        'winoground'
    """
    name, _, folder = text.partition("=")
    made = BenchmarkSpec(name.strip(), Path(folder.strip()) if folder.strip() else None, tuple(images), extras=extras)
    _check(made)
    return made


def _check(one: BenchmarkSpec) -> None:
    if is_function(one.name):
        return
    if one.name not in READERS:
        raise UserError(f"There is no benchmark {one.name!r}; {closest(one.name, READERS)} One of your own is named file.py:function.")
    if one.extras.corrupt:
        corruption_names(one.extras.corrupt)
    if one.folder is None:
        raise UserError(f"The benchmark {one.name} needs a folder: --benchmark {one.name}=FOLDER.")


def suite_averages(path: Path | str) -> tuple[str, ...]:
    """The averages that a suite's file asks for: ``average = [names]`` at its top."""
    return tuple(_document(Path(path)).get("average", ()))


def _document(path: Path) -> _Suite:
    advice = "give a TOML file with [[benchmark]] tables"
    try:
        return structure(read_toml(path, advice), _Suite)
    except StructureError as error:
        raise UserError(f"{path} {error}; {advice}.") from None


def suite_file(path: Path | str) -> list[BenchmarkSpec]:
    """The benchmarks of a TOML file: tables ``[[benchmark]]`` with ``name``, ``folder``, ``images``, the fields of
    :class:`BenchmarkExtras` and any arguments of the reader.

    Folders are relative to the file.

    Raises:
        UserError: when the file is not there or not of this form.
    """
    path = Path(path)
    found = [_row(path, dict(row)) for row in _document(path).get("benchmark", ())]
    if not found:
        raise UserError(f"{path} has no [[benchmark]] table; write one with name and folder.")
    return found


class _Suite(TypedDict):
    """A suite's file."""

    average: NotRequired[list[str]]
    benchmark: NotRequired[list[dict[str, object]]]


@dataclass(frozen=True)
class _Named:
    """What every ``[[benchmark]]`` table says."""

    name: str
    folder: str | None = None
    images: str | tuple[str, ...] = ()


def _row(path: Path, row: dict[str, object]) -> BenchmarkSpec:
    try:
        table = structure({key: row.pop(key) for key in list(row) if key in _Named.__dataclass_fields__}, _Named)
        more = structure({key: row.pop(key) for key in list(row) if key in BenchmarkExtras.__dataclass_fields__}, BenchmarkExtras)
    except StructureError as error:
        raise UserError(f"{path}: a [[benchmark]] table {error}; correct it.") from None
    name, images = table.name, (table.images,) if isinstance(table.images, str) else table.images
    if is_function(name) and (path.parent / name.partition(":")[0]).is_file():
        name = f"{path.parent / name.partition(':')[0]}:{name.partition(':')[2]}"
    if more.frost:
        more = replace(more, frost=str(path.parent / more.frost))
    where = None if table.folder is None else path.parent / table.folder
    made = BenchmarkSpec(name, where, tuple(path.parent / image for image in images), row, more)
    _check(made)
    return made


def run_benchmarks(
    model: EvaluatedModel,
    wanted: Sequence[BenchmarkSpec],
    *,
    batch: int = 64,
    cache: str | Path | None = None,
    seed: int = 0,
    progress: bool = True,
    left_out: dict[str, str] | None = None,
) -> list[TaskResult]:
    """Reads and scores benchmarks; features are made once for all of them.

    Args:
        cache: a folder for features, kept from run to run.
        left_out: is filled with benchmark -> reason for those that this model or machine cannot do, for the caller to tell.

    Raises:
        UserError: when a folder lacks what a benchmark needs, or no benchmark could be done.
    """
    store, results = FeatureStore(model, cache, batch=batch), []
    reasons: dict[str, str] = {} if left_out is None else left_out
    console = Console(stderr=True)
    for one in wanted:
        try:
            for found in _read(one, model):
                if progress:
                    console.print(f"{getattr(found, 'name', getattr(found, 'task', ''))} …", style="dim", highlight=False)
                results += [_named(result, results) for result in _scored(found, model, store, seed)]
                for result in _extra_results(found, model, store, seed, one.extras, reasons):
                    results.append(_named(result, results))
        except NotSupportedError as reason:
            reasons[one.name] = str(reason)
            if progress and left_out is None:
                console.print(f"left out: {one.name}. {reason}", highlight=False, markup=False, soft_wrap=True)
    if wanted and not results:
        raise UserError("No benchmark could be done: " + " ".join(f"{name}: {why}" for name, why in reasons.items()))
    return results


def _read(one: BenchmarkSpec, model: EvaluatedModel) -> list[Found]:
    """What a reader or function gives, as a list of benchmarks and results."""
    if not is_function(one.name):
        settings = dict(one.settings)
        if one.extras.templates and (one.name in CLASS_TASKS or one.name == "classes"):
            settings["templates"] = one.extras.templates
        known = set(signature(READERS[one.name]).parameters)
        unknown = sorted(settings.keys() - known)
        if unknown:
            raise UserError(f"The benchmark {one.name} has no setting {unknown[0]!r}; leave it out.")
        with of_its_form(one.name, one.folder):
            found = READERS[one.name](one.folder, one.images, **settings)
        _check_texts(found if isinstance(found, list) else [found], one)
        return list(found) if isinstance(found, list) else [found]
    function = load_function(one.name)
    arguments = {**one.settings, **({"folder": one.folder} if one.folder is not None else {})}
    found = function(model, **arguments)
    several = list(found) if isinstance(found, list | tuple) else [found]
    if several and all(isinstance(item, Item) for item in several):
        title = one.name.rpartition(":")[2]
        return [Benchmark(title, tuple(several), f"items of {Path(one.name.rpartition(':')[0]).name}")]
    wrong = next(
        (item for item in several if not isinstance(item, Found)), None
    )
    if wrong is not None or not several:
        raise UserError(
            f"{one.name} gave {type(wrong).__name__ if several else 'nothing'}; it must return a TaskResult, a Benchmark, a CaptionSet, a"
            " LabelledSet, a ClassRanking, Statements or a list of Items."
        )
    return several


def _check_texts(found: Sequence[Found], one: BenchmarkSpec) -> None:
    for made in found:
        texts: list[tuple[str, Sequence[object]]] = []
        if isinstance(made, Benchmark):
            texts = [(f"item {item.id}", (*item.true, *item.false)) for item in made.items]
        elif isinstance(made, CaptionSet):
            texts = [(f"picture {picture.path.name}", own) for picture, own in zip(made.pictures, made.captions, strict=True)]
        wrong = next((what for what, own in texts if not all(isinstance(text, str) for text in own)), None)
        if wrong is not None:
            raise UserError(f"The {wrong} of {one.name} in {one.folder} has a caption that is no text; get its files again.")


def _scored(found: Found, model: EvaluatedModel, store: FeatureStore, seed: int) -> list[TaskResult]:
    if isinstance(found, TaskResult):
        return [found]
    if isinstance(found, CaptionSet):
        return score_captions(found, model, store, seed=seed)
    if isinstance(found, LabelledSet):
        return [score_classes(found, model, store, seed=seed)]
    if isinstance(found, ClassRanking):
        return [score_ranking(found, model, store, seed=seed)]
    if isinstance(found, Statements):
        return [score_statements(found, model, store, seed=seed)]
    return [score(found, model, store, seed=seed)]


def _extra_results(
    found: Found, model: EvaluatedModel, store: FeatureStore, seed: int, extras: BenchmarkExtras, reasons: dict[str, str]
) -> Iterator[TaskResult]:
    """What was asked for beside a set's own protocol; what it cannot give is left out with the reason."""
    if isinstance(found, TaskResult):
        return
    steps: dict[str, Callable[[], list[TaskResult]]] = {}
    if isinstance(found, LabelledSet) and (extras.probe or extras.shots):
        steps["probe"] = lambda: score_probes(found, store, linear=extras.probe, shots=extras.shots, seed=seed)
    if isinstance(found, CaptionSet | LabelledSet) and extras.corrupt:
        frost = Path(extras.frost) if extras.frost else None
        how = Corruptions(corruption_names(extras.corrupt), check_severities(extras.severities), frost, seed)
        if isinstance(found, CaptionSet):
            steps["corrupt"] = lambda: [corrupted_captions(found, model, store, how, seed=seed)]
        else:
            steps["corrupt"] = lambda: [corrupted_classes(found, model, store, how, seed=seed)]
    for name, step in steps.items():
        try:
            yield from step()
        except NotSupportedError as reason:
            reasons[f"{found.name} ({name})"] = str(reason)


def _named(result: TaskResult, others: Sequence[TaskResult]) -> TaskResult:
    """A name of its own for each result, as items are kept in a file of that name."""
    taken, number = {other.task for other in others}, 2
    name = result.task
    while name in taken:
        name, number = f"{result.task}-{number}", number + 1
    return result if name == result.task else replace(result, task=name)
