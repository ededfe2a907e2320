"""``wholegrain bench losses``: time and memory of the losses on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from wholegrain.workflows.bench_losses import LossCosts


def bench_losses(
    *,
    sizes: tuple[int, ...] = (4096, 16384),
    images: int = 64,
    rounds: int = 3,
    out: Path | None = None,
) -> int:
    """Measures time and memory, and prints a table: contrastive losses in tiles against dense autograd, and losses over patches and
    tokens against CLIP's.

    wholegrain bench losses --sizes 4096 --out losses.json

    Args:
        sizes: images, and as many texts, of the contrastive losses.
        images: images, and as many texts, of the losses over patches and tokens.
        rounds: times that each is run; the fastest counts.
        out: a JSON file for the figures.
    """
    from rich.console import Console

    from wholegrain.errors import UserError
    from wholegrain.files import disk_errors
    from wholegrain.progress import showing

    if min((images, rounds, *sizes)) < 1:
        raise UserError("Sizes, images and rounds must be at least 1; change the option that is not.")
    if out is not None:
        with disk_errors(out):
            out.parent.mkdir(parents=True, exist_ok=True)
    with showing() as show:
        show("starting")
        from wholegrain.workflows.bench_losses import measure_losses

        costs = measure_losses(sizes, images, rounds, show=show)
    console = Console()
    _print(costs, console)
    if out is not None:
        costs.save(out)
        console.print(f"written: {out}", highlight=False, soft_wrap=True)
    return 0


def _print(costs: LossCosts, console: Console) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Column, Table

    from wholegrain.workflows.bench_losses import PAPER, PAPER_IMAGES, TOKENS, WIDTH, step_ratio

    first, style = Column("loss", min_width=16), {"box": SIMPLE_HEAD, "padding": (0, 1, 0, 0)}
    columns = ("images", "seconds", "to dense", "CPU s", "to dense", "MB", "of step")
    table = Table(first, *columns, title=f"contrastive losses, width {WIDTH}; share of a step of CLIP", **style)
    dense = {(c.name.split(",")[0], c.size): c for c in costs.core if c.name.endswith("dense")}
    for cost in costs.core:
        whole = dense[cost.name.split(",")[0], cost.size]
        share = cost.seconds and cost.seconds / (cost.size * costs.step_seconds_per_pair)
        table.add_row(
            cost.name, f"{cost.size:,}", _number(cost.seconds), _by(cost.seconds, whole.seconds), _number(cost.cpu_seconds),
            _by(cost.cpu_seconds, whole.cpu_seconds), _number(cost.megabytes, 0), "-" if share is None else f"{share:.2%}",
        )  # fmt: skip
    console.print(table)
    title = f"losses over 196 patches, {TOKENS} tokens; a step's cost by that of CLIP"
    columns = ("seconds", "by CLIP's", "MB", "step, 2k", "paper", "step, 16k", "paper")
    table = Table(Column("loss", min_width=16), *columns, title=title, **style)
    clip = next(c for c in costs.methods if c.name == "clip")
    for cost in costs.methods:
        ratios = []
        for texts in (2048, 16384):
            published = PAPER[cost.name].get(texts)
            ratios += [
                _number(step_ratio(costs, cost.name, PAPER_IMAGES * texts // 16384, texts), 3),
                _number(published and published[0] / PAPER["clip"][texts][0], 3),
            ]
        table.add_row(
            cost.name, _number(cost.seconds, 4), _by(cost.seconds, clip.seconds, 0), _number(cost.megabytes, 0), *ratios
        )
    console.print(table)
    busy = "; other programs were running" if costs.load[0] > 0.5 else ""
    console.print(f"{costs.threads} threads, torch {costs.torch}, load before {costs.load[0]:.1f}{busy}")
    console.print(f"CLIP's step (ViT-B/16, towers forward and backward, float32): {costs.step_seconds_per_pair:.2f} s a pair")


def _number(x: float | None, digits: int = 2) -> str:
    return "-" if x is None else f"{x:,.{digits}f}"


def _by(x: float | None, whole: float | None, digits: int = 2) -> str:
    return "-" if x is None or not whole else _number(x / whole, digits)
