"""Several prepared data sets as one, with a weight each: ``photos:3 scenes:1``.

A key is ``NAME:KEY``, NAME being the data set's folder, so keys are unique; pictures with the same bytes are still known to be the same.
What training asks of a :class:`~wholegrain.data.dataset.Dataset` a :class:`Mixture` answers, too; the shares are the plan's affair.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from wholegrain.data.dataset import Dataset
from wholegrain.data.layout import Layout, joined
from wholegrain.data.manifest import Manifest
from wholegrain.data.record import HardPositive, Negative, Record, Twin
from wholegrain.errors import UserError


def open_data(given: str | Path | Sequence[str | Path]) -> Dataset:
    """A data set, or a mixture where several are named or one has a weight.

    Args:
        given: folders or addresses of prepared data sets, each with ``:WEIGHT`` behind it or without; weights for all or for none. Without
            weights every data set counts by its size.

    Raises:
        UserError: a data set cannot be read, or a weight is missing.
    """
    sources = [given] if isinstance(given, str | Path) else list(given)
    parts = [weighted(str(source)) for source in sources]
    if len(parts) == 1:
        return Dataset(parts[0][0])
    weights = [weight for _, weight in parts if weight is not None]
    if weights and len(weights) < len(parts):
        raise UserError(f"Give every data set a weight or none: {' '.join(map(str, sources))} has some without.")
    return Mixture([Dataset(folder) for folder, _ in parts], weights)


def weighted(source: str) -> tuple[str, float | None]:
    """A data set's name, and the weight behind it.

    Example:
        >>> weighted("data/photos:2.5"), weighted("s3://bucket/photos")
        (('data/photos', 2.5), ('s3://bucket/photos', None))
    """
    name, colon, last = source.rpartition(":")
    try:
        return (name, float(last)) if colon and name and not last.startswith("/") else (source, None)
    except ValueError:
        return source, None


def absolute(source: str) -> str:
    """The same from any folder: what a run notes down, to find its data again."""
    if "://" in source:
        return source
    name, weight = weighted(source)
    return str(Path(name).resolve()) + (f":{weight:g}" if weight is not None else "")


class Mixture(Dataset):
    """Data sets in an order that counts: the plan's streams are theirs by number.

    Args:
        datasets: two or more.
        weights: above 0, one for each; empty is by size.

    Attributes:
        names: of the data sets, each another.
    """

    def __init__(self, datasets: Sequence[Dataset], weights: Sequence[float] = ()) -> None:
        self.datasets, self.weights, self.remote = tuple(datasets), tuple(weights), None
        wrong = [weight for weight in self.weights if not 0 < weight < math.inf]
        if wrong:
            raise UserError(
                f"A weight of the data is {wrong[0]}; give each a number above 0, such as photos:3 scenes:1."
            )
        self.names = _distinct([dataset.name for dataset in datasets])
        self.folder = Path(self.name)
        self._of = dict(zip(self.names, self.datasets, strict=True))
        self.manifest = self._joined()

    def __getstate__(self) -> tuple[tuple[Dataset, ...], tuple[float, ...]]:
        return self.datasets, self.weights

    def __setstate__(self, state: tuple[tuple[Dataset, ...], tuple[float, ...]]) -> None:
        self.__init__(*state)

    def __repr__(self) -> str:
        return f"Mixture({list(self.datasets)!r}, {self.weights!r})"

    def __len__(self) -> int:
        """Number of records in all splits of all data sets."""
        return sum(map(len, self.datasets))

    def __contains__(self, key: str) -> bool:
        name, _, own = key.partition(":")
        return name in self._of and own in self._of[name]

    @property
    def name(self) -> str:
        """All names, joined."""
        return "+".join(self.names)

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that any of the data sets has."""
        return tuple(dict.fromkeys(split for dataset in self.datasets for split in dataset.splits))

    def _having(self, split: str) -> list[tuple[str, Dataset]]:
        found = [(name, dataset) for name, dataset in self._of.items() if split in dataset.splits]
        if not found:
            raise UserError(f"none of {', '.join(self.names)} has a split {split!r}; they have {', '.join(self.splits)}")
        return found

    def keys(self, split: str) -> list[str]:
        """The keys of a split, data set by data set."""
        return [f"{name}:{key}" for name, dataset in self._having(split) for key in dataset.keys(split)]

    def layout(self, split: str) -> Layout:
        """Where the samples of a split lie. Data sets without that split take no part."""
        having = self._having(split)
        weight = dict(zip(self.names, self.weights, strict=False))
        names = tuple(name for name, _ in having)
        weights = tuple(weight[name] for name in names) if self.weights else ()
        return joined([dataset.layout(split) for _, dataset in having], names, weights, [f"{name}:" for name in names])

    def _find(self, key: str) -> tuple[Dataset, str, str]:
        name, _, own = key.partition(":")
        if name not in self._of:
            raise KeyError(f"{', '.join(self.names)} have no record {key}")
        return self._of[name], name, own

    def record(self, key: str) -> Record:
        """The record of a key, under this key."""
        dataset, _, own = self._find(key)
        return replace(dataset.record(own), key=key)

    def original(self, key: str) -> Record:
        """The record of a key as it was prepared, under this key."""
        dataset, _, own = self._find(key)
        return replace(dataset.original(own), key=key)

    @property
    def roles(self) -> dict[str, int]:
        """Role -> number of captions in all data sets; empty where one of them does not count roles."""
        each = [dataset.roles for dataset in self.datasets]
        return dict(sorted(sum(map(Counter, each), Counter[str]()).items())) if all(each) else {}

    def records(self, split: str) -> Iterator[Record]:
        """The records of a split, in the order of :meth:`keys`."""
        return map(self.record, self.keys(split))

    @property
    def far(self) -> bool:
        """Whether shards of any data set may have to be fetched."""
        return any(dataset.far for dataset in self.datasets)

    def fetch(self, key: str) -> None:
        """Has the shard of this key at hand, where it lies far away."""
        dataset, _, own = self._find(key)
        dataset.fetch(own)

    def image_bytes(self, key: str) -> bytes:
        """The image's file, byte for byte as it was given."""
        dataset, _, own = self._find(key)
        return dataset.image_bytes(own)

    def pixels(self, key: str) -> np.ndarray:
        """The decoded image: uint8 RGB ``[H, W, 3]``."""
        dataset, _, own = self._find(key)
        return dataset.pixels(own)

    def _joined(self) -> Manifest:
        """Counts of all together, and the manifests of each under ``sources``."""
        splits: dict[str, Counter[str]] = {}
        for dataset in self.datasets:
            for split, counts in dataset.manifest["splits"].items():
                splits.setdefault(split, Counter()).update(counts)
        added: dict[str, object] = {}
        for name in ("captions_per_image", "roles"):
            total: Counter[str] = Counter()
            for dataset in self.datasets:
                total.update(dataset.manifest.get(name) or {})
            added[name] = dict(sorted(total.items()))
        sources = {name: dataset.manifest for name, dataset in self._of.items()}
        counted = {split: dict(counts) for split, counts in splits.items()}
        return {"schema": self.datasets[0].manifest["schema"], "splits": counted, **added, "sources": sources}

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 (hex) of the data sets' hashes, names and weights."""
        hashes = [[name, dataset.content_hash] for name, dataset in self._of.items()]
        return hashlib.sha256(json.dumps([hashes, list(self.weights)]).encode()).hexdigest()

    @cached_property
    def negatives(self) -> Mapping[tuple[str, str], tuple[Negative, ...]]:
        """(key, caption id) -> its hard negatives."""
        return _Negatives(self._of)

    @cached_property
    def negative_kinds(self) -> tuple[str, ...]:
        """The kinds of hard negatives that any of the data sets has, sorted."""
        return tuple(sorted({kind for dataset in self.datasets for kind in dataset.negative_kinds}))

    @cached_property
    def twins(self) -> tuple[Twin, ...]:
        """Composition test items of all data sets."""
        return tuple(
            replace(twin, item=f"{name}:{twin.item}", keys=(f"{name}:{twin.keys[0]}", f"{name}:{twin.keys[1]}"))
            for name, dataset in self._of.items()
            for twin in dataset.twins
        )

    @cached_property
    def hard_positives(self) -> tuple[HardPositive, ...]:
        """Test items of two true wordings and a false one."""
        return tuple(
            replace(item, item=f"{name}:{item.item}", key=f"{name}:{item.key}")
            for name, dataset in self._of.items()
            for item in dataset.hard_positives
        )

    @cached_property
    def truths(self) -> dict[str, tuple[str, ...]]:
        """Caption id -> keys of further images of which that caption is true."""
        found: dict[str, tuple[str, ...]] = {}
        for name, dataset in self._of.items():
            for caption, keys in dataset.truths.items():
                found[caption] = (*found.get(caption, ()), *(f"{name}:{key}" for key in keys))
        return found


class _Negatives(Mapping[tuple[str, str], tuple[Negative, ...]]):
    def __init__(self, datasets: Mapping[str, Dataset]) -> None:
        self._of = {name: dataset.negatives for name, dataset in datasets.items()}

    def __getitem__(self, pair: tuple[str, str]) -> tuple[Negative, ...]:
        name, _, own = pair[0].partition(":")
        if name not in self._of:
            raise KeyError(pair)
        return tuple(replace(row, key=pair[0]) for row in self._of[name][own, pair[1]])

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for name, rows in self._of.items():
            for key, caption in rows:
                yield f"{name}:{key}", caption

    def __len__(self) -> int:
        return sum(map(len, self._of.values()))


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """The names, with a number behind those that came before."""
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        plain = name.replace(":", "-")
        seen[plain] += 1
        found.append(plain if seen[plain] == 1 else f"{plain}-{seen[plain]}")
    return tuple(found)
