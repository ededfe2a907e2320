"""``wholegrain train``: a recipe, data and a model in, a run's folder out."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from wholegrain.workflows.commands.train import TrainArguments

if TYPE_CHECKING:
    from wholegrain.data.dataset import Dataset


def train(args: TrainArguments) -> int:
    """Trains or fine-tunes a model by a recipe. Any key of the recipe may be set by its dotted name:

    wholegrain train ce_clip --data data/photos --model ViT-B-32:openai --data.negatives.count 2 --terms.cmr.weight 0.3

    Under torchrun or srun the same line uses all processes; the batch is that of all of them together. Where the launcher starts them
    anew after one was lost (torchrun --max-restarts, a requeued SLURM job), the same line goes on with the run in --out.
    """
    from wholegrain.workflows.commands.train import train as run

    done = run(args, shlex.join(["wholegrain", *sys.argv[1:]]))
    if done.main_process:
        print(done.model)
        print(f"The trained model is in {done.model}; measure it with: {_next(done.folder, done.dataset)}", file=sys.stderr)
    return 0


def _next(run: Path, dataset: Dataset) -> str:
    """What to type after a training: the measurement of the run on the first data set, on a split that was not trained on."""
    first = getattr(dataset, "datasets", [dataset])[0]
    held_out = next((split for split in ("test", "val") if split in first.splits), first.splits[0])
    source = first.remote.url if first.remote is not None else str(first.folder)
    split = [] if held_out == "test" else ["--split", held_out]
    return shlex.join(["wholegrain", "evaluate", str(run), "--data", source, *split])
