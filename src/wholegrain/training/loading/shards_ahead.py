"""Fetching the shards that the plan will want next, while the present ones are read."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress

from wholegrain.data.dataset import Dataset
from wholegrain.training.loading.plan import Plan

LEAST = 2  # shards beyond those in use


class ShardsAhead:
    """A thread in the main process that has shards at hand before workers ask for them.

    Args:
        dataset: its shards may lie far away; otherwise nothing is done.
        plan: the order. With a window, the next window's shards are fetched; else the next :data:`LEAST`.
    """

    def __init__(self, dataset: Dataset, plan: Plan) -> None:
        self._dataset, self._plan, self._ahead = dataset, plan, max(LEAST, plan.window)
        self._wanted = threading.Condition()
        self._step, self._thread = -1, None

    def at(self, step: int) -> None:
        """The plan's batch of this step is about to be loaded."""
        if not self._dataset.far:
            return
        with self._wanted:
            self._step = step
            self._wanted.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="shards ahead", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        begun = self._step
        epoch = begun // self._plan.steps_per_epoch
        recent: deque[int] = deque(maxlen=self._ahead)  # first steps of the last shards that were fetched
        while True:
            for first, key in self._plan.shards(epoch):
                if first < begun:
                    continue  # where a run goes on in the midst of an epoch, workers ask for what is in use
                if len(recent) == self._ahead:
                    with self._wanted:
                        self._wanted.wait_for(lambda: self._step >= recent[0])
                recent.append(first)
                # Whoever reads the shard meets the same error, and says it.
                with suppress(Exception):
                    self._dataset.fetch(key)
            epoch += 1
