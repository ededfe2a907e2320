"""The shuffled-images control: which other picture takes each picture's place.

A plain permutation leaves a picture in its own place once on average, and so in one of two shufflings of two; a control that promises
another picture must not. Where no other picture is left there is no control (``None``), never one that repeats the figure.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np


def stand_ins(keys: Sequence[Hashable], seed: int, related: Iterable[Iterable[Hashable]] = ()) -> np.ndarray | None:
    """For each of N items the place of another one, of another picture.

    Whole pictures move: all items of one picture get items of one other picture, in turn. Each picture stands in for one other, unless
    ``related`` leaves too few to choose from; two pictures take each other's places.

    Args:
        keys: the picture behind each item; equal keys are one picture.
        seed: same seed, same stand-ins.
        related: groups of keys, such as the pictures of one item, of which none stands in for another of its group.

    Returns:
        int64 ``[N]``, or ``None`` if some picture has no other to take its place.

    Example:
        >>> stand_ins(["a", "b"], 0).tolist(), stand_ins(["a", "a"], 0), stand_ins(["a", "b"], 0, [("a", "b")])
        ([1, 0], None, None)
    """
    items: dict[Hashable, list[int]] = {}
    for n, key in enumerate(keys):
        items.setdefault(key, []).append(n)
    place = {key: n for n, key in enumerate(items)}
    near = [{n} for n in range(len(items))]
    for group in related:
        members = {place[key] for key in group}
        for n in members:
            near[n] |= members
    other = _apart(near, np.random.default_rng([seed, 7]))
    if other is None:
        return None
    groups, out = list(items.values()), np.empty(len(keys), dtype=np.int64)
    for own, stand_in in zip(groups, other, strict=True):
        theirs = groups[stand_in]
        out[own] = [theirs[turn % len(theirs)] for turn in range(len(own))]
    return out


def _apart(near: Sequence[set[int]], rng: np.random.Generator) -> np.ndarray | None:
    """A random permutation in which no n gets one of ``near[n]``, a symmetric relation.

    Each one that does changes places with a random other that may have its picture, and whose picture it may have. There is always one
    if no picture is related to more than half of them and being related is an equivalence; else a picture may be taken twice.
    """
    other = rng.permutation(len(near))
    for n, avoided in enumerate(near):
        if other[n] not in avoided:
            continue
        free = ~np.isin(other, list(avoided))
        free[list(near[other[n]])] = False
        if free.any():
            swapped = rng.choice(np.flatnonzero(free))
            other[n], other[swapped] = other[swapped], other[n]
            continue
        left = np.setdiff1d(np.arange(len(near)), list(avoided))
        if not len(left):
            return None
        other[n] = rng.choice(left)
    return other


def ring(count: int, seed: int) -> list[int]:
    """All places in random order: for predictions too large to keep, the one before takes the place of each, the last that of the first.

    Example:
        >>> sorted(ring(4, 0))
        [0, 1, 2, 3]
    """
    return np.random.default_rng([seed, 3]).permutation(count).tolist()
