"""Batches in which exactly so many images stand beside their twin, and no others do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def pairs_of(keys: Sequence[str], twin_of: Mapping[str, str]) -> np.ndarray:
    """int64 ``[P, 2]``: places in ``keys`` of disjoint twins, each pair once."""
    index_of = {key: index for index, key in enumerate(keys)}
    used: set[int] = set()
    pairs = []
    for key, index in index_of.items():
        other = index_of.get(twin_of.get(key, ""), -1)
        mutual = twin_of.get(twin_of.get(key, "")) == key  # an image of several twins belongs to the last of them
        if other >= 0 and other != index and mutual and not {index, other} & used:
            used |= {index, other}
            pairs.append((index, other))
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def dosed(
    order: np.ndarray, pairs_P2: np.ndarray, chosen_Q2: np.ndarray, steps: int, size: int, random: np.random.Generator, mix: bool
) -> np.ndarray:
    """An epoch's order with exactly the chosen pairs together.

    Args:
        order: the epoch's samples; what is beyond whole batches is left out.
        pairs_P2, chosen_Q2: all twins, and those that are to share a batch.
        steps, size: batches of an epoch, and their size.
        random: the epoch's own stream.
        mix: shuffle the batches, too; else they follow ``order``.
    """
    together = set(chosen_Q2.ravel().tolist())
    batches: list[list[int]] = [[] for _ in range(steps)]
    for pair, (one, other) in enumerate(chosen_Q2.tolist()):
        batches[pair % steps] += [one, other]
    singles = iter([index for index in order.tolist() if index not in together])
    for members in batches:
        members += [next(singles) for _ in range(size - len(members))]
    spare = list(singles)
    _part(batches, spare, pairs_P2, together, random)
    for members in batches:
        random.shuffle(members)
    mixed = [batches[number] for number in random.permutation(steps)] if mix else batches
    return np.array([index for members in mixed for index in members], dtype=np.int64)


def _part(
    batches: list[list[int]], spare: list[int], pairs_P2: np.ndarray, together: set[int], random: np.random.Generator
) -> None:
    """Swaps single images between batches until no pair outside ``together`` shares one (where that is possible at all)."""
    groups = [*batches, spare] if spare else batches
    home = {index: number for number, members in enumerate(groups) for index in members}
    twin = {int(a): int(b) for one, other in pairs_P2.tolist() for a, b in ((one, other), (other, one)) if a not in together}
    for one, other in pairs_P2.tolist():
        if one in together or one not in home or home[one] != home.get(other) or groups[home[one]] is spare:
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
