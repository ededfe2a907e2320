"""``wholegrain methods``: the packaged recipes, their papers and what they need."""

from __future__ import annotations


def methods() -> None:
    """Lists the packaged recipes: their losses, the papers behind them, and what they need of data and model."""
    from rich.console import Console
    from rich.table import Table

    from wholegrain.objectives.objective import Objective
    from wholegrain.objectives.recipe import load_recipe, recipe_names

    table = Table("recipe", "losses", "needs", "paper", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in recipe_names():
        recipe = load_recipe(name)
        needed = [term for term in recipe.terms if not term.optional]
        losses = " + ".join(f"{term.weight:g} {term.name}" + ("" if term in needed else "?") for term in recipe.terms)
        table.add_row(name, losses, ", ".join(sorted(Objective(needed).needs)) or "-", recipe.paper)
    console = Console()
    console.print(table)
    console.print(
        "\nA term with ? takes part where data and model can serve it. wholegrain train NAME --data FOLDER trains by a recipe."
    )
