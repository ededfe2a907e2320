"""A competition at several budgets: every method's figures as curves over what was seen and spent, not as one point.

A run with a cosine that is read at a quarter of its steps is no run of a quarter: its rate was never small. So every budget is a run of its
own length with the schedule ``wsd`` (warm-up, constant rate, decay to zero; ``training/schedule.py``), and what these runs have in common is
trained once: each goes on from the checkpoint with which the rate of the next shorter one began to fall (``training/prefix.py``), bit for bit
as if it had been made alone. Beyond the longest run that costs the decays of the others. ::

    METHOD-SEED/steps-BUDGET/      a run, with its results in SPLIT/
    curves.{csv,md,html}           every figure at every budget
    levels.csv                     what each method needs for the first one's last figures
    standings.{csv,md,tex,html}    the table of the largest budget

The same call goes on where it was interrupted; one with a larger budget goes on from the runs that are there. The warm-up is at most half of the
smallest budget, for all budgets alike: a smaller budget that shortens it is another competition, and is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from wholegrain.errors import UserError
from wholegrain.evaluation.result import TaskResult
from wholegrain.files import write_text
from wholegrain.objectives.recipe import load_recipe
from wholegrain.objectives.schema import Recipe
from wholegrain.report.curves import Curve, Curves, Point
from wholegrain.report.curves_page import write_curves_page
from wholegrain.report.curves_text import curves_csv, curves_markdown, levels_csv
from wholegrain.report.standings import Standing
from wholegrain.training.checkpoints.run_folder import STABLE, read_recipe
from wholegrain.training.schedule import decay_start
from wholegrain.workflows.compete import write_standings
from wholegrain.workflows.competition import Adjust, Competition, after_warm_up, competing, seconds_of_steps
from wholegrain.workflows.entrants import Rules

OWN_KEYS = ("optimiser.steps", "optimiser.epochs", "optimiser.schedule")
"""Keys of recipes that budgets set."""


def compete_at(
    budgets: Sequence[int], recipes: Sequence[str], data: Path, out: Path, rules: Rules, say: Callable[[str], None] = print
) -> tuple[Curves, dict[str, str]]:
    """Trains and measures every recipe at every budget, and writes the curves.

    Args:
        budgets: steps of training; any order, each once.
        recipes, data, out, rules, say: as in :func:`wholegrain.workflows.compete.compete`. Where rates are tried, at the largest budget.

    Returns:
        The curves, and recipe -> why it could not take part.

    Raises:
        UserError: as there; or a budget comes twice or is below 1, or the rules set steps, time or a schedule themselves.
    """
    steps = _checked(budgets, rules)
    with competing(recipes, data, out, rules, say) as (competition, able, left_out):
        return _Budgets(competition, tuple(steps)).curves(able, left_out), left_out


def _checked(budgets: Sequence[int], rules: Rules) -> list[int]:
    """The smallest first."""
    twice = next((budget for budget, count in Counter(budgets).items() if count > 1), None)
    if twice is not None:
        raise UserError(f"Two of the --budgets are {twice}; name each once.")
    low = next((budget for budget in budgets if budget < 1), None)
    if low is not None or not budgets:
        raise UserError(f"--budgets takes numbers of steps of 1 or more, such as --budgets 75 150 300; it has {'none' if low is None else low}.")
    if rules.seconds:
        raise UserError("--budgets are numbers of steps, and --seconds is a training time; leave one of them out.")
    own = next((key for key in OWN_KEYS for given in rules.overrides if given.removeprefix("--").partition("=")[0] == key), None)
    if own is not None:
        raise UserError(f"--budgets sets {own} itself, for a run of each budget; leave --{own.removeprefix('optimiser.')} out, or the budgets.")
    return sorted(budgets)


@dataclass(frozen=True)
class _Budgets:
    competition: Competition
    steps: tuple[int, ...]

    def curves(self, able: Mapping[str, str], left_out: dict[str, str]) -> Curves:
        """Of all; also after Ctrl-C: methods that are done are in the files."""
        first, start = next(iter(able)), None
        done: list[Curve] = []
        try:
            self._check_what_is_there(able)
            self._say_cost(able[first])
            for curve in self.competition.each(able, left_out, self._curve):
                done.append(curve)
                start = start or self.competition.start(able[first])
        finally:
            if start is not None:
                self._write(Curves(done, first, start), left_out)
        assert start is not None, "without the first method there is an error"
        return Curves(done, first, start)

    def at_budget(self, budget: int) -> Adjust:
        """Makes a recipe that of a run of so many steps; all runs of a method are the same until their rates fall."""
        return partial(of_budget, budget=budget, smallest=self.steps[0])

    def _folders(self, name: str, seed: int) -> dict[int, Path]:
        return {budget: self.competition.folder(name, seed) / f"steps-{budget}" for budget in self.steps}

    def _check_what_is_there(self, able: Mapping[str, str]) -> None:
        """As in :mod:`wholegrain.workflows.compete`."""
        for name, recipe in able.items() if not self.competition.rules.rates else ():
            for seed in self.competition.rules.seeds:
                runs = {folder: self.at_budget(budget) for budget, folder in self._folders(name, seed).items()}
                self.competition.refuse_others(recipe, seed, runs)

    def _say_cost(self, recipe: str) -> None:
        settings = self.at_budget(self.steps[-1])(load_recipe(recipe, self.competition.rules.overrides)).optimiser
        shared = sum(decay_start(budget, settings) for budget in self.steps[:-1])
        whole = sum(self.steps)
        self.competition.say(f"A seed takes {whole - shared:,} steps: {whole:,} of {len(self.steps)} runs, of which {shared:,} are taken once for two.")

    def _curve(self, name: str, recipe: str) -> Curve:
        competition = self.competition
        overrides = competition.overrides(name, recipe, self.at_budget(self.steps[-1]))
        found: dict[int, list[_Measured]] = {budget: [] for budget in self.steps}
        for seed in competition.rules.seeds:
            for budget, run in self._folders(name, seed).items():
                competition.say(f"  seed {seed}, {budget:,} steps")
                model = competition.run(recipe, run, (*overrides, f"--seed={seed}"), self.at_budget(budget), shorter_run(run.parent, budget))
                results, seconds = competition.results(model, run), seconds_of_steps(run)
                found[budget].append(_Measured(results, tuple(seconds), read_recipe(run).optimiser.batch))
        return Curve(name, [_point(name, budget, seeds) for budget, seeds in found.items()])

    def _write(self, curves: Curves, left_out: Mapping[str, str]) -> None:
        out, notes = self.competition.out, "".join(f"\nLeft out: {name}. {why}\n" for name, why in left_out.items())
        write_text(out / "curves.csv", curves_csv(curves))
        write_text(out / "levels.csv", levels_csv(curves))
        write_text(out / "curves.md", curves_markdown(curves) + notes)
        write_curves_page(curves, out / "curves.html", left_out=left_out, data=str(self.competition.data))
        write_standings(curves.last, left_out, self.competition)


@dataclass(frozen=True)
class _Measured:
    """A run: its results, the seconds of its steps, images a step."""

    results: Sequence[TaskResult]
    seconds: tuple[float, ...]
    batch: int


def _point(name: str, budget: int, seeds: Sequence[_Measured]) -> Point:
    costs = [second for run in seeds for second in after_warm_up(run.seconds)]
    spent = [sum(run.seconds) * budget / len(run.seconds) if run.seconds else float("nan") for run in seeds]
    return Point(budget, budget * seeds[0].batch, spent, Standing(name, [run.results for run in seeds], costs))


def of_budget(recipe: Recipe, budget: int, smallest: int) -> Recipe:
    """A recipe for a run of ``budget`` steps, the smallest budget being another number."""
    settings = recipe.optimiser
    warmup = min(settings.warmup_steps, smallest // 2)
    return replace(recipe, optimiser=replace(settings, schedule="wsd", steps=budget, warmup_steps=warmup))


def shorter_run(folder: Path, budget: int) -> Path | None:
    """The longest run there with fewer steps that keeps the checkpoint before its decay."""
    there = [int(name) for path in folder.glob(f"steps-*/{STABLE}") if (name := path.parent.name.removeprefix("steps-")).isdecimal()]
    shorter = max((steps for steps in there if steps < budget), default=None)
    return None if shorter is None else folder / f"steps-{shorter}"
