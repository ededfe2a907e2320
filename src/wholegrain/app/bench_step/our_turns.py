"""``wholegrain train``, one step at a time, in a process of its own: ``python -m wholegrain.app.bench_step.our_turns SETTINGS``.

A line on standard input asks for a step; the answer is a line of JSON with its seconds, loading, log and all. The first step is
taken at once and not timed: it compiles, fills caches, and counts the arithmetic where that is asked for.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from wholegrain.app.begin import begin
from wholegrain.app.memory import keep_freed_memory
from wholegrain.towers.model import Model
from wholegrain.towers.open_clip import OpenClipTextTower, build_open_clip_text
from wholegrain.training.loop import train
from wholegrain.training.step import Outcome
from wholegrain.training.work import peak_megabytes


class Turns:
    """Ends each step with an answer, and begins the next when it is asked for."""

    def __init__(self, answers: Any, counter: FlopCounterMode | None) -> None:
        self.answers, self.counter = answers, counter
        self.started: float | None = None

    def __call__(self, outcome: Outcome) -> bool:
        """After every step."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if self.started is None:
            work = self.counter.get_total_flops() if self.counter is not None else 0
            self._tell(texts=outcome.texts, flops=work)
            if self.counter is not None:
                os._exit(0)
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


def padded(model: Model) -> None:
    """Gives the model a text tower that reads every text at the whole context, as open_clip's does."""
    tower = model.text_tower
    if not isinstance(tower, OpenClipTextTower):
        raise TypeError("only open_clip's text towers can be padded")
    model.text_tower = build_open_clip_text(tower.config(), tower.pad_id, true_length=False)


def main() -> None:
    """Trains until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    keep_freed_memory()  # as the command does
    settings = json.loads(sys.argv[1])
    recipe, dataset, model = begin(settings["recipe"], Path(settings["data"]), settings["model"], settings["overrides"])
    if settings["padded"]:
        padded(model)
    counter = FlopCounterMode(display=False) if settings["count"] else None
    with tempfile.TemporaryDirectory() as folder, counter or nullcontext():
        train(
            recipe, dataset, model, Path(folder) / "run", on_step=Turns(answers, counter),
            workers=settings["workers"], device=settings["device"], quiet=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
