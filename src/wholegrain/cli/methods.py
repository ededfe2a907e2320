"""``wholegrain methods``: the packaged recipes, their papers, what they need and what they cost."""

from __future__ import annotations


def methods() -> None:
    """Lists the packaged recipes: their losses, what they need of data and model, their cost, and the papers behind them.

    wholegrain methods
    """
    from rich.console import Console
    from rich.table import Column, Table

    from wholegrain.progress import each, showing

    console = Console(highlight=False)
    most = {"needs": 10, "encodes": 9, "paper": 14} if console.width < 120 else {}  # so that no name is cut on 80 columns
    table = Table(Column("recipe", no_wrap=True), "losses", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("needs", "encodes", "work", "paper"):
        table.add_column(name, max_width=most.get(name), justify="right" if name == "work" else "left")
    with showing() as show:
        show("starting")
        from wholegrain.objectives.objective import Objective
        from wholegrain.objectives.recipe import load_recipe, recipe_names
        from wholegrain.workflows.costs import encoded, loss_work

        for name in each(recipe_names(), "counting what recipes cost", show):
            recipe = load_recipe(name)
            needed = [term for term in recipe.terms if not term.optional]
            losses = " + ".join(f"{term.weight:g} {term.name}" + ("" if term in needed else "?") for term in recipe.terms)
            needs = ", ".join(sorted(Objective(needed).needs)) or "-"
            table.add_row(name, losses, needs, encoded(recipe), f"{loss_work(recipe):,.0f}x", recipe.paper)
    console.print(table)
    console.print(
        "\nA term with ? takes part where data and model can serve it. Encodes: per image and step. Work: multiply-adds of the "
        "losses, in units of plain CLIP's (32 images, 49 patches, 16 tokens, width 64); towers are not in it, and cost far more than "
        "most losses."
    )
    console.print("\nTrain by one:     wholegrain train clip --data data/photos", soft_wrap=True)
    console.print("Compare several:  wholegrain compete clip negclip ce_clip --data data/photos", soft_wrap=True)
