"""How long training stands still for a checkpoint: written at once, and beside the training.

ViT-B/32 from random weights with AdamW's moments (151 million parameters, 1.8 GB).

    OMP_NUM_THREADS=1 python benchmarks/checkpoint.py --model ViT-B-32 --times 3 --folder /tmp
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from wholegrain.objectives.objective import Objective
from wholegrain.objectives.recipe import load_recipe
from wholegrain.towers.io import load_model
from wholegrain.training.checkpoints import checkpoint
from wholegrain.training.checkpoints.saver import Saver
from wholegrain.training.distributed.processes import DistributedContext, choose_device
from wholegrain.training.step import make_optimiser


def measured(saver, pack, times):
    """Seconds that :meth:`Saver.save` takes, once what was in flight has come to its end."""
    seconds = []
    for step in range(times + 1):
        started = time.perf_counter()
        saver.save(lambda step=step: pack(step))
        seconds.append(time.perf_counter() - started)
        saver.finish()
    return seconds[1:]  # the first one takes its memory from the system


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None)
    args = parser.parse_args()
    recipe = load_recipe("clip")
    device = choose_device()
    model, objective = load_model(args.model).to(device), Objective(recipe.terms)
    optimiser = make_optimiser(model, recipe.optimiser)
    for parameter in model.parameters():
        optimiser.state[parameter] = {
            "step": torch.tensor(1.0),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }

    def pack(step):
        return checkpoint.pack(step, model, optimiser, objective)

    size = sum(value.numel() * value.element_size() for value in pack(0).tensors.values())
    print(
        f"{args.model}: {sum(p.numel() for p in model.parameters()) / 1e6:.0f} million parameters, {size / 1e9:.2f} GB a checkpoint"
    )
    for name, asynchronous in (("at once", False), ("beside the training", True)):
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            seconds = measured(Saver(Path(folder), 1, DistributedContext(device), asynchronous), pack, args.times)
        print(
            f"{name:20} training stands still for {statistics.median(seconds):6.2f} s  ({', '.join(f'{s:.2f}' for s in seconds)})"
        )


if __name__ == "__main__":
    main()
