"""Which split a photo is in, where its source says nothing of splits.

A photo's place is its key, read as a fraction of 1: the first 90% of all possible keys are ``train``, the next 5% ``val``, the last 5%
``test``. So a photo stays where it is when others come or go, its copies are with it, and the order of the source does not matter. A part
that would get fewer than two photos, without which there is nothing to choose from, takes those whose keys are nearest; in sets of fewer than
:data:`SMALL` photos one is enough, and with fewer photos than parts all are ``train``.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from wholegrain.errors import UserError

SPLITS = ("train", "val", "test")
USUAL = "90/5/5"
NONE = "none"
SMALL = 10


@dataclass(frozen=True)
class Split:
    """How photos are shared out.

    Attributes:
        description: what the manifest says of it.
        borders: first numbers (64 bits of a key) of ``val`` and of ``test``; none if all others are ``train``.
    """

    description: str
    borders: tuple[int, ...] = ()

    def of(self, key: str, stated: str) -> str:
        """The split of a photo; what its source states comes first."""
        return stated or SPLITS[sum(int(key[:16], 16) >= border for border in self.borders)]


def shares_of(spec: str) -> tuple[float, ...]:
    """``80/10/10`` as shares of train, val and test that add up to 1; ``none`` is all train.

    Raises:
        UserError: it is neither.

    Example:
        >>> shares_of("8/1/1"), shares_of("none")
        ((0.8, 0.1, 0.1), (1.0, 0.0, 0.0))
    """
    parts: list[float] = []
    with suppress(ValueError):
        parts = [1.0, 0.0, 0.0] if spec == NONE else [float(part) for part in spec.split("/")]
    if len(parts) != len(SPLITS) or not all(math.isfinite(part) and part >= 0 for part in parts) or not parts[0] > 0:
        raise UserError(
            f"--split-by {spec!r} is neither shares of train, val and test, such as {USUAL}, nor none; a column is named by --split-column"
        )
    return tuple(part / sum(parts) for part in parts)


def split_by_key(number_N: np.ndarray, spec: str = USUAL) -> Split:
    """Shares photos out by their keys.

    Args:
        number_N: uint64, the first 64 bits of the key of each photo, in any order, repeated or not.
        spec: see :func:`shares_of`.
    """
    if spec == NONE:
        return Split("all train, as told")
    shares, number_N = shares_of(spec), np.unique(number_N)
    least = 1 if len(number_N) < SMALL else 2
    wanted = [least if share > 0 else 0 for share in shares]
    if len(number_N) < sum(wanted):
        return Split(f"all train: fewer photos than parts of {spec}")
    borders, before = [], 0
    for part in (1, 2):
        place = int(np.searchsorted(number_N, np.uint64(min(2**64 - 1, int(sum(shares[:part]) * 2**64)))))
        place = min(max(place, before + wanted[part - 1]), len(number_N) - sum(wanted[part:]))
        borders.append(2**64 if place == len(number_N) else int(number_N[place]))
        before = place
    return Split(f"{spec} train/val/test by the hash of each photo", tuple(borders))
