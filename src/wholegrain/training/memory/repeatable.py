"""On a processor, a step taken again gives the same bits with several threads, too.

The backward pass of ``x[index]`` adds rows that occur twice by atomic additions when several threads work, in the order in which they come;
a text's image is such a row wherever an image has several captions. Torch's deterministic mode adds them one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils import deterministic

_FILL = "fill_uninitialized_memory"  # torch declares it where type checkers do not look


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Torch's deterministic mode while the block runs, on a processor; elsewhere the caller's own setting stands.

    A CUDA device has no deterministic form of some operations that losses use, and slower ones of others: there the choice is the user's
    (``torch.use_deterministic_algorithms``).
    """
    if device.type != "cpu":
        yield
        return
    asked, warn_only = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = getattr(deterministic, _FILL)
    torch.use_deterministic_algorithms(True, warn_only=warn_only or not asked)
    setattr(deterministic, _FILL, filled and asked)  # filling only finds mistakes, and costs time
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(asked, warn_only=warn_only)
        setattr(deterministic, _FILL, filled)
