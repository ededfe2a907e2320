"""The part of the data that is looked at: items spread evenly over each split, the same ones every time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wholegrain.data.dataset import Dataset
from wholegrain.data.sources import RawSample, SourceOptions, open_source
from wholegrain.progress import Show, each, nowhere

TRAINED, OTHERS = 16_000, 4_000
"""Records whose captions are read: of the split that is trained on, and of each other one."""
READ = 200_000
"""Samples of a raw source that are gone through, at most."""


@dataclass(frozen=True)
class Item:
    """One image and its captions.

    Attributes:
        where: a key, or file and line, for messages.
        split: as stated.
        captions: (text, role).
        read: gives the image's bytes; raises if it cannot.
        place: names the image's bytes: the same for the same ones. Equal bytes may have two places in a raw source.
        problem: why the source cannot use it; empty if it can.
    """

    where: str
    split: str
    captions: tuple[tuple[str, str], ...]
    read: Callable[[], bytes]
    place: str
    problem: str = ""


@dataclass(frozen=True)
class DataSample:
    """What was looked at.

    Attributes:
        name: of the data, as given.
        split: the one that is trained on.
        items: by split.
        sizes: images of each split; of a raw source, samples that were gone through.
        whole: whether all of a raw source was gone through.
        dataset: if the data are prepared.
    """

    name: str
    split: str
    items: dict[str, tuple[Item, ...]]
    sizes: dict[str, int]
    whole: bool
    dataset: Dataset | None

    @property
    def trained(self) -> tuple[Item, ...]:
        """Items of the split that is trained on."""
        return self.items.get(self.split, ())

    @property
    def all(self) -> tuple[Item, ...]:
        """Items of all splits."""
        return tuple(item for items in self.items.values() for item in items)

    @property
    def sentence(self) -> str:
        """How much was looked at."""
        parts = [
            f"{len(items):,} of {self.sizes[split]:,} images of {split}"
            for split, items in self.items.items()
            if self.sizes[split]
        ]
        rest = "" if self.whole else f" (the first {READ:,} samples of the source)"
        return f"Captions of {', '.join(parts)}{rest}."


def draw_sample(
    data: str | Path, split: str = "train", options: SourceOptions | None = None, show: Show = nowhere
) -> DataSample:
    """Opens prepared data, or a raw source as ``wholegrain prepare`` takes it.

    Raises:
        UserError: there is nothing there that can be read.
    """
    if "://" in str(data) or (Path(data) / "manifest.json").is_file():
        return _prepared(str(data), Dataset(data), split, show)
    return _raw(str(data), split, options or SourceOptions(), show)


def _prepared(name: str, dataset: Dataset, split: str, show: Show) -> DataSample:
    items, sizes = {}, {}
    for known in dataset.splits:
        keys = dataset.layout(known).keys
        sizes[known] = len(keys)
        chosen = spread(len(keys), TRAINED if known == split else OTHERS)
        items[known] = tuple(_item(dataset, keys[place], known) for place in each(chosen, f"reading captions of {known}", show))
    return DataSample(name, split, items, sizes, True, dataset)


def _item(dataset: Dataset, key: str, split: str) -> Item:
    captions = tuple((caption.text, caption.role) for caption in dataset.record(key).captions)
    return Item(f"record {key}", split, captions, partial(dataset.image_bytes, key), key)


def _raw(name: str, split: str, options: SourceOptions, show: Show) -> DataSample:
    kept: dict[str, list[Item]] = {}
    counts: Counter[str] = Counter()
    stride: Counter[str] = Counter()
    whole = True
    for number, sample in enumerate(open_source(name, options)):
        show("reading the source", number, 0)
        if number >= READ:
            whole = False
            break
        its = sample.split or split  # prepare would give it one; what is not stated cannot be wrong
        own = kept.setdefault(its, [])
        if counts[its] % max(1, stride[its]) == 0:
            own.append(_sampled(sample, its))
            if len(own) > (TRAINED if its == split else OTHERS):  # every second one goes, and every second one comes
                del own[1::2]
                stride[its] = 2 * max(1, stride[its])
        counts[its] += 1
    return DataSample(name, split, {key: tuple(own) for key, own in kept.items()}, dict(counts), whole, None)


def _sampled(sample: RawSample, split: str) -> Item:
    captions = tuple((text, role) for text, role, _ in sample.captions)
    return Item(sample.where, split, captions, sample.read, sample.place, sample.problem)


def spread(total: int, most: int) -> Iterable[int]:
    """At most ``most`` of ``total`` places, evenly.

    Example:
        >>> list(spread(10, 4)), list(spread(3, 4))
        ([0, 2, 5, 7], [0, 1, 2])
    """
    return range(total) if total <= most else (place * total // most for place in range(most))
