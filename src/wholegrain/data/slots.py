"""Memory in which loading workers hand over pixels: shared once, used again and again.

By default every batch of a worker is a new shared file: its pages must be found, cleared and mapped by both sides, which on a virtual
machine takes a quarter of the time of a small picture. Here each worker writes into places of its own, in turns. The main process
copies a batch out as soon as it arrives, so a batch may be kept as long as one likes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

_numbers = count()
_known: WeakValueDictionary[int, Slots] = WeakValueDictionary()


class Slots:
    """Places for the pixels of batches that are on their way.

    Args:
        workers: processes that write.
        ahead: batches that each is asked for before the first of them has been taken; one more may be in the making.
        shape: views, images, channels, height, width of a batch.
    """

    def __init__(self, workers: int, ahead: int, shape: tuple[int, int, int, int, int]) -> None:
        self.number = next(_numbers)
        self.pixels_WSVBCHW = torch.empty((workers, ahead + 2, *shape), dtype=torch.uint8).share_memory_()
        self._turn = 0
        _known[self.number] = self

    def __setstate__(self, state: Mapping[str, object]) -> None:
        self.__dict__ |= state  # in a worker that was not forked
        _known[self.number] = self

    def put(self, looks: Sequence[Sequence[Tensor]]) -> tuple[Tensor, tuple[int, int, int]] | None:
        """In a worker: writes the pictures ``[views][images]`` into its next place.

        Returns:
            uint8 ``[V, B, 3, H, W]``, and where they lie; ``None`` where this is no worker or the pictures have another shape.
        """
        worker, shape = get_worker_info(), self.pixels_WSVBCHW.shape
        if worker is None or (len(looks), len(looks[0]), *looks[0][0].shape) != shape[2:]:
            return None
        place = (self.number, worker.id, self._turn % shape[1])
        self._turn += 1
        pixels_VBCHW = self.pixels_WSVBCHW[place[1:]]
        for number, look in enumerate(looks):
            torch.stack(list(look), out=pixels_VBCHW[number])
        return pixels_VBCHW, place


def taken(place: tuple[int, int, int]) -> Tensor:
    """In the main process: a copy of what lies there, uint8 ``[V, B, 3, H, W]``."""
    number, *where = place
    shared_VBCHW = _known[number].pixels_WSVBCHW[tuple(where)]
    return torch.from_numpy(shared_VBCHW.numpy().copy())  # by one thread: torch's others would then spin in the loading workers' way
