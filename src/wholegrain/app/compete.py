"""A fair competition: methods from one starting model on the same data, batches and seeds, at equal steps or at equal time.

Everything is kept below one folder, run by run, so the same call goes on where it was interrupted, and a call with one more method
trains that one alone::

    tuning/METHOD-RATE/        only if several learning rates are tried: the first seed, judged on the split "val"
    METHOD-SEED/               a run (see training/run_folder.py), with its results in test/
    standings.{csv,md,tex,html}  the table

Fairness: the packaged recipes differ in what the method is, and share the optimiser; what the caller overrides is overridden for
all. Every method tries the same learning rates. At equal time a method takes as many steps as its own speed allows, measured on
this machine before the run; at equal steps (the default) the table says how long a step took.
"""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from wholegrain.app.begin import begin, starting_model
from wholegrain.app.runs import measured, trained
from wholegrain.app.validation import validation
from wholegrain.data.dataset import Dataset
from wholegrain.errors import UserError
from wholegrain.evaluation.result import TaskResult
from wholegrain.objectives.schema import Recipe
from wholegrain.report.entry import read_history
from wholegrain.report.standings import Standing, Standings
from wholegrain.report.standings_page import write_standings_page
from wholegrain.towers.model import Model
from wholegrain.training.loop import train
from wholegrain.training.step import Outcome

START = "start"
PILOT = 8
"""Steps that are timed to learn a method's speed; the first half is warm-up."""


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
        split, tasks: of the evaluation; see ``evaluation.suite.evaluate``.
        roles: retrieval with captions in these roles alone; empty is all.
        shortlist: retrieval by models that score pairs jointly re-ranks that many candidates of each query; 0 is all.
    """

    model: str = "small"
    seeds: tuple[int, ...] = (0,)
    rates: tuple[float, ...] = ()
    seconds: float = 0.0
    overrides: tuple[str, ...] = ()
    split: str = "test"
    tasks: tuple[str, ...] = ("retrieval", "composition", "hard_positives", "grounding")
    roles: tuple[str, ...] = ()
    shortlist: int = 0


def compete(
    recipes: Sequence[str], data: Path, out: Path, rules: Rules, say: Callable[[str], None] = print
) -> tuple[Standings, dict[str, str]]:
    """Trains and measures every recipe, and writes the standings.

    Args:
        recipes: packaged names (``scenes/NAME`` is called NAME) or TOML files; the first is what the others are compared with.
        data: a prepared data set.
        out: the competition's folder.
        say: is told what is going on.

    Returns:
        The standings, with the starting model in the first row, and recipe -> why it could not take part.

    Raises:
        UserError: unknown recipes or data; or the first recipe cannot take part.
    """
    names = [Path(recipe).stem for recipe in recipes]
    if len(set(names)) < len(names):
        raise UserError(f"Two of the recipes have one name ({', '.join(names)}); name each once.")
    rows: list[Standing] = []
    left_out: dict[str, str] = {}
    try:
        for place, (name, recipe) in enumerate(zip(names, recipes, strict=True)):
            say(f"{name} ({place + 1} of {len(names)})")
            try:
                rows.append(_competitor(name, recipe, data, out, rules, say))
            except UserError as problem:
                if place == 0:
                    raise
                left_out[name] = str(problem)
                say(f"left out: {problem}")
            if place == 0:
                rows.insert(0, _start(data, out, rules))
    finally:  # also after Ctrl-C: what is done is in the table
        if len(rows) > 1:
            _write(Standings(rows, names[0]), left_out, out, data)
    return Standings(rows, names[0]), left_out


def _competitor(name: str, recipe: str, data: Path, out: Path, rules: Rules, say: Callable[[str], None]) -> Standing:
    overrides = rules.overrides
    if rules.rates:
        overrides = (*overrides, f"--optimiser.lr={_best_rate(name, recipe, data, out, rules, say)}")
    results, costs = [], []
    for seed in rules.seeds:
        run = out / f"{name}-{seed}"
        model, dataset = _run(recipe, data, run, rules, (*overrides, f"--seed={seed}"))
        results.append(_results(model, dataset, run / "test", rules))
        costs += _seconds_a_step(run)
    return Standing(name, results, median(costs) if costs else None)


def _run(recipe: str, data: Path, run: Path, rules: Rules, overrides: Sequence[str]) -> tuple[Model, Dataset]:
    chosen, dataset, start = begin(recipe, data, rules.model, overrides)
    if rules.seconds and not (run / "run.json").exists():
        chosen = _at_equal_time(chosen, dataset, start, rules.seconds)
        start = begin(recipe, data, rules.model, overrides)[2]  # the pilot has moved it
    origin = {"command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]), "data": str(data.resolve()), "model": rules.model}
    return trained(chosen, lambda: start, dataset, run, origin=origin), dataset


def _at_equal_time(recipe: Recipe, dataset: Dataset, model: Model, seconds: float) -> Recipe:
    """The recipe with as many steps as fit, by the median of a few timed ones."""
    stamps: list[float] = []

    def stamp(outcome: Outcome) -> bool:
        stamps.append(time.perf_counter())
        return len(stamps) >= PILOT

    pilot = replace(recipe, optimiser=replace(recipe.optimiser, steps=PILOT))
    with tempfile.TemporaryDirectory() as folder:
        train(pilot, dataset, model, Path(folder) / "pilot", on_step=stamp, quiet=True)
    step = median(b - a for a, b in zip(stamps[PILOT // 2 - 1 :], stamps[PILOT // 2 :], strict=False))
    return replace(recipe, optimiser=replace(recipe.optimiser, steps=max(1, int(seconds / step))))


def _best_rate(name: str, recipe: str, data: Path, out: Path, rules: Rules, say: Callable[[str], None]) -> float:
    """The learning rate whose first-seed run is best on ``val``; what was tried is kept in ``tuning/METHOD.json``."""
    record, found = out / "tuning" / f"{name}.json", {}
    for rate in rules.rates:
        run = out / "tuning" / f"{name}-{rate:g}"
        model, dataset = _run(recipe, data, run, rules, (*rules.overrides, f"--optimiser.lr={rate}", f"--seed={rules.seeds[0]}"))
        judge = validation(dataset, begin(recipe, data, rules.model, rules.overrides)[0])
        if judge is None:
            raise UserError(
                f"{data} has no split val to choose a learning rate by; leave --rates out, or write val into the column split of a tenth of the "
                "photos and prepare them again."
            )
        found[rate] = judge(model)["recall@1"]
        say(f"  rate {rate:g}: recall@1 on val {100 * found[rate]:.1f}%")
    record.write_text(json.dumps({f"{rate:g}": value for rate, value in found.items()}, indent=2), encoding="utf-8")
    return max(found, key=lambda rate: found[rate])


def _results(model: Model, dataset: Dataset, folder: Path, rules: Rules) -> list[TaskResult]:
    retrieval: dict[str, object] = {"roles": rules.roles} if rules.roles else {}
    if rules.shortlist and model.score is not None:
        retrieval["shortlist"] = rules.shortlist
    return measured(model, dataset, folder, rules.split, rules.tasks, settings={"retrieval": retrieval}, seed=0)


def _start(data: Path, out: Path, rules: Rules) -> Standing:
    dataset = Dataset(data)
    return Standing(START, [_results(starting_model(rules.model, dataset, "train"), dataset, out / START, rules)])


def _seconds_a_step(run: Path) -> list[float]:
    """Of every step but the first few, which are warm-up."""
    history = read_history(run)
    rates = [step.get("images_per_s") for step in history.steps[PILOT // 2 :]]
    return [history.batch / rate for rate in rates if rate and history.batch]


def _write(standings: Standings, left_out: Mapping[str, str], out: Path, data: Path) -> None:
    notes = "".join(f"\nLeft out: {name}. {why}\n" for name, why in left_out.items())
    for suffix, text in (
        ("csv", standings.as_csv()),
        ("md", standings.as_markdown() + notes),
        ("tex", standings.as_latex()),
    ):
        (out / f"standings.{suffix}").write_text(text, encoding="utf-8")
    write_standings_page(standings, out / "standings.html", left_out=left_out, data=str(data))
