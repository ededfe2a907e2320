"""open_clip's own trainer, one step at a time: its ``main`` with its own flags, on batches that are ready in memory.

Run by path, in a process of its own: ``python open_clip_turns.py BATCHES.npz FLAG...``. It imports nothing of this project, so that any
version of open_clip can stand in ``PYTHONPATH``. A line on standard input asks for a step; the answer is a line of JSON with
its seconds.
"""

import importlib.metadata
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import torch


def peak_megabytes() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 2**10


class Turns:
    """A loader that hands out a batch when it is asked, and tells how long the trainer was away with the last one."""

    num_batches, num_samples = 10**6, 10**6

    def __init__(self, batches: list, tell: Callable) -> None:
        self.batches, self.tell = batches, tell

    def __iter__(self):
        asked = 0
        while sys.stdin.readline():
            started = time.perf_counter()
            yield self.batches[asked % len(self.batches)]
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds = time.perf_counter() - started
            self.tell(seconds=seconds, megabytes=peak_megabytes())
            asked += 1
        os._exit(0)


def batches_of(path: str, as_dicts: bool) -> list:
    """Normalised images and token rows, as the trainer's own loader would give them."""
    with np.load(path) as saved:
        pixels_SBCHW, tokens_SBL = torch.from_numpy(saved["pixels"]), torch.from_numpy(saved["tokens"])
    pairs = [((x.float() / 255 - 0.45) / 0.27, y.long()) for x, y in zip(pixels_SBCHW, tokens_SBL, strict=True)]
    return [{"image": x, "text": y} for x, y in pairs] if as_dicts else pairs


def main() -> None:
    path, *flags = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the trainer prints goes elsewhere

    def tell(**facts: object) -> None:
        print(json.dumps(facts), file=answers, flush=True)

    import open_clip_train.main as trainer

    as_dicts = hasattr(trainer, "create_task")  # since its tasks
    data = SimpleNamespace(dataloader=Turns(batches_of(path, as_dicts), tell), set_epoch=lambda _: None)
    trainer.get_data = lambda *_, **__: {"train": data}
    version = getattr(sys.modules["open_clip"], "__version__", None) or importlib.metadata.version("open_clip_torch")
    tell(version=version)
    with tempfile.TemporaryDirectory() as logs:
        trainer.main(["--dataset-type", "synthetic", "--logs", logs, "--log-every-n-steps", "1000000", *flags])


if __name__ == "__main__":
    main()
