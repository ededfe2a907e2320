"""What every kind of competition does: who takes part, runs that are made once, results that are measured once, the starting model's own."""

from __future__ import annotations

import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TypeVar

from wholegrain.data.dataset import Dataset
from wholegrain.errors import UserError
from wholegrain.evaluation.result import TaskResult
from wholegrain.files import disk_errors, write_json
from wholegrain.locks import locked
from wholegrain.objectives.recipe import load_recipe
from wholegrain.objectives.schema import Recipe
from wholegrain.report.entry import read_history
from wholegrain.report.standings import Standing
from wholegrain.towers.model import Model
from wholegrain.training.checkpoints.run_folder import OtherRunError, read_recipe
from wholegrain.training.options import TrainOptions
from wholegrain.training.start import load_inputs, starting_model
from wholegrain.training.step import Outcome, seed_everything
from wholegrain.training.trainer import train
from wholegrain.workflows.entrants import TASKS, Rules, entrants
from wholegrain.workflows.runs import Suite, check_run, evaluate_once, train_once
from wholegrain.workflows.validation import validation

START = "start"
PILOT = 8
"""Steps that are timed to learn a method's speed; the first half is warm-up."""
Adjust = Callable[[Recipe], Recipe]
Made = TypeVar("Made")


@contextmanager
def competing(
    recipes: Sequence[str], data: Path, out: Path, rules: Rules, say: Callable[[str], None]
) -> Iterator[tuple[Competition, dict[str, str], dict[str, str]]]:
    """Looks at all that can be known before anything is trained, and keeps other processes out of the folder.

    Yields:
        The competition, the recipes that can take part by name, and recipe -> why of those that cannot.

    Raises:
        UserError: as :func:`~wholegrain.workflows.entrants.entrants`, or another process competes in this folder.
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
        yield Competition(data, dataset, out, rules, say), able, left_out


def unchanged(recipe: Recipe) -> Recipe:
    """The adjustment that is none."""
    return recipe


@dataclass(frozen=True)
class Competition:
    """One folder with its runs.

    Attributes:
        data, dataset: the data's folder, and what it holds.
        out: the competition's folder.
        rules: with their tasks named.
        say: is told what is going on.
    """

    data: Path
    dataset: Dataset
    out: Path
    rules: Rules
    say: Callable[[str], None]

    @property
    def cache(self) -> Path:
        return self.rules.cache or self.out / "features"

    def folder(self, name: str, seed: int) -> Path:
        """The folder of a method's run with a seed, or of its runs of several budgets."""
        return self.out / f"{name}-{seed}"

    def overrides(self, name: str, recipe: str, adjust: Adjust = unchanged) -> tuple[str, ...]:
        """Those of all, and where rates are tried the method's best one, which takes a run for each."""
        if not self.rules.rates:
            return self.rules.overrides
        return (*self.rules.overrides, f"--optimiser.lr={self._best_rate(name, recipe, adjust)}")

    def each(
        self, able: Mapping[str, str], left_out: dict[str, str], make: Callable[[str, str], Made]
    ) -> Iterator[Made]:
        """Yields what is made of each recipe. One that ends with a :class:`UserError` is noted in ``left_out``, unless it is the first."""
        for index, (name, recipe) in enumerate(able.items()):
            self.say(f"{name} ({index + 1} of {len(able)})")
            try:
                made = make(name, recipe)
            except OtherRunError:
                raise
            except UserError as problem:
                if index == 0:
                    raise
                left_out[name] = str(problem)
                self.say(f"left out: {problem}")
                continue
            yield made

    def refuse_others(self, recipe: str, seed: int, runs: Mapping[Path, Adjust]) -> None:
        """Refuses runs that are there and were made otherwise. Raises :class:`OtherRunError`."""
        there = {run: adjust for run, adjust in runs.items() if (run / "run.json").exists()}
        if there:
            chosen, _, start = load_inputs(recipe, self.data, self.rules.model, (*self.rules.overrides, f"--seed={seed}"))
            for run, adjust in there.items():
                check_run(run, self._of_its_length(adjust(chosen), run), start, self.dataset, self.rules.seconds)

    def _of_its_length(self, recipe: Recipe, run: Path) -> Recipe:
        """At equal time, with as many steps as were measured when the run began."""
        steps = read_recipe(run).optimiser.steps if self.rules.seconds else recipe.optimiser.steps
        return replace(recipe, optimiser=replace(recipe.optimiser, steps=steps))

    def run(self, recipe: str, run: Path, overrides: Sequence[str], adjust: Adjust = unchanged, after: Path | None = None) -> Model:
        """The model that a run makes, trained now or read.

        Args:
            recipe, overrides: of the run, its seed among them.
            run: its folder.
            adjust: what is done to the recipe in the end.
            after: a shorter run whose first steps it shares, see ``TrainOptions``.
        """
        chosen, _, start = load_inputs(recipe, self.data, self.rules.model, overrides)
        chosen = adjust(chosen)
        if (run / "run.json").exists():
            chosen = self._of_its_length(chosen, run)
        elif self.rules.seconds:
            self.say(f"  timing {PILOT} steps")
            chosen = replace(chosen, optimiser=replace(chosen.optimiser, steps=self._steps_in_time(chosen, start)))
            start = load_inputs(recipe, self.data, self.rules.model, overrides)[2]  # the pilot has moved it
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        origin = {"command": command, "data": str(self.data.resolve()), "model": self.rules.model, "seconds": self.rules.seconds}
        return train_once(chosen, self.dataset, start, TrainOptions(run, origin=origin, cache=self.cache, after=after))

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

    def _best_rate(self, name: str, recipe: str, adjust: Adjust) -> float:
        """The learning rate whose first-seed run is best on ``val``; what was tried is kept in ``tuning/METHOD.json``."""
        found = {}
        judge = validation(self.dataset, load_recipe(recipe, self.rules.overrides), cache=self.cache)
        assert judge is not None, "entrants looked"
        for rate in self.rules.rates:
            run = self.out / "tuning" / f"{name}-{rate}"
            model = self.run(recipe, run, (*self.rules.overrides, f"--optimiser.lr={rate}", f"--seed={self.rules.seeds[0]}"), adjust)
            found[rate] = judge(model)["recall@1"]
            self.say(f"  rate {rate:g}: recall@1 on val {100 * found[rate]:.1f}%")
        write_json(self.out / "tuning" / f"{name}.json", {str(rate): value for rate, value in found.items()})
        return max(found, key=lambda rate: found[rate])

    def results(self, model: Model, folder: Path) -> list[TaskResult]:
        """Of a model by the rules, kept in a folder of its run."""
        rules = self.rules
        retrieval: dict[str, object] = {"roles": rules.roles} if rules.roles else {}
        if rules.shortlist and model.score is not None:
            retrieval["shortlist"] = rules.shortlist
        settings = {"retrieval": retrieval} if retrieval else {}
        self.say(f"  results of {folder.relative_to(self.out)} on {rules.split}")
        suite = Suite(rules.split, rules.tasks, settings)
        return evaluate_once(model, self.dataset, folder / rules.split, suite, cache=self.cache)

    def start(self, recipe: str) -> Standing:
        """The starting model's row."""
        first = load_recipe(recipe, (*self.rules.overrides, f"--seed={self.rules.seeds[0]}"))
        seed_everything(first.seed)  # of what is not trained yet
        model = starting_model(self.rules.model, self.dataset, first.data.split)
        return Standing(START, [self.results(model, self.out / START)])


def seconds_of_steps(run: Path) -> list[float]:
    """What every step of a run took, data included; evaluation and saving are no part of it."""
    history = read_history(run)
    rates = [step.get("images_per_s") for step in history.steps]
    return [history.batch / rate for rate in rates if rate and history.batch]


def after_warm_up(seconds: Sequence[float]) -> list[float]:
    """Of steps: all but the first few."""
    return list(seconds[PILOT // 2 :])
