"""``wholegrain methods``: the packaged recipes, their papers, what they need and what they cost."""

from __future__ import annotations


def methods() -> None:
    """Lists the packaged recipes: their losses, what they need of data and model, their cost, and the papers behind them."""
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    from wholegrain.app.costs import encoded, loss_work
    from wholegrain.objectives.objective import Objective
    from wholegrain.objectives.recipe import load_recipe, recipe_names

    console, progress = Console(), Console(stderr=True)
    columns = ("recipe", "losses", "needs", "encodes", "loss work", "paper")
    table = Table(*columns, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.columns[4].justify = "right"
    for name in track(recipe_names(), "counting", console=progress, transient=True):
        recipe = load_recipe(name)
        needed = [term for term in recipe.terms if not term.optional]
        losses = " + ".join(f"{term.weight:g} {term.name}" + ("" if term in needed else "?") for term in recipe.terms)
        needs = ", ".join(sorted(Objective(needed).needs)) or "-"
        table.add_row(name, losses, needs, encoded(recipe), f"{loss_work(recipe):,.0f}x", recipe.paper)
    console.print(table)
    console.print(
        "\nA term with ? takes part where data and model can serve it. Encodes: per image and step. Loss work: multiply-adds of the "
        "losses, in units\nof plain CLIP's (32 images, 49 patches, 16 tokens, width 64); towers are not in it, and cost far more than "
        "most losses.\nwholegrain train NAME --data FOLDER trains by a recipe; wholegrain compete NAMES --data FOLDER compares several."
    )
