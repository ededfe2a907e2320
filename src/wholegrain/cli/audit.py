"""``wholegrain audit``: what a model misses on your own photos and captions, without training."""

from __future__ import annotations

from wholegrain.workflows.commands.audit import AuditArguments


def audit(args: AuditArguments) -> None:
    """Audit a model on your own photos: a scorecard page, with controls beside every figure. Nothing is trained.

    wholegrain audit ViT-B-32:openai photos.csv

    From your captions false texts are made (another colour, number, thing, direction, who does what) and rewordings that stay true; the
    model is asked which is right. Retrieval, cut texts and heat maps stand beside.
    """
    import sys

    from rich.console import Console

    from wholegrain.evaluation.show import left_out_lines
    from wholegrain.report.audit_page import scorecard_table
    from wholegrain.workflows.commands.audit import audit as run

    found = run(args)
    console = Console()
    console.print(scorecard_table(found.lines))
    for line in left_out_lines([found.left_out]):
        print(line, file=sys.stderr)
    console.print(f"{found.facts['seconds']:.0f} s; look at {found.page}", highlight=False, soft_wrap=True)
    console.print("next: what is weak can be trained: wholegrain methods", highlight=False, soft_wrap=True)
