"""Which images make up each step: a function of (seed, epoch) alone, whatever the number of workers or processes.

An epoch is a fresh permutation of the keys, cut into whole batches; the ``len(keys) % batch`` images that remain are left out of
that epoch (other ones in each epoch). The loader's whole state is one integer, the step.

*Windows.* With ``window`` above 0 the shards are shuffled, and then samples within windows of so many shards: data that lie far away
or do not fit into the page cache are read nearly in sequence. One window at a time is in use.

*Sources.* Several data sets may be mixed by weight (:class:`~wholegrain.data.mixture.Mixture`). An epoch has as many images as all
sources together, of each its exact share. Each source goes through passes of its own, every pass in a fresh order, from epoch to epoch: an
image comes at most once in a pass. With ``per_source`` each batch is of one source.

*Twins* are two images that differ in one fact. ``twin_share`` is the exact share of images, rounded to whole pairs, whose
twin is in the same batch; every other pair of twins is kept apart. The dose is spread evenly over the batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from wholegrain.data.layout import Keys, Layout, exact_shares
from wholegrain.errors import UserError
from wholegrain.training.loading.twin_doses import dosed, pairs_of

_PASS = 1  # apart from an epoch's own stream, which is [seed, epoch]


class Plan:
    """The order of samples.

    Args:
        keys: the keys of the split, in the data set's own order; or its layout, for windows and mixtures.
        batch: images per step, over all processes together.
        seed: of the order.
        twin_share: share of images, in [0, 1], whose twin is in the same batch.
        twin_of: key -> key of its twin, in both directions; keys outside ``keys`` are ignored.
        window: shards whose samples are mixed at once; 0 mixes all.
        per_source: every batch is of one source.

    Raises:
        UserError: fewer keys than one batch, more twins asked for than there are, or settings that exclude each other.

    Example:
        >>> plan = Plan(["a", "b", "c", "d", "e"], batch=2, seed=0)
        >>> plan.steps_per_epoch
        2
        >>> plan.batch(3) == Plan(["a", "b", "c", "d", "e"], batch=2, seed=0).batch(3)
        True
    """

    def __init__(
        self,
        keys: Sequence[str] | Layout,
        batch: int,
        seed: int,
        twin_share: float = 0.0,
        twin_of: Mapping[str, str] | None = None,
        window: int = 0,
        per_source: bool = False,
    ) -> None:
        layout = keys if isinstance(keys, Layout) else _layout(keys)
        if len(layout) < batch:
            most = len(layout)
            raise UserError(
                f"The split has {most} images and a batch takes {batch}; set optimiser.batch to {most} or less, as in --batch {most}."
            )
        self.layout, self.size, self.seed, self.window = layout, batch, seed, window
        self.steps_per_epoch = len(layout) // batch
        self._mixed = len(layout.names) > 1
        self._per_source = per_source and self._mixed
        self._counts = self._shares()
        self._pairs_P2 = pairs_of(self.keys, twin_of) if twin_of else np.zeros((0, 2), dtype=np.int64)
        self._paired = round(twin_share * self.steps_per_epoch * batch / 2)
        self._check_twins(twin_share)
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, dtype=np.int64))
        self._passes: dict[int, tuple[int, np.ndarray]] = {}

    @property
    def keys(self) -> Keys:
        """All keys, in the data set's own order."""
        return self.layout.keys

    def batch(self, step: int) -> list[tuple[str, int]]:
        """The (key, position) pairs of one step.

        The position counts samples from the beginning of the training, so it names epoch and place together; everything random
        about a sample is keyed by (seed, position).
        """
        epoch, place = divmod(step, self.steps_per_epoch)
        start = place * self.size
        found = self.layout.key_N[self._epoch(epoch)[start : start + self.size]].tolist()
        first = step * self.size
        return [(key.decode(), first + offset) for offset, key in enumerate(found)]

    def _shares(self) -> np.ndarray:
        """int64: images of each source in an epoch."""
        sizes = np.diff(self.layout.starts)
        weights = self.layout.weights or tuple(sizes.tolist())
        if self._per_source:
            return exact_shares(weights, self.steps_per_epoch) * self.size
        return exact_shares(weights, self.steps_per_epoch * self.size)

    def _check_twins(self, share: float) -> None:
        if not self._paired:
            return
        sizes = np.diff(self.layout.starts)
        if self._per_source or (self._mixed and bool((self._counts > sizes).any())):
            raise UserError(
                "data.twin_share needs batches of all sources and no image twice in an epoch; leave out data.per_source and weights."
            )
        most = min(len(self._pairs_P2), self.steps_per_epoch * (self.size // 2))
        if self._mixed and len(self._pairs_P2):
            owners = np.bincount(self.layout.source_N[self._pairs_P2[:, 0]], minlength=len(sizes))
            most = min(most, int(np.minimum(owners, self._counts // 2).sum()))
        if self._paired > most:
            allowed = 2 * most / (self.steps_per_epoch * self.size)
            raise UserError(f"data.twin_share is {share} and the training images allow less; set it to {int(allowed * 1000) / 1000:g}.")

    def shards(self, epoch: int) -> list[tuple[int, str]]:
        """Each shard's first step in an epoch, and the key that is wanted then, in this order."""
        order = self._epoch(epoch, keep=False)
        _, first = np.unique(self.layout.shard_N[order], return_index=True)
        first = np.sort(first)
        keys = self.layout.key_N[order[first]].tolist()
        start = epoch * self.steps_per_epoch
        return [(start + place // self.size, key.decode()) for place, key in zip(first.tolist(), keys, strict=True)]

    def _epoch(self, epoch: int, keep: bool = True) -> np.ndarray:
        kept, order = self._order
        if kept != epoch:
            random = np.random.default_rng([self.seed, epoch])
            if not self._mixed:
                order = self._shuffled(0, random)
                if len(self._pairs_P2):
                    chosen = self._pairs_P2[random.permutation(len(self._pairs_P2))[: self._paired]]
                    order = dosed(order, self._pairs_P2, chosen, self.steps_per_epoch, self.size, random, not self.window)
            elif self._paired:
                order = self._mixed_with_twins(random)
            else:
                order = self._mixture(epoch, random)
            if keep:
                self._order = (epoch, order)
        return order

    def _shuffled(self, source: int, random: np.random.Generator) -> np.ndarray:
        """A fresh order of one source's samples: shards, then samples within windows of shards; or all at once."""
        start, stop = self.layout.starts[source : source + 2]
        order = random.permutation(int(stop - start))
        if self.window:
            shard_N = self.layout.shard_N[start:stop]
            first = int(shard_N.min())
            place = random.permutation(int(shard_N.max()) - first + 1)
            # A stable sort of a permutation by window leaves a permutation within each window; 16 bits are sorted by counting.
            windows = place // self.window
            small = windows.astype(np.uint16 if len(windows) <= 2**16 else np.int64)
            order = order[np.argsort(small[shard_N[order] - first], kind="stable")]
        return order + int(start)

    def _mixture(self, epoch: int, random: np.random.Generator) -> np.ndarray:
        """The epoch of several sources: which source each place has, and the sources' next samples in these places."""
        if self._per_source:
            steps = np.repeat(np.arange(len(self._counts)), self._counts // self.size)
            source_T = np.repeat(random.permutation(steps), self.size)
        else:
            source_T = random.permutation(np.repeat(np.arange(len(self._counts)), self._counts))
        order = np.empty(len(source_T), dtype=np.int64)
        for source, count in enumerate(self._counts.tolist()):
            order[source_T == source] = self._next(source, epoch * count, count)
        return order

    def _next(self, source: int, first: int, count: int) -> np.ndarray:
        """Samples ``first`` to ``first + count`` of a source that goes through pass after pass."""
        size = int(np.diff(self.layout.starts)[source])
        parts = []
        while count:
            turn, offset = divmod(first, size)
            taken = min(count, size - offset)
            kept = self._passes.get(source)
            if kept is None or kept[0] != turn:
                random = np.random.default_rng([self.seed, turn, _PASS, source])
                kept = self._passes[source] = (turn, self._shuffled(source, random))
            parts.append(kept[1][offset : offset + taken])
            first, count = first + taken, count - taken
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)

    def _mixed_with_twins(self, random: np.random.Generator) -> np.ndarray:
        """Exact shares and an exact dose: pairs first, then of each source what its share still lacks."""
        pairs_P2 = self._pairs_P2[random.permutation(len(self._pairs_P2))]
        owner_P = self.layout.source_N[pairs_P2[:, 0]]
        room = self._counts // 2
        nth_P = np.zeros(len(pairs_P2), dtype=np.int64)  # its number among the pairs of its source
        for source in range(len(room)):
            nth_P[owner_P == source] = np.arange(int((owner_P == source).sum()))
        chosen = pairs_P2[nth_P < room[owner_P]][: self._paired]
        members = []
        for source, count in enumerate(self._counts.tolist()):
            own = chosen[self.layout.source_N[chosen[:, 0]] == source].ravel()
            order = self._shuffled(source, random)
            members += [own, order[~np.isin(order, own)][: count - len(own)]]
        order = random.permutation(np.concatenate(members))
        return dosed(order, self._pairs_P2, chosen, self.steps_per_epoch, self.size, random, True)


def _layout(keys: Sequence[str]) -> Layout:
    key_N = np.array([key.encode() for key in keys], dtype="S")
    nothing = np.zeros(len(key_N), dtype=np.int32)
    return Layout(key_N, nothing, nothing)
