"""Memory and time of one step by the size of its micro-batches, and with recomputed blocks, beside the plain step.

Plain CLIP, two transformers of equal width from random weights, texts of 5 to 32 tokens. Memory is the peak of what torch's CPU
allocator hands out during a step, beyond weights and inputs: graph, features, gradients. Time is the processor's.

OMP_NUM_THREADS=1 python -m benchmarks.accumulation --batch 256 --micro 64 16
"""

import argparse
import time

import torch

from benchmarks.peak_memory import with_peak_megabytes
from wholegrain.data.batch import Batch, View
from wholegrain.features import Pairing
from wholegrain.objectives.objective import Objective
from wholegrain.objectives.recipe import load_recipe
from wholegrain.text.trained import train_tokenizer
from wholegrain.towers.sources.small import SmallConfig, small_model
from wholegrain.training.encoder import Encoder
from wholegrain.training.memory.recompute import recomputed
from wholegrain.training.step import StepOptions, take_step


class Still(torch.optim.SGD):
    """Changes nothing, so that only the step itself is measured."""

    def step(self, closure=None):
        pass


def made(args):
    torch.manual_seed(0)
    config = SmallConfig(
        args.size, image_layers=args.layers, text_layers=args.layers, reader="transformer", places="added", sight=0
    )
    model = small_model(config, train_tokenizer(["a red cup"], 100, config.context)).train()
    B = args.batch
    pixels = torch.randint(0, 256, (B, 3, args.size, args.size), dtype=torch.uint8)
    view = View(pixels, torch.tensor([[0.0, 0.0, args.size, args.size]]).expand(B, 4))
    length = torch.randint(5, config.context + 1, (B,))
    names = tuple(map(str, range(B)))
    tokens = torch.randint(3, model.tokenizer.vocab_size, (B, config.context))
    return model, Batch((view,), tokens, length, torch.arange(B), Pairing.one_to_one(B), names, names)


def measured(model, batch, micro, again):
    """Megabytes, and CPU seconds without the profiler (the better of two)."""
    encoder, optimiser = Encoder(model), Still(model.parameters(), lr=0.0)

    def step():
        objective = Objective(load_recipe("clip").terms)
        take_step(encoder, objective, optimiser, batch, step=0, lr=0.0, options=StepOptions(micro_batch=micro))
        return torch.zeros((), requires_grad=True)

    with recomputed(model, again):
        _, megabytes = with_peak_megabytes(step, [])
        seconds = []
        for _ in range(2):
            begun = time.process_time()
            step()
            seconds.append(time.process_time() - begun)
    return megabytes, min(seconds)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--micro", type=int, nargs="+", default=[64, 16])
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--size", type=int, default=64)
    args = parser.parse_args()
    model, batch = made(args)
    weights = sum(p.numel() for p in model.parameters()) * 4 / 2**20
    print(f"batch {args.batch}; weights {weights:.0f} MB, and gradients of as much are in the peak")
    first = None
    for micro, again in [(0, False), (0, True), *((m, False) for m in args.micro), *((m, True) for m in args.micro)]:
        found = measured(model, batch, micro, again)
        first = first or found
        what = f"micro {micro or args.batch:5}{', recomputed' if again else '':12}"
        print(
            f"{what}  {found[0]:8.0f} MB ({found[0] / first[0]:.3f})  {found[1]:6.2f} s ({found[1] / first[1]:.2f})", flush=True
        )


if __name__ == "__main__":
    main()
