"""``wholegrain compete``: several methods under equal conditions, one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from wholegrain.workflows.commands.compete import CompeteArguments

if TYPE_CHECKING:
    from rich.console import Console

    from wholegrain.report.curves import Curves
    from wholegrain.report.standings import Standings


def compete(args: CompeteArguments) -> None:
    """Trains methods from one model on the same data and seeds, measures them, and prints one table; interrupted, the same line
    goes on. Any key of the recipes may be set for all of them by its dotted name, such as --optimiser.warmup_steps 10.

    wholegrain compete clip negclip ce_clip --data data/photos --seeds 0 1 2
    """
    from functools import partial

    from rich.console import Console

    from wholegrain.report.standings import Standings
    from wholegrain.workflows.commands.compete import compete as run

    console = Console()
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    found, left_out = run(args, say)
    if isinstance(found, Standings):
        _standings(args, found, left_out, console, say)
    else:
        _curves(args, found, left_out, console, say)


def _standings(
    args: CompeteArguments, standings: Standings, left_out: Mapping[str, str], console: Console, say: Callable[[str], None]
) -> None:
    console.print(standings.as_table(console.width))
    _say_left_out(left_out, say)
    say(f"The table with intervals: {args.out / 'standings.html'} (and .csv, .md, .tex)")
    runs = " ".join(str(args.out / f"{row.name}-{args.seeds[0]}") for row in standings.rows[1:])
    say(f"Look at what the models see: wholegrain report {runs} --data {args.data} --split {args.split}")


def _curves(args: CompeteArguments, curves: Curves, left_out: Mapping[str, str], console: Console, say: Callable[[str], None]) -> None:
    from wholegrain.report.curves_text import needed_table

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
