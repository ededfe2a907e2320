"""``wholegrain train``, one step at a time, in a process of its own: ``python -m benchmarks.step.our_turns SETTINGS``.

A line on standard input asks for a step; the answer is a line of JSON with its seconds, loading, log and all. The first step is
taken at once and not timed: it compiles and fills caches.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.step.count import padded
from wholegrain.training.memory.malloc import keep_freed_memory
from wholegrain.training.start import load_inputs
from wholegrain.training.step import Outcome
from wholegrain.training.trainer import TrainOptions, train
from wholegrain.training.work import peak_megabytes


class Turns:
    """Ends each step with an answer, and begins the next when it is asked for."""

    def __init__(self, answers: Any) -> None:
        self.answers = answers
        self.started: float | None = None

    def __call__(self, outcome: Outcome) -> bool:
        """After every step."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if self.started is None:
            self._tell(texts=outcome.texts)
        else:
            self._tell(
                seconds=time.perf_counter() - self.started,
                megabytes=peak_megabytes(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
            )
        if not sys.stdin.readline():
            os._exit(0)
        self.started = time.perf_counter()
        return False

    def _tell(self, **facts: Any) -> None:
        print(json.dumps(facts), file=self.answers, flush=True)


def main() -> None:
    """Trains until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    keep_freed_memory()  # as the command does
    settings = json.loads(sys.argv[1])
    recipe, dataset, model = load_inputs(settings["recipe"], Path(settings["data"]), settings["model"], settings["overrides"])
    if settings["padded"]:
        padded(model)
    with tempfile.TemporaryDirectory() as folder:
        options = TrainOptions(Path(folder) / "run", workers=settings["workers"], device=settings["device"], quiet=True)
        train(recipe, dataset, model, options, on_step=Turns(answers))


if __name__ == "__main__":
    main()
