"""A training step of the scenes as it was computed and as it is, turn by turn in one process: processor time, the same loss and gradients.

    python -m benchmarks.scenes_step [--recipe ce_clip] [--turns 8] [--precisions fp32]

As it was: texts on padded rows through ``nn.GRU``, every token's value and input computed anew, and bf16 with the fused attention
where the processor has bf16 units. As it is: real tokens alone, what hangs on the word once a word, the reader cell by cell, float32. Both
are measured in both precisions, so that what each change gives is seen.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median
from unittest.mock import patch

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from wholegrain.data.dataset import Dataset
from wholegrain.data.scenes.build import SceneCounts, build_scenes
from wholegrain.data.scenes.world import World
from wholegrain.objectives.recipe import load_recipe
from wholegrain.towers.base import NOTHING, RawText, masked_mean, real_tokens
from wholegrain.towers.base_model import load_base
from wholegrain.towers.sources import timm
from wholegrain.towers.sources.small import RecurrentTextTower
from wholegrain.training.step import Outcome
from wholegrain.training.trainer import TrainOptions, train

WARM_UP = 2


def padded(tower: RecurrentTextTower, tokens_NL: Tensor, length_N: Tensor, needs: frozenset[str] = NOTHING) -> RawText:
    """The reader on padded rows, every word computed where it stands."""
    L, words = tokens_NL.shape[1], tower.embedding(tokens_NL)
    packed = pack_padded_sequence(words, length_N.cpu(), batch_first=True, enforce_sorted=False)
    read, _ = pad_packed_sequence(tower.reader(packed)[0], batch_first=True, total_length=L)
    x, mask_NL = tower.value(words) * tower.gate(tower.norm(read)), real_tokens(length_N, L)
    return RawText(masked_mean(x, mask_NL), x if "tokens" in needs else None, mask_NL)


@contextmanager
def as_it_was() -> Iterator[None]:
    """Padded texts, and torch's choice of the attention's kernel."""
    with patch.object(RecurrentTextTower, "forward", padded), patch.object(timm, "attention_kernel", lambda *_: nullcontext()):
        yield


def seconds(data: Dataset, recipe: str, precision: str, steps: int) -> tuple[float, float]:
    """Processor seconds of the median step, and the loss of the last."""
    stamps: list[tuple[float, float]] = []

    def stamp(outcome: Outcome) -> bool:
        stamps.append((time.process_time(), outcome.loss))
        return False

    chosen = load_recipe(f"scenes/{recipe}", [f"--optimiser.steps={steps + WARM_UP}", f"--optimiser.precision={precision}"])
    with tempfile.TemporaryDirectory() as folder:
        train(chosen, data, load_base(World()), TrainOptions(Path(folder) / "run", quiet=True), on_step=stamp)
    times = [later[0] - earlier[0] for earlier, later in zip(stamps[WARM_UP - 1 :], stamps[WARM_UP:], strict=False)]
    return median(times), stamps[-1][1]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="ce_clip", help="below scenes/")
    parser.add_argument("--steps", type=int, default=6, help="of each turn")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--precisions", nargs="+", choices=("bf16", "fp32"), default=["bf16", "fp32"], help="bf16 takes minutes without units for it")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = build_scenes(Path(folder) / "scenes", World(), SceneCounts(1500, 0, 0, 0, 0))
        for _ in range(arguments.turns):
            for precision in arguments.precisions:
                for name, context in (("as it was", as_it_was), ("as it is", nullcontext)):
                    with context():
                        found.setdefault((name, precision), []).append(seconds(data, arguments.recipe, precision, arguments.steps))
    least = {key: min(time for time, _ in values) for key, values in found.items()}
    first = next(iter(least.values()))
    table = Table("", "precision", "processor s a step", "of the first", "loss after the last step", title=f"scenes/{arguments.recipe}, 128 pictures")
    for (name, precision), value in least.items():
        loss = found[name, precision][0][1]
        table.add_row(name, precision, f"{value:.3f}", f"{value / first:.2f}", f"{loss:.5f}")
    Console().print(table)


if __name__ == "__main__":
    main()
