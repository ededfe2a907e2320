"""What ``wholegrain compete`` does: several methods under equal conditions, one table, or curves over budgets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from wholegrain.errors import UserError

if TYPE_CHECKING:
    from wholegrain.report.curves import Curves
    from wholegrain.report.standings import Standings
    from wholegrain.workflows.entrants import Rules


@dataclass(frozen=True, kw_only=True)
class CompeteArguments:
    """The words and options of ``wholegrain compete``.

    Attributes:
        recipes: names (see "wholegrain methods") or TOML files; "all" is every packaged one. The others are compared with the first.
        data: a prepared data set.
        model: where all start: small (from scratch), base, ViT-B-32:openai, a run, ...
        out: the competition's folder: runs, results, standings.csv, .md, .tex and .html. A run in it that was made with another recipe,
            model, data or --seconds is refused; another --split or --suite is measured anew.
        seeds: of training; the figures are means over them.
        rates: learning rates that every method tries, chosen by retrieval on the split val.
        budgets: numbers of steps: a run of each length, with the schedule wsd, and curves over pairs seen and seconds (curves.html, .md, .csv,
            levels.csv) in place of one table. Shorter runs' first steps are taken once.
        seconds: equal training time of every run, in place of equal steps.
        steps: of every run.
        batch: images per step.
        lr: peak learning rate of all, in place of the recipes' own.
        split: the split to test on.
        suite: tasks or suites, separated by commas; by default retrieval, composition, hard_positives and grounding, and negatives where
            the data have a sidecar of them.
        roles: retrieval with captions in these roles alone.
        shortlist: models that score pairs jointly re-rank that many candidates of each query, found by the cosine; 0 is all.
        cache: a folder for what frozen towers make of pictures and texts; by default features/ in OUT.
    """

    recipes: Positional[tuple[str, ...]]
    data: Path
    model: str = "small"
    out: Path = Path("compete")
    seeds: tuple[int, ...] = (0,)
    rates: tuple[float, ...] = ()
    budgets: tuple[int, ...] = ()
    seconds: float = 0.0
    steps: int | None = None
    batch: int | None = None
    lr: float | None = None
    split: str = "test"
    suite: str = ""
    roles: tuple[str, ...] = ()
    shortlist: int = 0
    cache: Path | None = None
    overrides: tuple[str, ...] = ()


def compete(args: CompeteArguments, say: Callable[[str], None]) -> tuple[Standings | Curves, dict[str, str]]:
    """The standings, or with budgets the curves; and who could not take part."""
    from wholegrain.workflows.compete import compete as at_one_length
    from wholegrain.workflows.curves import compete_at

    chosen, rules = _rules(args)
    if args.budgets:
        return compete_at(args.budgets, chosen, args.data, args.out, rules, say)
    return at_one_length(chosen, args.data, args.out, rules, say)


def _rules(args: CompeteArguments) -> tuple[tuple[str, ...], Rules]:
    """Who competes, and how."""
    from wholegrain.evaluation.suite import expand
    from wholegrain.objectives.recipe import recipe_names
    from wholegrain.workflows.entrants import Rules

    if not args.recipes:
        raise UserError("A competition needs recipes, such as: wholegrain compete clip negclip ce_clip --data data/photos")
    chosen = ("clip", *(name for name in recipe_names() if name != "clip")) if args.recipes == ("all",) else args.recipes
    shortcuts = {"optimiser.steps": args.steps, "optimiser.batch": args.batch, "optimiser.lr": args.lr}
    dotted = (*args.overrides, *(f"--{key}={value}" for key, value in shortcuts.items() if value is not None))
    tasks = expand(args.suite) if args.suite else ()
    return chosen, Rules(
        args.model, args.seeds, args.rates, args.seconds, dotted, args.split, tasks, args.roles, args.shortlist, args.cache
    )
