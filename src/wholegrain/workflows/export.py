"""A model for others: approximated and measured where it must be, written, checked, described, and pushed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from wholegrain.data.dataset import Dataset
from wholegrain.errors import MachineError, UserError
from wholegrain.evaluation.contract import EvaluatedModel
from wholegrain.evaluation.result import load_results
from wholegrain.evaluation.scores.whole_and_grain import GrainOptions
from wholegrain.evaluation.suite import EvaluationOptions, evaluate
from wholegrain.report.entry import History, read_history
from wholegrain.suggest import closest
from wholegrain.towers.convert import convert_head
from wholegrain.towers.export.approximation import approximated, special_part
from wholegrain.towers.export.card import Facts, Score, card
from wholegrain.towers.export.comparison import Sample
from wholegrain.towers.export.export import export_model
from wholegrain.towers.export.int8 import INT8, OnnxModel, check_int8, write_int8
from wholegrain.towers.export.peft import base_class
from wholegrain.towers.heads.registry import HeadConfig
from wholegrain.towers.io import load_model
from wholegrain.towers.model import Model
from wholegrain.towers.positions import split_options
from wholegrain.workflows.run_adapters import adapters_of, check_adapted

if TYPE_CHECKING:
    from huggingface_hub import HfApi

RECALLS = ("image_retrieval_recall@1", "text_retrieval_recall@1")
ORDINARY = ("open_clip", "transformers", "optimum", "peft")
"""Formats of ordinary CLIPs."""
CANDIDATE_PICTURES = 64
"""Pictures by which candidates of an approximation are compared."""
TRAINING_FACTS = ("recipe", "data", "data_hash", "model", "seed", "command", "versions")


@dataclass(frozen=True)
class ExportOptions:
    """What is exported where.

    Attributes:
        model: as ``load_model`` takes it.
        out: the folder; ``None`` only with ``push``.
        to: the format.
        grain: weight, or weight and temperature, of a head ``grain`` that the model gets; empty keeps its head.
        approximate: an ordinary CLIP will do where the format holds no more.
        int8: of ONNX: int8 graphs beside the others.
        data, split: what an approximation and int8 graphs are measured on.
        results: a folder of ``wholegrain evaluate --out``, for the card; by default what lies in the run.
        push, private: ``org/name`` on the Hub.
    """

    model: str
    out: Path | None
    to: str
    grain: str = ""
    approximate: bool = False
    int8: bool = False
    data: Path | None = None
    split: str = "test"
    results: Path | None = None
    push: str = ""
    private: bool = False


@dataclass(frozen=True)
class ExportResult:
    """What came of it.

    Attributes:
        folder: where the model lies, ``None`` if it was only pushed.
        url: where it was pushed to.
        differences: see :func:`wholegrain.towers.export.export.export_model`.
        approximation: what was exported in the model's place, empty if the model itself.
        agreement: mean cosine of image vectors, of the exported model with the exact one.
        recalls: figure -> (exact, exported), if data were given.
        int8: of int8 graphs: mean cosine of image and of text vectors with the exact ones; ``None`` without them.
        adapters: of peft: where they were found, empty for other formats.
    """

    folder: Path | None
    url: str
    differences: dict[str, float]
    approximation: str = ""
    agreement: float = 1.0
    recalls: dict[str, tuple[float, float]] = field(default_factory=dict)
    int8: tuple[float, float] | None = None
    adapters: str = ""


def export(options: ExportOptions) -> ExportResult:
    """Exports a model, with its card.

    Raises:
        UserError: a part that the format has no place for, no place to put the model, no such data.
    """
    if options.out is None and not options.push:
        raise UserError("name a folder for the exported model, or --push org/name.")
    if options.push and options.push.count("/") != 1:
        raise UserError(f"--push is {options.push!r}; it must be org/name.")
    run = check_adapted(run_of(options.model), options.model) if options.to == "peft" else None
    model, result = load_model(options.model), ExportResult(options.out, "", {})
    adapters = None
    if run is not None:
        adapters, found = adapters_of(run, model)
        result = replace(result, adapters=found)
    if options.grain:
        model = _with_grain(model, GrainOptions.parse(options.grain))
    if options.int8:
        check_int8(model, options.to)
    dataset = _data(options)
    if options.approximate and options.to in ORDINARY and special_part(model) is not None:
        model, result = _approximate(model, options, dataset, result)
    with _target(options.out) as folder:
        facts = _facts(options, result)

        def finish(part: Path, found: dict[str, float]) -> None:
            nonlocal result
            if options.int8:
                result = _with_int8(model, part, options, dataset, result)
            whole = replace(facts, differences=found, notes=_loss_notes(options, result))
            if options.to == "peft":
                whole = replace(whole, base_class=base_class(part))
            (part / "README.md").write_text(card(whole), encoding="utf-8")

        differences = export_model(model, folder, options.to, hub_name=options.push, adapters=adapters, finish=finish)
        url = push(folder, options.push, options.private) if options.push else ""
    return replace(result, url=url, differences=differences)


def _with_grain(model: Model, grain: GrainOptions) -> Model:
    """The model with a head that scores by whole and grain; its vectors stay."""
    if model.head.kind not in ("plain", "grain"):
        raise UserError(f"--grain is for models with a plain head, and this one has the head {model.head.kind!r}; leave it out.")
    if grain.pipeline:
        raise UserError(f"--grain names {grain.pipeline}, and an exported model finds phrases by the built-in tagger; leave that out.")
    return convert_head(model, HeadConfig("grain", weight=grain.weight, temperature=grain.temperature))


@contextmanager
def _target(out: Path | None) -> Iterator[Path]:
    if out is not None:
        yield out
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "model"


def _data(options: ExportOptions) -> Dataset | None:
    """What is measured on, looked at before anything is written."""
    dataset = None if options.data is None else Dataset(options.data)
    if dataset is not None and options.split not in dataset.splits:
        raise UserError(f"{options.data} has no split {options.split!r}; {closest(options.split, dataset.splits)}")
    return dataset


def _approximate(model: Model, options: ExportOptions, dataset: Dataset | None, result: ExportResult) -> tuple[Model, ExportResult]:
    """The nearest ordinary CLIP, with what it loses: in retrieval on data, or else in image vectors of noise."""
    if dataset is not None:
        keys = list(dataset.keys(options.split))[:CANDIDATE_PICTURES]
        pixels = torch.stack([torch.from_numpy(model.preprocess.image(dataset.pixels(key))) for key in keys])
    else:
        pixels = Sample.of(model, 16).pixels_BCHW
    nearest = approximated(model, pixels)
    recalls = _both_recalls(model, nearest.model, dataset, options.split)
    return nearest.model, replace(result, approximation=nearest.description, agreement=nearest.agreement, recalls=recalls)


def _with_int8(model: Model, folder: Path, options: ExportOptions, dataset: Dataset | None, result: ExportResult) -> ExportResult:
    """int8 graphs in the folder, with what they lose."""
    cosines = write_int8(model, folder)
    recalls = _both_recalls(model, OnnxModel(folder, INT8), dataset, options.split)
    return replace(result, int8=cosines, recalls=recalls)


def _both_recalls(exact: Model, exported: EvaluatedModel, dataset: Dataset | None, split: str) -> dict[str, tuple[float, float]]:
    """figure -> (exact, exported); empty without data."""
    if dataset is None:
        return {}
    one, other = (_recalls(model, dataset, split) for model in (exact, exported))
    return {name: (one[name], other[name]) for name in RECALLS}


def _recalls(model: EvaluatedModel, dataset: Dataset, split: str) -> dict[str, float]:
    result = evaluate(model, dataset, EvaluationOptions(progress=False), split=split, tasks=["retrieval"])[0]
    return {name: result.figure(name).value for name in RECALLS}


def _facts(options: ExportOptions, result: ExportResult) -> Facts:
    """What the card says, from the run that made the model, if one did."""
    run = run_of(options.model)
    history = read_history(run)
    training = training_of(history) if run is not None else {"model": options.model}
    start = str(history.facts.get("model", ""))
    scores = [] if result.approximation else _scores(options.results, run)
    if result.recalls:
        data = Path(options.data or "").name
        scores = [Score("retrieval", name, data, options.split, ours) for name, (_, ours) in result.recalls.items()]
    place = options.push or str(options.out)
    return Facts(
        name=(options.push or Path(place).name).rpartition("/")[2],
        to=options.to,
        place=place,
        on_hub=bool(options.push),
        training=training,
        paper=str(history.recipe.get("paper", "")),
        base=start.removeprefix("hf-hub:").partition(",")[0] if start.startswith("hf-hub:") else "",
        scores=scores,
    )


def training_of(history: History) -> dict[str, object]:
    """What made a model, row by row: recipe, data, start, seed, command, versions, the optimiser's main values."""
    found = {key: history.facts[key] for key in TRAINING_FACTS if key in history.facts}
    if "data" in found:
        found["data"] = Path(str(found["data"])).name
    optimiser = history.recipe.get("optimiser", {})
    length = "steps" if optimiser.get("steps") else "epochs"
    found |= {key: optimiser[key] for key in ("batch", "lr", length) if optimiser.get(key)}
    if history.steps:
        found["steps taken"] = history.step_count
    return found


def _loss_notes(options: ExportOptions, result: ExportResult) -> list[str]:
    if result.int8 is not None:
        image, text = result.int8
        first = f"**int8.** `image{INT8}.onnx` and `text{INT8}.onnx` are the same graphs with int8 weights. Mean cosine of their vectors with the exact ones: "
        lost = [f" {name}: exact model {exact:.1%}, int8 {ours:.1%}." for name, (exact, ours) in result.recalls.items()]
        together = " A vector depends a little on what else is in the call, for values are rounded by the range of each call."
        return ["".join([first, f"{image:.4f} of pictures of noise, {text:.4f} of sentences.", *lost, together])]
    origin = [f"**Adapters.** {result.adapters[0].upper()}{result.adapters[1:]}."] if result.adapters else []
    if not result.approximation:
        return origin
    parts = [f"**An approximation.** {options.to} has no place for all of the model; this is {result.approximation}. "]
    where = f"on pictures of {Path(options.data).name}" if options.data else "on pictures of noise"
    parts.append(f"Mean cosine of its image vectors with the model's own {where}: {result.agreement:.4f}.")
    for name, (exact, ours) in result.recalls.items():
        parts.append(f" {name}: exact model {exact:.1%}, this one {ours:.1%}.")
    return ["".join(parts), *origin]


def _scores(results: Path | None, run: Path | None) -> list[Score]:
    """Figures without groups of a results folder, else the last evaluation of the run."""
    for folder in (results, *([run, run / "results", run / "evaluation"] if run is not None else [])):
        if folder is not None and (folder / "results.json").is_file():
            found, meta = load_results(folder)
            data, split = Path(str(meta.get("dataset", ""))).name, str(meta.get("split", ""))
            return [
                Score(result.task, figure.name, data, split, figure.value)
                for result in found
                for figure in result.figures
                if "/" not in figure.name and figure.value == figure.value
            ]
    if results is not None:
        raise UserError(f'{results} holds no results.json; give the folder of "wholegrain evaluate --out".')
    history = read_history(run)
    if run is None or not history.evaluations:
        return []
    data = Path(str(history.facts.get("data", ""))).name
    _, numbers = history.evaluations[-1]
    return [Score("validation", name, data, "val", float(value)) for name, value in numbers.items()]


def run_of(spec: str) -> Path | None:
    """The folder of the run that a model comes from, if it comes from one."""
    name = split_options(spec)[0]
    for path in (Path(name), Path(name.rpartition(":")[0] or name), Path(name).parent):
        if (path / "run.json").is_file() and path != Path("."):
            return path
    return None


def push(folder: Path, repository: str, private: bool, api: Callable[[], HfApi] | None = None) -> str:
    """Puts a folder on the Hugging Face Hub and returns its address.

    Raises:
        UserError: the Hub refuses.
    """
    import huggingface_hub

    hub = (api or huggingface_hub.HfApi)()
    try:
        url = hub.create_repo(repository, private=private, exist_ok=True)
        hub.upload_folder(repo_id=repository, folder_path=str(folder), commit_message="Model from Wholegrain")
    except (OSError, ValueError) as error:  # the Hub's own errors are OSErrors
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise MachineError(
            f"{repository} could not be pushed ({first}); log in with `hf auth login` and check the name"
        ) from error
    return str(url)
