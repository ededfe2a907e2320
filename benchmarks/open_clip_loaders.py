"""open_clip's trainer's two loaders at their defaults, on copies of the pictures in the forms that they read."""

from __future__ import annotations

import logging
import tarfile
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from wholegrain.data.dataset import Dataset
from wholegrain.data.preprocess import Preprocess


def open_clip_loaders(
    dataset: Dataset,
    keys: list[str],
    preprocess: Preprocess,
    workers: int,
    batch: int,
    folder: Path,
    say: Callable[[str], None],
) -> dict[str, Callable[[], Iterator[Any]]]:
    """Name -> what starts the loader; none where open_clip's trainer is not installed, which ``say`` is told.

    Args:
        keys: of the pictures that are copied.
        workers: processes of a loader.
        batch: images in a batch.
        folder: for the copies.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from open_clip_train.data import get_csv_dataset, get_wds_dataset
    except ImportError as missing:
        say(f"open_clip's loaders are left out ({missing}); install them with: pip install -e '.[dev]'")
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

    def batches(make: Callable[..., Any], args: Namespace) -> Iterator[Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is no GPU to pin memory for
            logging.disable(logging.WARNING)
            try:
                yield from make(args, transform, is_train=True, tokenizer=tokenizer).dataloader
            finally:
                logging.disable(logging.NOTSET)

    return {
        "open_clip, WebDataset": partial(batches, get_wds_dataset, wds_args),
        "open_clip, CSV": partial(batches, get_csv_dataset, csv_args),
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
