"""Where the samples of a split lie: what a plan of their order needs to know, in a few tens of bytes a sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from wholegrain.errors import UserError


class Keys(Sequence[str]):
    """Keys as strings that are made when they are asked for."""

    def __init__(self, key_N: np.ndarray) -> None:
        self._key_N = key_N

    def __len__(self) -> int:
        return len(self._key_N)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Keys: ...
    def __getitem__(self, place: int | slice) -> str | Keys:
        return Keys(self._key_N[place]) if isinstance(place, slice) else self._key_N[place].decode()

    def __iter__(self) -> Iterator[str]:
        return (key.decode() for key in self._key_N)


@dataclass(frozen=True)
class Layout:
    """N samples, in the data set's own order.

    Attributes:
        key_N: their keys, as bytes of fixed width (``S``): 20 bytes a key, not 70.
        shard_N: int, the shard of each; samples of one shard stand together.
        source_N: int, the source of each; samples of one source stand together.
        names: of the sources.
        weights: of the sources, above 0; empty is by their sizes.
    """

    key_N: np.ndarray
    shard_N: np.ndarray
    source_N: np.ndarray
    names: tuple[str, ...] = ("",)
    weights: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.key_N)

    @property
    def keys(self) -> Keys:
        """The keys as strings."""
        return Keys(self.key_N)

    @property
    def starts(self) -> np.ndarray:
        """int64 ``[sources + 1]``: where each source begins, and the end."""
        return np.searchsorted(self.source_N, np.arange(len(self.names) + 1))


def joined(layouts: list[Layout], names: tuple[str, ...], weights: tuple[float, ...], prefixes: list[str]) -> Layout:
    """One layout of several data sets, each behind a prefix of its keys."""
    keys = [np.char.add(prefix.encode(), layout.key_N) for prefix, layout in zip(prefixes, layouts, strict=True)]
    shards, before = [], 0
    for layout in layouts:
        shards.append(layout.shard_N.astype(np.int64) + before)
        before += int(layout.shard_N.max(initial=-1)) + 1
    sources = [np.full(len(layout), number, dtype=np.int32) for number, layout in enumerate(layouts)]
    return Layout(np.concatenate(keys), np.concatenate(shards), np.concatenate(sources), names, weights)


def exact_shares(weights: tuple[float, ...], total: int) -> np.ndarray:
    """int64: ``total`` things by weight, by largest remainders (the earlier source first), so the counts add up.

    Example:
        >>> exact_shares((3, 1, 1), 12).tolist()
        [7, 3, 2]
    """
    if min(weights) <= 0:
        raise UserError(f"A weight of the data is {min(weights)}; give each a number above 0, such as photos:3 scenes:1.")
    wanted = np.array(weights, dtype=np.float64) / sum(weights) * total
    counts = np.floor(wanted).astype(np.int64)
    largest = np.argsort(counts - wanted, kind="stable")[: total - int(counts.sum())]
    counts[largest] += 1
    return counts
