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
this machine before the run; at equal steps (the default) the table says how long a step took. At several numbers of steps there are curves:
:mod:`wholegrain.workflows.curves`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from wholegrain.files import write_text
from wholegrain.report.standings import Standing, Standings
from wholegrain.report.standings_page import write_standings_page
from wholegrain.workflows.competition import Competition, after_warm_up, competing, seconds_of_steps, unchanged
from wholegrain.workflows.entrants import Rules


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
    with competing(recipes, data, out, rules, say) as (competition, able, left_out):
        return _table(competition, able, left_out), left_out


def _table(competition: Competition, able: Mapping[str, str], left_out: dict[str, str]) -> Standings:
    """Of all; also after Ctrl-C: what is done is in the standings."""
    first = next(iter(able))
    rows: list[Standing] = []
    try:
        _check_what_is_there(competition, able)
        for row in competition.each(able, left_out, partial(_competitor, competition)):
            rows.append(row)
            if len(rows) == 1:
                rows.insert(0, competition.start(able[first]))
    finally:
        if len(rows) > 1:
            write_standings(Standings(rows, first), left_out, competition)
    return Standings(rows, first)


def _competitor(competition: Competition, name: str, recipe: str) -> Standing:
    overrides = competition.overrides(name, recipe)
    results, costs = [], []
    for seed in competition.rules.seeds:
        run = competition.folder(name, seed)
        model = competition.run(recipe, run, (*overrides, f"--seed={seed}"))
        results.append(competition.results(model, run))
        costs += after_warm_up(seconds_of_steps(run))
    return Standing(name, results, costs)


def _check_what_is_there(competition: Competition, able: Mapping[str, str]) -> None:
    """Runs that were made otherwise are refused before anything is trained; where rates are tried, when their turn comes."""
    for name, recipe in able.items() if not competition.rules.rates else ():
        for seed in competition.rules.seeds:
            competition.refuse_others(recipe, seed, {competition.folder(name, seed): unchanged})


def write_standings(standings: Standings, left_out: Mapping[str, str], competition: Competition) -> None:
    """The table in every form, into the competition's folder."""
    notes = "".join(f"\nLeft out: {name}. {why}\n" for name, why in left_out.items())
    for suffix, text in (
        ("csv", standings.as_csv()),
        ("md", standings.as_markdown() + notes),
        ("tex", standings.as_latex()),
    ):
        write_text(competition.out / f"standings.{suffix}", text)
    write_standings_page(standings, competition.out / "standings.html", left_out=left_out, data=str(competition.data))
