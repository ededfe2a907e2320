"""Random streams by the batch: the generators of ``numpy.random.default_rng([seed, position, purpose])``, bit for bit, in a third of the
time. numpy spends most of it on hashing the three numbers, which here is done for all samples of a batch at once.

The hash is that of ``numpy.random.SeedSequence`` (O'Neill's ``randutils``, 2015), which numpy promises to keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence

_WORD = 2**32
_POOL = 4


def _constants(first: int, factor: int, count: int) -> list[tuple[np.uint32, np.uint32]]:
    """What each hashing exclusive-ors with, and then multiplies by."""
    pairs, value = [], first
    for _ in range(count):
        following = value * factor % _WORD
        pairs.append((np.uint32(value), np.uint32(following)))
        value = following
    return pairs


_MIX = _constants(0x43B0D7E5, 0x931E8875, _POOL * _POOL)
_OUT = _constants(0x8B51F9DD, 0x58F38DED, 2 * _POOL)
_LEFT, _RIGHT, _SHIFT = np.uint32(0xCA01F9DD), np.uint32(0x4973F715), np.uint32(16)


def stream(seed: int, position: int, purpose: int) -> np.random.Generator:
    """The random stream of one sample: the same in every process, and another one for every purpose."""
    return np.random.default_rng([seed, position, purpose])


def streams(seed: int, positions: Sequence[int], purposes: Sequence[int]) -> list[list[np.random.Generator]]:
    """:func:`stream` of all positions (outer list) and purposes (inner lists).

    Example:
        >>> streams(7, [1, 2], [0, 100])[1][1].random() == stream(7, 2, 100).random()
        True
    """
    if not purposes or not positions or max(seed, *positions, *purposes) >= _WORD:  # longer numbers are more than one word
        return [[stream(seed, position, purpose) for purpose in purposes] for position in positions]
    words = np.zeros((_POOL, len(positions), len(purposes)), dtype=np.uint32)
    words[0], words[1], words[2] = seed, np.asarray(positions)[:, None], np.asarray(purposes)
    states = _states(words)
    return [[_generator(_Hashed(state)) for state in row] for row in states]


def _generator(hashed: Any) -> np.random.Generator:  # numpy's types know no seed sequence but its own
    return np.random.Generator(np.random.PCG64(hashed))


def _states(words: np.ndarray) -> np.ndarray:
    """uint32 ``[4, ...]`` of entropy -> uint64 ``[..., 4]`` of state."""
    constants = iter(_MIX)
    pool = [_hashed(word, *next(constants)) for word in words]
    for source in range(_POOL):
        for target in range(_POOL):
            if source != target:
                mixed = _LEFT * pool[target] - _RIGHT * _hashed(pool[source], *next(constants))
                pool[target] = mixed ^ (mixed >> _SHIFT)
    out = [_hashed(pool[number % _POOL], *pair) for number, pair in enumerate(_OUT)]
    return np.ascontiguousarray(np.stack(out, axis=-1), dtype="<u4").view("<u8").astype(np.uint64)


def _hashed(value: np.ndarray, first: np.uint32, factor: np.uint32) -> np.ndarray:
    value = (value ^ first) * factor
    return value ^ (value >> _SHIFT)


class _Hashed(ISeedSequence):
    """A seed sequence whose hash is known."""

    def __init__(self, state: np.ndarray) -> None:
        self.state = state

    def generate_state(self, n_words: int, dtype: type = np.uint32) -> np.ndarray:
        if n_words != len(self.state) or np.dtype(dtype) != self.state.dtype:
            raise ValueError("this is the state of PCG64 alone")
        return self.state
