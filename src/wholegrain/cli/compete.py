"""``wholegrain compete``: several methods under equal conditions, one table."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional


def compete(
    recipes: Positional[tuple[str, ...]],
    /,
    *,
    data: Path,
    model: str = "small",
    out: Path = Path("compete"),
    seeds: tuple[int, ...] = (0,),
    rates: tuple[float, ...] = (),
    seconds: float = 0.0,
    steps: int | None = None,
    batch: int | None = None,
    lr: float | None = None,
    split: str = "test",
    suite: str = "retrieval,composition,hard_positives,grounding",
    roles: tuple[str, ...] = (),
    shortlist: int = 0,
    overrides: tuple[str, ...] = (),
) -> None:
    """Trains methods from one model on the same data and seeds, measures them, and prints one table; interrupted, the same line
    goes on. Any key of the recipes may be set for all of them by its dotted name, such as --optimiser.warmup_steps 10.

    wholegrain compete clip negclip ce_clip --data data/photos --seeds 0 1 2

    Args:
        recipes: names (see "wholegrain methods") or TOML files; "all" is every packaged one. The others are compared with the first.
        data: a prepared data set.
        model: where all start: small (from scratch), base, ViT-B-32:openai, a run, ...
        out: the competition's folder: runs, results, standings.csv, .md, .tex and .html.
        seeds: of training; the figures are means over them.
        rates: learning rates that every method tries, chosen by retrieval on the split val.
        seconds: equal training time of every run, in place of equal steps.
        steps: of every run.
        batch: images per step.
        lr: peak learning rate of all, in place of the recipes' own.
        split: the split to test on.
        suite: tasks or suites, separated by commas.
        roles: retrieval with captions in these roles alone.
        shortlist: models that score pairs jointly re-rank that many candidates of each query, found by the cosine; 0 is all.
    """
    from rich.console import Console

    from wholegrain.app.compete import Rules
    from wholegrain.app.compete import compete as run
    from wholegrain.errors import UserError
    from wholegrain.evaluation.suite import expand
    from wholegrain.objectives.recipe import recipe_names

    if not recipes:
        raise UserError("A competition needs recipes, such as: wholegrain compete clip negclip ce_clip --data data/photos")
    chosen = ("clip", *(name for name in recipe_names() if name != "clip")) if recipes == ("all",) else recipes
    shortcuts = {"optimiser.steps": steps, "optimiser.batch": batch, "optimiser.lr": lr}
    dotted = (*overrides, *(f"--{key}={value}" for key, value in shortcuts.items() if value is not None))
    rules = Rules(model, seeds, rates, seconds, dotted, split, expand(suite), roles, shortlist)
    console = Console()
    standings, left_out = run(chosen, data, out, rules, console.print)
    console.print(standings.as_table())
    for name, why in left_out.items():
        console.print(f"left out: {name}. {why}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"The table with intervals, and every run: {out}")
