"""``wholegrain bench data``: how fast pictures and captions come out of the loader on this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

if TYPE_CHECKING:
    from wholegrain.workflows.bench_data import LoadingCosts


def bench_data(
    data: tyro.conf.Positional[str],
    *,
    model: str = "",
    image_size: int = 224,
    split: str = "train",
    workers: int = 2,
    batch: int = 32,
    seconds: float = 20.0,
    rounds: int = 5,
    out: Path | None = None,
) -> int:
    """Measures images a second of the loader (plan, draws, crops, tokens, batches), of bare decoding and resizing in as many
    processes, and of open_clip's own loaders on the same pictures and captions, in turns.

    wholegrain bench data data/photos --workers 4

    Args:
        data: a prepared data set.
        model: take preprocessing and tokeniser from this model; by default CLIP's at "--image-size".
        image_size: side of the square that pictures are resized to, without "--model".
        split: of the data.
        workers: processes of every rival.
        batch: images in a batch.
        seconds: that each rival is measured, over all rounds together.
        rounds: turns of each rival.
        out: a JSON file for the figures.
    """
    from rich.console import Console

    from wholegrain.errors import UserError
    from wholegrain.files import disk_errors
    from wholegrain.progress import showing

    if min(workers, batch, rounds, seconds) <= 0:
        raise UserError("Workers, batch, rounds and seconds must be above 0; change the option that is not.")
    if out is not None:
        with disk_errors(out):
            out.parent.mkdir(parents=True, exist_ok=True)
    with showing() as show:
        show("starting")
        from wholegrain.data.dataset import Dataset
        from wholegrain.data.preprocess import Preprocess
        from wholegrain.text.tokenizer import ClipTokenizer
        from wholegrain.workflows.bench_data import measure_loading

        preprocess, tokenizer = Preprocess(image_size), ClipTokenizer()
        if model:
            from wholegrain.towers.io import load_model

            loaded = load_model(model)
            preprocess, tokenizer = loaded.preprocess, loaded.tokenizer

        def say(sentence: str) -> None:
            show.clear()
            print(sentence, file=sys.stderr)

        costs = measure_loading(Dataset(data), preprocess, tokenizer, split, workers, batch, seconds, rounds, say, show)
    console = Console()
    _print(costs, console)
    if out is not None:
        costs.save(out)
        console.print(f"written: {out}", highlight=False, soft_wrap=True)
    return 0


def _print(costs: LoadingCosts, console) -> None:
    from statistics import median

    from rich.box import SIMPLE_HEAD
    from rich.table import Column, Table

    side = costs.pixels**0.5
    title = f"loading: {costs.workers} workers, batches of {costs.batch}, to {costs.image_size} x {costs.image_size}"
    columns = [Column(name, justify="right") for name in ("images/s", "of bare", "per CPU s", "of bare", "rounds")]
    table = Table(Column("", min_width=22), *columns, title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for rival, rates in costs.rates.items():
        cpu = median(costs.cpu_rates[rival])
        ratios = (f"{costs.ratio(rival, cpu=on):.2f}" for on in (False, True))
        table.add_row(
            rival, f"{median(rates):,.0f}", next(ratios), f"{cpu:,.0f}", next(ratios), " ".join(f"{x:,.0f}" for x in rates)
        )
    console.print(table)
    console.print(f"{costs.images:,} images of {side:.0f} x {side:.0f} pixels in the mean, {costs.bytes / 1024:,.1f} kB each")
    console.print(
        f'load before {costs.load:.1f}, torch {costs.torch}; "Pillow" decodes and resizes as evaluation does, bit for bit'
    )
