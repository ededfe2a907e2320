"""All checks, in the order in which a run would meet their faults."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from wholegrain.data.sources import SourceOptions
from wholegrain.data.statistics import clip_tokenizer
from wholegrain.doctor import capacity, captions, fit, learning, pictures
from wholegrain.doctor.finding import Finding
from wholegrain.doctor.sample import DataSample, draw_sample
from wholegrain.doctor.trial import Trial
from wholegrain.errors import UserError
from wholegrain.objectives.recipe import load_recipe
from wholegrain.objectives.schema import Recipe
from wholegrain.progress import Show, nowhere
from wholegrain.towers.io import needs_tokenizer
from wholegrain.towers.model import Model
from wholegrain.training.distributed.processes import choose_device
from wholegrain.training.start import load_inputs

BATCH = 256


@dataclass(frozen=True)
class RunOptions:
    """What the run would be started with.

    Attributes:
        model, overrides, device: as for training.
        workers: processes that would load data.
        out: the folder where runs would be saved.
    """

    model: str = "small"
    overrides: Sequence[str] = ()
    device: str | None = None
    workers: int = 0
    out: Path = Path("runs")


def examine(
    data: str | Path,
    recipe: str = "",
    run: RunOptions = RunOptions(),
    *,
    source: SourceOptions | None = None,
    log: Callable[[str], None] = lambda sentence: None,
    show: Show = nowhere,
) -> Iterator[Finding]:
    """Looks at data, and with a recipe at what it would do with them; findings come as they are made.

    Args:
        data: a prepared data set, or a source as ``wholegrain prepare`` takes it, of which only captions and pictures are looked at.
        recipe: as for training; without one nothing is tried.
        run: what its run would be started with.
        source: options of a raw source.
        log: gets a sentence on how much was read.
        show: is shown what is being done.

    Raises:
        UserError: data, recipe or model cannot be opened.
    """
    chosen = load_recipe(recipe, run.overrides) if recipe else None
    sample = draw_sample(data, "train" if chosen is None else chosen.data.split, source, show)
    if not sample.all:
        raise UserError(f"{data} holds no images; give another source.")
    log(sample.sentence)
    yield from _content(sample, chosen, show)
    if chosen is None:
        show("counting tokens", 0, 0)
        yield from captions.cut_off(sample, clip_tokenizer(), show)
    elif sample.dataset is None:
        said = f"{recipe} was not tried, for {data} is not prepared yet."
        yield Finding("recipe", "look", said, f"wholegrain prepare {data} OUT, then wholegrain doctor OUT {recipe}")
    else:
        show("making the model", 0, 0)
        fitted, dataset, start = load_inputs(recipe, Path(data), run.model, run.overrides)
        yield from captions.cut_off(sample, start.tokenizer, show)
        show("comparing recipe, data and model", 0, 0)
        processes = fit.processes_of(os.environ)
        findings = [
            *fit.terms_and_data(fitted, dataset, start),
            *fit.batches(fitted, dataset, processes, run.workers),
            *fit.negatives(fitted, sample, dataset),
        ]
        yield from findings
        if not any(finding.check == "what the recipe needs" and finding.level == "stop" for finding in findings):
            trial = Trial.of(fitted, dataset, start, choose_device(run.device))
            yield from _tried(trial, processes, run.out, _trained_before(run.model, start), show)


def _content(sample: DataSample, recipe: Recipe | None, show: Show) -> Iterator[Finding]:
    """Captions and pictures."""
    show("looking at captions", 0, 0)
    yield from captions.wrong_field(sample)
    batch = BATCH if recipe is None else recipe.optimiser.batch
    as_negatives = recipe is not None and any(term.settings.get("duplicates") == "negative" for term in recipe.terms)
    yield from captions.copies(sample, batch, as_negatives)
    decoded = pictures.decode(sample, show)
    yield from pictures.dead(decoded)
    show("looking for copies", 0, 0)
    yield from pictures.doubles(sample, decoded)
    yield from pictures.shared_captions(sample)


def _tried(trial: Trial, processes: int, out: Path, trained_before: bool, show: Show) -> Iterator[Finding]:
    """Real steps."""
    show("taking the first step", 0, 0)
    try:
        batch, steps = learning.affordable(trial)
    except UserError as problem:
        yield Finding("one batch by heart", "stop", str(problem), "check the caption field")
        return
    first = list(learning.start(trial, batch, trained_before))
    yield from first
    if not any(finding.level == "stop" for finding in first):
        if steps < learning.FEWEST:
            said = f"No steps were tried: on {trial.device} one takes more than {learning.SECONDS / learning.FEWEST:.0f} s."
            yield Finding("one batch by heart", "look", said, "run this where you will train")
        else:
            rates = learning.rising(trial, batch, steps, show)
            yield from learning.learning_rate(trial, batch, rates)
            yield from learning.by_heart(trial, batch, steps, rates, show)
    show("counting memory", 0, 0)
    yield from capacity.memory(trial, processes)
    yield from capacity.disk(trial, out)


def _trained_before(spec: str, model: Model) -> bool:
    """Whether the whole model was trained before: neither from scratch, nor random weights, nor fresh heads on frozen towers."""
    named = ":" in spec or "/" in spec or spec == "base"
    fresh = needs_tokenizer(spec) or spec.endswith(".toml") or model.head.kind != "plain"
    return named and not fresh
