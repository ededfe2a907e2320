"""What loading costs: images a second of our loader, of bare decoding and resizing, and of open_clip's own loaders.

All rivals see the same pictures and captions, with as many worker processes, and take turns in rounds, for other programs disturb
one round more than another; medians are compared. *Bare* is what must be done at least: processes that read, decode and resize with
the same functions as the loader, without captions, batches or a second process that wants them. Every turn starts new workers, so no
tokeniser remembers a text; what they take to start is not counted.
"""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import statistics
import tarfile
import tempfile
import time
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any

import torch

from wholegrain.data.dataset import Dataset
from wholegrain.data.pictures import decode_rgb
from wholegrain.data.preprocess import Preprocess
from wholegrain.files import disk_errors, write_json
from wholegrain.objectives.schema import DataRecipe
from wholegrain.progress import Show, nowhere
from wholegrain.text.tokenizer import Tokenizer
from wholegrain.training.loading.loader import DrawnSamples, PlanSampler, make_loader, names_of
from wholegrain.training.loading.plan import Plan

BARE, OURS = "bare", "wholegrain"
CROP = (0.9, 1.0)  # open_clip's
MOST = 10_000  # images that are copied for open_clip
Speed = tuple[float, float]  # images a second, and images a second of all processors' time
Turn = Callable[[float], Speed]  # seconds -> what was reached in them


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
    split: str = "train",
    workers: int = 2,
    batch: int = 32,
    seconds: float = 20.0,
    rounds: int = 5,
    say: Callable[[str], None] = print,
    show: Show = nowhere,
) -> LoadingCosts:
    """Measures all rivals that are installed.

    Args:
        dataset: prepared data.
        preprocess, tokenizer: the model's.
        split: of the data.
        workers: processes of every rival.
        batch: images in a batch.
        seconds: that each rival is measured, over all rounds together.
        rounds: turns of each rival.
        say: told which rival is left out, and why.
        show: is shown what is being measured.
    """
    load, keys = os.getloadavg()[0], dataset.keys(split)
    turn = seconds / rounds
    with tempfile.TemporaryDirectory(prefix="wholegrain-bench-") as folder:
        rivals: dict[str, Turn] = {
            BARE: partial(_bare, dataset, preprocess.quick, keys, workers),
            "bare, Pillow": partial(_bare, dataset, preprocess.image, keys, workers),
            OURS: partial(_ours, dataset, preprocess, tokenizer, split, workers, batch),
        }
        show("copying pictures for open_clip's loaders", 0, 0)
        rivals |= _open_clip(dataset, preprocess, keys[:MOST], workers, batch, Path(folder), say)
        speeds: dict[str, list[Speed]] = {name: [] for name in rivals}
        for number in range(rounds):
            for name in list(speeds):
                show(f"measuring for {turn:.3g} s each: {name}", number, rounds)
                gc.collect()  # of the workers of the turn before, here and not in the next ones
                try:
                    speeds[name].append(rivals[name](turn))
                except Exception as error:
                    if not name.startswith("open_clip"):
                        raise
                    say(f"{name} fails and is left out ({str(error).strip().splitlines()[-1]}); see its requirements")
                    del speeds[name]
    records, sizes = [dataset.record(key).size for key in keys[:1000]], [len(dataset.image_bytes(key)) for key in keys[:1000]]
    pixels = statistics.mean(width * height for width, height in records)
    facts = {"images": len(keys), "pixels": pixels, "bytes": statistics.mean(sizes), "image_size": preprocess.size}
    wall, cpu = ({name: [speed[which] for speed in found] for name, found in speeds.items()} for which in (0, 1))
    return LoadingCosts(wall, cpu, **facts, workers=workers, batch=batch, load=load, torch=torch.__version__)


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


def _ours(
    dataset: Dataset, preprocess: Preprocess, tokenizer: Tokenizer, split: str, workers: int, batch: int, seconds: float
) -> Speed:
    recipe = replace(DataRecipe(), crop_scale=CROP, split=split)
    names = names_of(dataset, recipe)
    samples = DrawnSamples(dataset, preprocess, recipe, names, seed=0)
    plan = Plan(dataset.keys(split), batch, seed=0)
    loader = make_loader(samples, PlanSampler(plan, 0, 10**9), tokenizer, names, workers=workers)
    return _speed(loader, lambda drawn: len(drawn.keys), workers, seconds)


def _speed(batches: Iterable[Any], images: Callable[[Any], int], workers: int, seconds: float) -> Speed:
    """Of one who takes every batch as soon as it is there; the first ones, made beforehand, do not count."""
    iterator = iter(batches)
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


def _open_clip(
    dataset: Dataset, preprocess: Preprocess, keys: list[str], workers: int, batch: int, folder: Path, say: Callable[[str], None]
) -> dict[str, Turn]:
    """open_clip's trainer's two loaders at their defaults, on copies of the pictures in the forms that they read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from open_clip_train.data import get_csv_dataset, get_wds_dataset
    except ImportError as missing:
        say(f"open_clip's loaders are left out ({missing}); install them with: pip install 'wholegrain[bench]'")
        return {}
    from open_clip import get_tokenizer, image_transform

    size, mean, std = preprocess.size, preprocess.mean, preprocess.std
    transform: Any = image_transform(size, is_train=True, mean=mean, std=std)
    tokenizer = get_tokenizer("ViT-B-32")
    common = {"workers": workers, "batch_size": batch, "world_size": 1, "seed": 0, "distributed": False}
    table = {"train_data": str(_csv(dataset, keys, folder)), "csv_img_key": "filepath", "csv_caption_key": "title"}
    shards = {"train_data": _tars(dataset, keys, folder, workers), "train_num_samples": 10**9, "dataset_resampled": False}
    csv_args = Namespace(**common, **table, csv_separator="\t")
    wds_args = Namespace(**common, **shards, train_data_upsampling_factors=None)

    def measure(make: Callable[..., Any], args: Namespace, seconds: float) -> Speed:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is no GPU to pin memory for
            logging.disable(logging.WARNING)
            try:
                loader = make(args, transform, is_train=True, tokenizer=tokenizer).dataloader
                return _speed(loader, lambda drawn: len(drawn[0]), workers, seconds)
            finally:
                logging.disable(logging.NOTSET)

    return {
        "open_clip, WebDataset": partial(measure, get_wds_dataset, wds_args),
        "open_clip, CSV": partial(measure, get_csv_dataset, csv_args),
    }


def _csv(dataset: Dataset, keys: list[str], folder: Path) -> Path:
    """Picture files and a table of all captions, in open_clip's columns; long enough for any turn to be within one epoch."""
    rows = []
    for key in keys:
        record = dataset.record(key)
        file = folder / record.image
        file.write_bytes(dataset.image_bytes(key))
        rows += [f"{file}\t{' '.join(caption.text.replace(chr(34), '').split())}" for caption in record.captions]
    table = folder / "captions.tsv"
    rows *= -(-200_000 // len(rows))
    table.write_text("filepath\ttitle\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return table


def _tars(dataset: Dataset, keys: list[str], folder: Path, workers: int) -> str:
    """WebDataset shards with a picture and its first caption, two a worker."""
    shards = max(2, 2 * workers)
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:04d}.tar", "w") as tar:
            for key in keys[shard::shards]:
                record = dataset.record(key)
                ending = Path(record.image).suffix
                for name, data in ((ending, dataset.image_bytes(key)), (".txt", record.captions[0].text.encode())):
                    info = tarfile.TarInfo(key + name)
                    info.size = len(data)
                    tar.addfile(info, BytesIO(data))
    return f"{folder}/{{0000..{shards - 1:04d}}}.tar"
