"""Which images make up each step: a function of (seed, epoch) alone, whatever the number of workers or processes.

An epoch is a fresh permutation of the keys, cut into whole batches; the ``len(keys) % batch`` images that remain are left out of
that epoch (other ones in each epoch). The loader's whole state is one integer, the step.

Two images are *twins* if they differ in one fact. ``twin_share`` is the exact share of images, rounded to whole pairs, whose
twin is in the same batch; every other pair of twins is kept apart. The dose is spread evenly over the batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from wholegrain.errors import UserError


class Plan:
    """The order of samples.

    Args:
        keys: the keys of the split, in the data set's own order.
        batch: images per step, over all processes together.
        seed: of the order.
        twin_share: share of images, in [0, 1], whose twin is in the same batch.
        twin_of: key -> key of its twin, in both directions; keys outside ``keys`` are ignored.

    Raises:
        UserError: fewer keys than one batch, or more twins asked for than there are.

    Example:
        >>> plan = Plan(["a", "b", "c", "d", "e"], batch=2, seed=0)
        >>> plan.steps_per_epoch
        2
        >>> plan.batch(3) == Plan(["a", "b", "c", "d", "e"], batch=2, seed=0).batch(3)
        True
    """

    def __init__(
        self, keys: Sequence[str], batch: int, seed: int, twin_share: float = 0.0, twin_of: Mapping[str, str] | None = None
    ) -> None:
        if len(keys) < batch:
            raise UserError(
                f"The split has {len(keys)} images and a batch takes {batch}; set optimiser.batch to {len(keys)} or less."
            )
        self.keys = list(keys)
        self.size = batch
        self.seed = seed
        self.steps_per_epoch = len(keys) // batch
        self._pairs_P2 = _pairs(self.keys, twin_of or {})
        self._paired = round(twin_share * self.steps_per_epoch * batch / 2)
        most = min(len(self._pairs_P2), self.steps_per_epoch * (batch // 2))
        if self._paired > most:
            share = 2 * most / (self.steps_per_epoch * batch)
            raise UserError(f"data.twin_share is {twin_share} and the training images allow {share:.3f} at most; lower it.")
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, dtype=np.int64))

    def batch(self, step: int) -> list[tuple[str, int]]:
        """The (key, position) pairs of one step.

        The position counts samples from the beginning of the training, so it names epoch and place together; everything random
        about a sample is keyed by (seed, position).
        """
        epoch, place = divmod(step, self.steps_per_epoch)
        start = place * self.size
        order = self._epoch(epoch)[start : start + self.size]
        first = step * self.size
        return [(self.keys[index], first + offset) for offset, index in enumerate(order)]

    def _epoch(self, epoch: int) -> np.ndarray:
        if self._order[0] != epoch:
            random = np.random.default_rng([self.seed, epoch])
            order = random.permutation(len(self.keys))
            if len(self._pairs_P2):
                order = self._dosed(order, random)
            self._order = (epoch, order)
        return self._order[1]

    def _dosed(self, order: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """The epoch's order with exactly the wanted pairs together."""
        steps, size = self.steps_per_epoch, self.size
        chosen = self._pairs_P2[random.permutation(len(self._pairs_P2))[: self._paired]]
        together = set(chosen.ravel().tolist())
        batches: list[list[int]] = [[] for _ in range(steps)]
        for place, (one, other) in enumerate(chosen.tolist()):
            batches[place % steps] += [one, other]
        singles = iter([index for index in order.tolist() if index not in together])
        for members in batches:
            members += [next(singles) for _ in range(size - len(members))]
        spare = list(singles)
        _part(batches, spare, self._pairs_P2, together, random)
        for members in batches:
            random.shuffle(members)
        mixed = [batches[place] for place in random.permutation(steps)]
        return np.array([index for members in mixed for index in members], dtype=np.int64)


def _pairs(keys: list[str], twin_of: Mapping[str, str]) -> np.ndarray:
    """int64 ``[P, 2]``: places in ``keys`` of disjoint twins, each pair once."""
    place = {key: index for index, key in enumerate(keys)}
    used: set[int] = set()
    pairs = []
    for key, index in place.items():
        other = place.get(twin_of.get(key, ""), -1)
        if other >= 0 and other != index and not {index, other} & used:
            used |= {index, other}
            pairs.append((index, other))
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _part(
    batches: list[list[int]], spare: list[int], pairs_P2: np.ndarray, together: set[int], random: np.random.Generator
) -> None:
    """Swaps single images between batches until no pair outside ``together`` shares one (where that is possible at all)."""
    twin = {int(a): int(b) for one, other in pairs_P2.tolist() for a, b in ((one, other), (other, one)) if a not in together}
    groups = [*batches, spare] if spare else batches
    home = {index: number for number, members in enumerate(groups) for index in members}
    for one, other in pairs_P2.tolist():
        if one in together or home[one] != home[other] or groups[home[one]] is spare:
            continue
        here = home[one]
        for _ in range(100):
            there = int(random.integers(len(groups)))
            slot = int(random.integers(len(groups[there])))
            swap = groups[there][slot]
            if there != here and swap not in together and home.get(twin.get(swap, -1)) != here:
                groups[here][groups[here].index(one)], groups[there][slot] = swap, one
                home[one], home[swap] = there, here
                break
