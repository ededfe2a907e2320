"""``wholegrain compete``: several methods under equal conditions, one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

if TYPE_CHECKING:
    from rich.console import Console

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


def compete(args: CompeteArguments) -> None:
    """Trains methods from one model on the same data and seeds, measures them, and prints one table; interrupted, the same line
    goes on. Any key of the recipes may be set for all of them by its dotted name, such as --optimiser.warmup_steps 10.

    wholegrain compete clip negclip ce_clip --data data/photos --seeds 0 1 2
    """
    from functools import partial

    from rich.console import Console

    from wholegrain.errors import UserError
    from wholegrain.evaluation.suite import expand
    from wholegrain.objectives.recipe import recipe_names
    from wholegrain.workflows.entrants import Rules

    if not args.recipes:
        raise UserError("A competition needs recipes, such as: wholegrain compete clip negclip ce_clip --data data/photos")
    chosen = ("clip", *(name for name in recipe_names() if name != "clip")) if args.recipes == ("all",) else args.recipes
    shortcuts = {"optimiser.steps": args.steps, "optimiser.batch": args.batch, "optimiser.lr": args.lr}
    dotted = (*args.overrides, *(f"--{key}={value}" for key, value in shortcuts.items() if value is not None))
    tasks = expand(args.suite) if args.suite else ()
    rules = Rules(
        args.model, args.seeds, args.rates, args.seconds, dotted, args.split, tasks, args.roles, args.shortlist, args.cache
    )
    console = Console()
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    (_curves if args.budgets else _standings)(args, chosen, rules, console, say)


def _standings(args: CompeteArguments, chosen: Sequence[str], rules: Rules, console: Console, say: Callable[[str], None]) -> None:
    from wholegrain.workflows.compete import compete as run

    standings, left_out = run(chosen, args.data, args.out, rules, say)
    console.print(standings.as_table(console.width))
    _say_left_out(left_out, say)
    say(f"The table with intervals: {args.out / 'standings.html'} (and .csv, .md, .tex)")
    runs = " ".join(str(args.out / f"{row.name}-{args.seeds[0]}") for row in standings.rows[1:])
    say(f"Look at what the models see: wholegrain report {runs} --data {args.data} --split {args.split}")


def _curves(args: CompeteArguments, chosen: Sequence[str], rules: Rules, console: Console, say: Callable[[str], None]) -> None:
    from wholegrain.report.curves_text import needed_table
    from wholegrain.workflows.curves import compete_at

    curves, left_out = compete_at(args.budgets, chosen, args.data, args.out, rules, say)
    say(f"At {curves.budgets[-1]:,} steps:")
    console.print(curves.last.as_table(console.width))
    console.print(needed_table(curves, console.width))
    say(curves.finding)
    _say_left_out(left_out, say)
    say(f"The curves: {args.out / 'curves.html'} (and .csv, .md; what a level takes: levels.csv)")
    runs = " ".join(str(args.out / f"{curve.name}-{args.seeds[0]}" / f"steps-{curves.budgets[-1]}") for curve in curves.curves)
    say(f"Look at what the models see: wholegrain report {runs} --data {args.data} --split {args.split}")


def _say_left_out(left_out: Mapping[str, str], say: Callable[[str], None]) -> None:
    for name, why in left_out.items():
        say(f"left out: {name}. {why}")
