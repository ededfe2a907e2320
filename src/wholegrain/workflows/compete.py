"""A fair competition: methods from one starting model on the same data, batches and seeds, at equal steps or at equal time.

Everything is kept below one folder, run by run, so the same call goes on where it was interrupted, and a call with one more method
trains that one alone::

    tuning/METHOD-RATE/        only if several learning rates are tried: the first seed, judged on the split "val"
    METHOD-SEED/               a run (see training/checkpoints/run_folder.py), with its results in SPLIT/
    start/SPLIT/               results of the starting model
    features/                  what frozen towers made of pictures and texts
    standings.{csv,md,tex,html}  the table of the last call

A run that is there and was made with another recipe, model, data or time is refused by name; results of another split, suite or
setting are measured anew, those of another split kept beside (:mod:`wholegrain.workflows.runs`).

Fairness: the packaged recipes differ in what the method is, and share the optimiser; what the caller overrides is overridden for
all. Every method tries the same learning rates. At equal time a method takes as many steps as its own speed allows, measured on
this machine before the run; at equal steps (the default) the table says how long a step took.
"""

from __future__ import annotations

import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from wholegrain.data.dataset import Dataset
from wholegrain.errors import UserError
from wholegrain.evaluation.result import TaskResult
from wholegrain.files import disk_errors, write_json, write_text
from wholegrain.locks import locked
from wholegrain.objectives.recipe import load_recipe
from wholegrain.objectives.schema import Recipe
from wholegrain.report.entry import read_history
from wholegrain.report.standings import Standing, Standings
from wholegrain.report.standings_page import write_standings_page
from wholegrain.towers.model import Model
from wholegrain.training.checkpoints.run_folder import OtherRunError, read_recipe
from wholegrain.training.start import load_inputs, starting_model
from wholegrain.training.step import Outcome, seed_everything
from wholegrain.training.trainer import TrainOptions, train
from wholegrain.workflows.entrants import TASKS, Rules, entrants
from wholegrain.workflows.runs import Suite, check_run, evaluate_once, train_once
from wholegrain.workflows.validation import validation

START = "start"
PILOT = 8
"""Steps that are timed to learn a method's speed; the first half is warm-up."""


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
        UserError: what was asked for cannot be (see :func:`~wholegrain.workflows.entrants.entrants`), a run is there that was made otherwise,
            or another process competes in this folder.
    """
    dataset = Dataset(data)
    if not rules.tasks:
        rules = replace(rules, tasks=(*TASKS, *(("negatives",) if dataset.negative_kinds else ())))
    say(f"Looking whether {len(recipes)} recipes fit the data and the model …")
    able, left_out = entrants(recipes, dataset, rules)
    for name, why in left_out.items():
        say(f"left out: {name}. {why}")
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    with locked(out, "a competition"):
        return _Competition(data, dataset, out, rules, say).table(able, left_out)


@dataclass(frozen=True)
class _Competition:
    data: Path
    dataset: Dataset
    out: Path
    rules: Rules
    say: Callable[[str], None]

    @property
    def cache(self) -> Path:
        return self.rules.cache or self.out / "features"

    def table(self, able: Mapping[str, str], left_out: dict[str, str]) -> tuple[Standings, dict[str, str]]:
        """Of all; also after Ctrl-C: what is done is in the standings."""
        first = next(iter(able))
        rows: list[Standing] = []
        try:
            self._check_what_is_there(able)
            for index, (name, recipe) in enumerate(able.items()):
                self.say(f"{name} ({index + 1} of {len(able)})")
                try:
                    rows.append(self._competitor(name, recipe))
                except OtherRunError:
                    raise
                except UserError as problem:  # its loss is no number any more, and the like
                    if index == 0:
                        raise
                    left_out[name] = str(problem)
                    self.say(f"left out: {problem}")
                if index == 0:
                    rows.insert(0, self._start(recipe))
        finally:
            if len(rows) > 1:
                _write(Standings(rows, first), left_out, self.out, self.data)
        return Standings(rows, first), left_out

    def _competitor(self, name: str, recipe: str) -> Standing:
        overrides = self.rules.overrides
        if self.rules.rates:
            overrides = (*overrides, f"--optimiser.lr={self._best_rate(name, recipe)}")
        results, costs = [], []
        for seed in self.rules.seeds:
            run = self.out / f"{name}-{seed}"
            model = self._run(recipe, run, (*overrides, f"--seed={seed}"))
            results.append(self._results(model, run))
            costs += _seconds_a_step(run)
        return Standing(name, results, costs)

    def _check_what_is_there(self, able: Mapping[str, str]) -> None:
        """Runs that were made otherwise are refused before anything is trained; where rates are tried, when their turn comes."""
        for name, recipe in able.items() if not self.rules.rates else ():
            for seed in self.rules.seeds:
                run = self.out / f"{name}-{seed}"
                if (run / "run.json").exists():
                    chosen, _, start = load_inputs(recipe, self.data, self.rules.model, (*self.rules.overrides, f"--seed={seed}"))
                    check_run(run, self._of_its_length(chosen, run), start, self.dataset, self.rules.seconds)

    def _of_its_length(self, recipe: Recipe, run: Path) -> Recipe:
        """At equal time, with as many steps as were measured when the run began."""
        steps = read_recipe(run).optimiser.steps if self.rules.seconds else recipe.optimiser.steps
        return replace(recipe, optimiser=replace(recipe.optimiser, steps=steps))

    def _run(self, recipe: str, run: Path, overrides: Sequence[str]) -> Model:
        chosen, _, start = load_inputs(recipe, self.data, self.rules.model, overrides)
        if (run / "run.json").exists():
            chosen = self._of_its_length(chosen, run)
        elif self.rules.seconds:
            self.say(f"  timing {PILOT} steps")
            chosen = replace(chosen, optimiser=replace(chosen.optimiser, steps=self._steps_in_time(chosen, start)))
            start = load_inputs(recipe, self.data, self.rules.model, overrides)[2]  # the pilot has moved it
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        origin = {"command": command, "data": str(self.data.resolve()), "model": self.rules.model, "seconds": self.rules.seconds}
        return train_once(chosen, self.dataset, start, TrainOptions(run, origin=origin, cache=self.cache))

    def _steps_in_time(self, recipe: Recipe, model: Model) -> int:
        """How many steps fit, by the median of a few timed ones."""
        stamps: list[float] = []

        def stamp(outcome: Outcome) -> bool:
            stamps.append(time.perf_counter())
            return len(stamps) >= PILOT

        pilot = replace(recipe, optimiser=replace(recipe.optimiser, steps=PILOT))
        with tempfile.TemporaryDirectory() as folder:
            options = TrainOptions(Path(folder) / "pilot", quiet=True, cache=self.cache)
            train(pilot, self.dataset, model, options, on_step=stamp)
        step = median(b - a for a, b in zip(stamps[PILOT // 2 - 1 :], stamps[PILOT // 2 :], strict=False))
        return max(1, int(self.rules.seconds / step))

    def _best_rate(self, name: str, recipe: str) -> float:
        """The learning rate whose first-seed run is best on ``val``; what was tried is kept in ``tuning/METHOD.json``."""
        found = {}
        judge = validation(self.dataset, load_recipe(recipe, self.rules.overrides), cache=self.cache)
        assert judge is not None, "entrants looked"
        for rate in self.rules.rates:
            run = self.out / "tuning" / f"{name}-{rate}"
            model = self._run(recipe, run, (*self.rules.overrides, f"--optimiser.lr={rate}", f"--seed={self.rules.seeds[0]}"))
            found[rate] = judge(model)["recall@1"]
            self.say(f"  rate {rate:g}: recall@1 on val {100 * found[rate]:.1f}%")
        write_json(self.out / "tuning" / f"{name}.json", {str(rate): value for rate, value in found.items()})
        return max(found, key=lambda rate: found[rate])

    def _results(self, model: Model, folder: Path) -> list[TaskResult]:
        rules = self.rules
        retrieval: dict[str, object] = {"roles": rules.roles} if rules.roles else {}
        if rules.shortlist and model.score is not None:
            retrieval["shortlist"] = rules.shortlist
        settings = {"retrieval": retrieval} if retrieval else {}
        self.say(f"  results of {folder.name} on {rules.split}")
        suite = Suite(rules.split, rules.tasks, settings)
        return evaluate_once(model, self.dataset, folder / rules.split, suite, cache=self.cache)

    def _start(self, recipe: str) -> Standing:
        first = load_recipe(recipe, (*self.rules.overrides, f"--seed={self.rules.seeds[0]}"))
        seed_everything(first.seed)  # of what is not trained yet
        model = starting_model(self.rules.model, self.dataset, first.data.split)
        return Standing(START, [self._results(model, self.out / START)])


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
        write_text(out / f"standings.{suffix}", text)
    write_standings_page(standings, out / "standings.html", left_out=left_out, data=str(data))
