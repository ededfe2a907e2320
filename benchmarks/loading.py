"""What loading costs: images a second of our loader, of bare decoding and resizing, and of open_clip's own loaders.

All rivals see the same pictures and captions, with as many worker processes, and take turns in rounds, for other programs disturb
one round more than another; medians are compared. *Bare* is what must be done at least: processes that read, decode and resize with
the same functions as the loader, without captions, batches or a second process that wants them. Every turn starts new workers, so no
tokeniser remembers a text; what they take to start is not counted.

    python -m benchmarks.loading data/photos --workers 4
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from benchmarks.open_clip_loaders import open_clip_loaders
from wholegrain.cli.main import main_of
from wholegrain.data.dataset import Dataset
from wholegrain.data.pictures import decode_rgb
from wholegrain.data.preprocess import Preprocess
from wholegrain.errors import UserError
from wholegrain.files import disk_errors, write_json
from wholegrain.objectives.schema import DataRecipe
from wholegrain.progress import Show, nowhere, showing
from wholegrain.text.tokenizer import ClipTokenizer, Tokenizer
from wholegrain.towers.io import load_model
from wholegrain.training.loading.loader import DrawnSamples, PlanSampler, make_loader, names_of
from wholegrain.training.loading.plan import Plan

BARE, OURS = "bare", "wholegrain"
CROP = (0.9, 1.0)  # open_clip's
MOST = 10_000  # images that are copied for open_clip
Speed = tuple[float, float]  # images a second, and images a second of all processors' time
Turn = Callable[[float], Speed]  # seconds -> what was reached in them


@dataclass(frozen=True)
class LoadingSetting:
    """What all rivals have in common.

    Attributes:
        split: of the data.
        workers: processes of every rival.
        batch: images in a batch.
        seconds: that each rival is measured, over all rounds together.
        rounds: turns of each rival.
    """

    split: str = "train"
    workers: int = 2
    batch: int = 32
    seconds: float = 20.0
    rounds: int = 5


@dataclass(frozen=True)
class LoadingCosts:
    """What was measured.

    Attributes:
        rates: rival -> images a second, round by round.
        cpu_rates: the same by the time that processors spent on it, in all its processes: other programs disturb this less.
        images, pixels, bytes: how many there are, and their mean number of pixels and of bytes.
        image_size: the side that they are resized to.
        workers, batch: processes, and images in a batch.
        load: of the machine when it began (one-minute average).
        torch: its version.
    """

    rates: dict[str, list[float]]
    cpu_rates: dict[str, list[float]]
    images: int
    pixels: float
    bytes: float
    image_size: int
    workers: int
    batch: int
    load: float
    torch: str

    def ratio(self, rival: str, to: str = BARE, cpu: bool = False) -> float:
        """The median over the rounds of one's rate by another's in the same round."""
        rates = self.cpu_rates if cpu else self.rates
        return statistics.median(a / b for a, b in zip(rates[rival], rates[to], strict=True))

    def save(self, file: Path) -> None:
        """Writes JSON."""
        with disk_errors(file):
            write_json(file, asdict(self))


def measure_loading(
    dataset: Dataset,
    preprocess: Preprocess,
    tokenizer: Tokenizer,
    setting: LoadingSetting = LoadingSetting(),
    say: Callable[[str], None] = print,
    show: Show = nowhere,
) -> LoadingCosts:
    """Measures all rivals that are installed.

    Args:
        dataset: prepared data.
        preprocess, tokenizer: the model's.
        setting: what the rivals share.
        say: told which rival is left out, and why.
        show: is shown what is being measured.
    """
    load, keys = os.getloadavg()[0], dataset.keys(setting.split)
    with tempfile.TemporaryDirectory(prefix="wholegrain-bench-") as folder:
        rivals: dict[str, Turn] = {
            BARE: partial(_bare, dataset, preprocess.quick, keys, setting.workers),
            "bare, Pillow": partial(_bare, dataset, preprocess.image, keys, setting.workers),
            OURS: partial(_ours, dataset, preprocess, tokenizer, setting),
        }
        show("copying pictures for open_clip's loaders", 0, 0)
        loaders = open_clip_loaders(dataset, keys[:MOST], preprocess, setting.workers, setting.batch, Path(folder), say)
        for name, batches in loaders.items():
            rivals[name] = partial(_speed, batches, lambda batch: len(batch[0]), setting.workers)
        speeds = _in_turns(rivals, setting, say, show)
    records, sizes = [dataset.record(key).size for key in keys[:1000]], [len(dataset.image_bytes(key)) for key in keys[:1000]]
    pixels = statistics.mean(width * height for width, height in records)
    facts = {"images": len(keys), "pixels": pixels, "bytes": statistics.mean(sizes), "image_size": preprocess.size}
    wall, cpu = ({name: [speed[which] for speed in found] for name, found in speeds.items()} for which in (0, 1))
    return LoadingCosts(wall, cpu, **facts, workers=setting.workers, batch=setting.batch, load=load, torch=torch.__version__)


def _in_turns(
    rivals: dict[str, Turn], setting: LoadingSetting, say: Callable[[str], None], show: Show
) -> dict[str, list[Speed]]:
    turn = setting.seconds / setting.rounds
    speeds: dict[str, list[Speed]] = {name: [] for name in rivals}
    for number in range(setting.rounds):
        for name in list(speeds):
            show(f"measuring for {turn:.3g} s each: {name}", number, setting.rounds)
            gc.collect()  # of the workers of the turn before, here and not in the next ones
            try:
                speeds[name].append(rivals[name](turn))
            except Exception as error:
                if not name.startswith("open_clip"):
                    raise
                say(f"{name} fails and is left out ({str(error).strip().splitlines()[-1]}); see its requirements")
                del speeds[name]
    return speeds


def _bare(dataset: Dataset, resize: Callable[[Any], Any], keys: list[str], workers: int, seconds: float) -> Speed:
    """Processes that do nothing but read, decode and resize."""
    context = multiprocessing.get_context("fork")
    ready, done = context.Barrier(workers), context.SimpleQueue()

    def work(number: int) -> None:
        torch.set_num_threads(1)
        own = keys[number::workers] or keys
        for key in own[:16]:
            resize(dataset.pixels(key))
        ready.wait()
        start, spent = time.perf_counter(), time.process_time()
        for images in count():
            if time.perf_counter() - start >= seconds:
                break
            resize(decode_rgb(dataset.image_bytes(own[images % len(own)])))
        done.put((images, images / (time.perf_counter() - start), time.process_time() - spent))

    processes = [context.Process(target=work, args=(number,)) for number in range(workers)]
    for process in processes:
        process.start()
    images, rates, spent = zip(*(done.get() for _ in processes), strict=True)
    for process in processes:
        process.join()
    return sum(rates), sum(images) / sum(spent)


def _ours(dataset: Dataset, preprocess: Preprocess, tokenizer: Tokenizer, setting: LoadingSetting, seconds: float) -> Speed:
    recipe = replace(DataRecipe(), crop_scale=CROP, split=setting.split)
    names = names_of(dataset, recipe)
    samples = DrawnSamples(dataset, preprocess, recipe, names, seed=0)
    plan = Plan(dataset.keys(setting.split), setting.batch, seed=0)
    loader = make_loader(samples, PlanSampler(plan, 0, 10**9), tokenizer, names, workers=setting.workers)
    return _speed(lambda: loader, lambda drawn: len(drawn.keys), setting.workers, seconds)


def _speed(
    batches: Callable[[], Iterable[Any]], images: Callable[[Any], int], workers: int, seconds: float
) -> Speed:
    """Of one who takes every batch as soon as it is there; the first ones, made beforehand, do not count."""
    iterator = iter(batches())
    for _ in range(2 * workers):
        next(iterator)
    taken, start, spent = 0, time.perf_counter(), _processor_seconds()
    while (passed := time.perf_counter() - start) < seconds or not taken:
        taken += images(next(iterator))
    return taken / passed, taken / (_processor_seconds() - spent)


def _processor_seconds() -> float:
    """What this process and its living children have used; this process alone where there is no ``/proc``."""
    spent = 0.0
    for child in multiprocessing.active_children():
        with suppress(OSError, ValueError):
            words = Path(f"/proc/{child.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            spent += (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
    return spent + time.process_time()


@dataclass(frozen=True, kw_only=True)
class LoadingArguments:
    """The words and options of ``python -m benchmarks.loading``.

    Attributes:
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

    data: tyro.conf.Positional[str]
    model: str = ""
    image_size: int = 224
    split: str = "train"
    workers: int = 2
    batch: int = 32
    seconds: float = 20.0
    rounds: int = 5
    out: Path | None = None


def loading(args: LoadingArguments) -> int:
    """Measures images a second of the loader (plan, draws, crops, tokens, batches), of bare decoding and resizing in as many
    processes, and of open_clip's own loaders on the same pictures and captions, in turns.

    python -m benchmarks.loading data/photos --workers 4
    """
    if min(args.workers, args.batch, args.rounds, args.seconds) <= 0:
        raise UserError("Workers, batch, rounds and seconds must be above 0; change the option that is not.")
    if args.out is not None:
        with disk_errors(args.out):
            args.out.parent.mkdir(parents=True, exist_ok=True)
    setting = LoadingSetting(args.split, args.workers, args.batch, args.seconds, args.rounds)
    with showing() as show:
        show("starting")
        preprocess, tokenizer = Preprocess(args.image_size), ClipTokenizer()
        if args.model:
            loaded = load_model(args.model)
            preprocess, tokenizer = loaded.preprocess, loaded.tokenizer

        def say(sentence: str) -> None:
            show.clear()
            print(sentence, file=sys.stderr)

        costs = measure_loading(Dataset(args.data), preprocess, tokenizer, setting, say, show)
    console = Console()
    _print(costs, console)
    if args.out is not None:
        costs.save(args.out)
        console.print(f"written: {args.out}", highlight=False, soft_wrap=True)
    return 0


def _print(costs: LoadingCosts, console: Console) -> None:
    side = costs.pixels**0.5
    title = f"loading: {costs.workers} workers, batches of {costs.batch}, to {costs.image_size} x {costs.image_size}"
    columns = [Column(name, justify="right") for name in ("images/s", "of bare", "per CPU s", "of bare", "rounds")]
    table = Table(Column("", min_width=22), *columns, title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for rival, rates in costs.rates.items():
        cpu = statistics.median(costs.cpu_rates[rival])
        ratios = (f"{costs.ratio(rival, cpu=on):.2f}" for on in (False, True))
        table.add_row(
            rival, f"{statistics.median(rates):,.0f}", next(ratios), f"{cpu:,.0f}", next(ratios), " ".join(f"{x:,.0f}" for x in rates)
        )
    console.print(table)
    console.print(f"{costs.images:,} images of {side:.0f} x {side:.0f} pixels in the mean, {costs.bytes / 1024:,.1f} kB each")
    console.print(
        f'load before {costs.load:.1f}, torch {costs.torch}; "Pillow" decodes and resizes as evaluation does, bit for bit'
    )


if __name__ == "__main__":
    main_of(loading, "python -m benchmarks.loading")
