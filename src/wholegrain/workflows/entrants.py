"""The rules of a competition, and who can take part: all that can be known is looked at before anything is trained."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wholegrain.data.dataset import Dataset
from wholegrain.errors import UserError
from wholegrain.evaluation.features.encode import split_keys
from wholegrain.evaluation.suite import expand
from wholegrain.objectives.recipe import load_recipe
from wholegrain.training.distributed.processes import DistributedContext, choose_device
from wholegrain.training.run import make_run
from wholegrain.training.start import starting_model
from wholegrain.workflows.validation import validation

RUN_FOLDERS = ("model", "last", "start", "stable", "checkpoints", "tensorboard")
"""Folders of a run, beside which its results lie in one named like the split."""
TASKS = ("retrieval", "composition", "hard_positives", "grounding")


@dataclass(frozen=True)
class Rules:
    """What is the same for all.

    Attributes:
        model: where all start, as in ``wholegrain train --model``.
        seeds: of training; figures are means over them.
        rates: peak learning rates that every method tries with the first seed; the best by retrieval on ``val`` is kept. Empty: the
            recipe's own.
        seconds: training time of each run, in place of a number of steps; 0 is equal steps.
        overrides: dotted, for all recipes alike.
        split, tasks: of the evaluation; see ``evaluation.suite.evaluate``. No tasks: :data:`TASKS`, and ``negatives`` where the data
            have a sidecar of them.
        roles: retrieval with captions in these roles alone; empty is all.
        shortlist: retrieval by models that score pairs jointly re-ranks that many candidates of each query; 0 is all.
        cache: a folder for what frozen towers make of pictures and texts; ``None`` is ``features/`` in the competition's.
    """

    model: str = "small"
    seeds: tuple[int, ...] = (0,)
    rates: tuple[float, ...] = ()
    seconds: float = 0.0
    overrides: tuple[str, ...] = ()
    split: str = "test"
    tasks: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    shortlist: int = 0
    cache: Path | None = None


def entrants(recipes: Sequence[str], dataset: Dataset, rules: Rules) -> tuple[dict[str, str], dict[str, str]]:
    """Looks at every recipe with the data and the model.

    Returns:
        Name -> recipe of those that can take part, and name -> why of those whose losses these data or this model cannot serve.

    Raises:
        UserError: a mistake in what was asked for: an unknown recipe, key, task, split or role, no split to choose rates by, a name,
            seed or rate that comes twice; or the first recipe cannot take part.
    """
    names = [Path(recipe).stem for recipe in recipes]
    _refuse_repeats("the recipes have one name", "name each once", names)
    _check_rules(dataset, rules)
    for recipe in recipes:
        for rate in rules.rates or (None,):
            chosen = load_recipe(recipe, [*rules.overrides, *(() if rate is None else (f"--optimiser.lr={rate}",))])
        if rules.rates and validation(dataset, chosen) is None:
            raise UserError(
                f"{dataset.folder} has no split val apart from the training pictures to choose a learning rate by; leave --rates out, "
                "or prepare one."
            )
    start = starting_model(rules.model, dataset, load_recipe(recipes[0], rules.overrides).data.split)
    context, able, left_out = DistributedContext(choose_device()), {}, {}
    for name, recipe in zip(names, recipes, strict=True):
        try:
            own = copy.deepcopy(start, {id(start.tokenizer): start.tokenizer})
            make_run(load_recipe(recipe, rules.overrides), dataset, own, context)
            able[name] = recipe
        except UserError as problem:
            if name == names[0]:
                raise
            left_out[name] = str(problem)
    return able, left_out


def _check_rules(dataset: Dataset, rules: Rules) -> None:
    _refuse_repeats("the seeds are", "name each once", [str(seed) for seed in rules.seeds])
    _refuse_repeats("the rates are", "name each once", [str(rate) for rate in rules.rates])
    if not rules.seeds:
        raise UserError("A competition needs a seed, such as --seeds 0.")
    if not 0 <= rules.seconds < math.inf:
        raise UserError(f"--seconds is {rules.seconds}; give the training time of a run in seconds, or leave it out for equal steps.")
    if rules.shortlist < 0:
        raise UserError(f"--shortlist is {rules.shortlist}; give a number of candidates, or 0 for all.")
    expand(rules.tasks)
    keys = split_keys(dataset, rules.split)
    if rules.split in RUN_FOLDERS:
        raise UserError(f"A run keeps its own files in {rules.split}/, so its results cannot lie there; give the split another name.")
    there = {caption.role for key in keys for caption in dataset.record(key).captions} if rules.roles else set()
    unknown = [role for role in rules.roles if role not in there]
    if unknown:
        raise UserError(
            f"The captions of the split {rules.split!r} have no role {unknown[0]!r}; they have {', '.join(sorted(there)) or 'none'}."
        )


def _refuse_repeats(what: str, advice: str, names: Sequence[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"Two of {what} ({twice[0]}); {advice}.")
