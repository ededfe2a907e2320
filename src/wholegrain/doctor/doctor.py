"""All checks, in the order in which a run would meet their faults."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from wholegrain.data.sources import SourceOptions
from wholegrain.data.statistics import clip_tokenizer
from wholegrain.doctor import captions, fit, learning, pictures, room
from wholegrain.doctor.finding import Finding
from wholegrain.doctor.looked import Looked, look
from wholegrain.doctor.trial import Trial
from wholegrain.errors import UserError
from wholegrain.objectives.recipe import load_recipe
from wholegrain.objectives.schema import Recipe
from wholegrain.progress import Show, nowhere
from wholegrain.towers.io import needs_tokenizer
from wholegrain.towers.model import Model
from wholegrain.training.distributed.processes import choose_device
from wholegrain.training.start import load_inputs

Say = Callable[[str], None]
BATCH = 256


def examine(
    data: str | Path,
    recipe: str = "",
    *,
    model: str = "small",
    overrides: Sequence[str] = (),
    device: str | None = None,
    workers: int = 0,
    out: Path = Path("runs"),
    options: SourceOptions | None = None,
    say: Say = lambda sentence: None,
    show: Show = nowhere,
) -> Iterator[Finding]:
    """Looks at data, and with a recipe at what it would do with them; findings come as they are made.

    Args:
        data: a prepared data set, or a source as ``wholegrain prepare`` takes it, of which only captions and pictures are looked at.
        recipe, model, overrides: as for training; without a recipe nothing is tried.
        device: as for training.
        workers: that training would use.
        out: where its run would be saved.
        options: of a raw source.
        say: is told what was looked at.
        show: is shown what is being done.

    Raises:
        UserError: data, recipe or model cannot be opened.
    """
    chosen = load_recipe(recipe, overrides) if recipe else None
    looked = look(data, "train" if chosen is None else chosen.data.split, options, show)
    if not looked.all:
        raise UserError(f"{data} holds no images; give another source.")
    say(looked.sentence)
    yield from _content(looked, chosen, show)
    if chosen is None:
        show("counting tokens", 0, 0)
        yield from captions.cut_off(looked, clip_tokenizer(), show)
    elif looked.dataset is None:
        said = f"{recipe} was not tried, for {data} is not prepared yet."
        yield Finding("recipe", "look", said, f"wholegrain prepare {data} OUT, then wholegrain doctor OUT {recipe}")
    else:
        show("making the model", 0, 0)
        fitted, dataset, start = load_inputs(recipe, Path(data), model, overrides)
        yield from captions.cut_off(looked, start.tokenizer, show)
        show("comparing recipe, data and model", 0, 0)
        processes = fit.processes_of(os.environ)
        findings = [
            *fit.terms_and_data(fitted, dataset, start),
            *fit.batches(fitted, dataset, processes, workers),
            *fit.negatives(fitted, looked, dataset),
        ]
        yield from findings
        if not any(finding.check == "what the recipe needs" and finding.level == "stop" for finding in findings):
            trial = Trial.of(fitted, dataset, start, choose_device(device))
            yield from _tried(trial, processes, out, _trained_before(model, start), show)


def _content(looked: Looked, recipe: Recipe | None, show: Show) -> Iterator[Finding]:
    """Captions and pictures."""
    show("looking at captions", 0, 0)
    yield from captions.wrong_field(looked)
    batch = BATCH if recipe is None else recipe.optimiser.batch
    as_negatives = recipe is not None and any(term.settings.get("duplicates") == "negative" for term in recipe.terms)
    yield from captions.copies(looked, batch, as_negatives)
    seen = pictures.see(looked, show)
    yield from pictures.dead(seen)
    show("looking for copies", 0, 0)
    yield from pictures.doubles(looked, seen)
    yield from pictures.shared_captions(looked)


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
    yield from room.memory(trial, processes)
    yield from room.disk(trial, out)


def _trained_before(spec: str, model: Model) -> bool:
    """Whether the whole model was trained before: neither from scratch, nor random weights, nor fresh heads on frozen towers."""
    named = ":" in spec or "/" in spec or spec == "base"
    fresh = needs_tokenizer(spec) or spec.endswith(".toml") or model.head.kind != "plain"
    return named and not fresh
