"""Retrieval at size: 5,000 images and 25,000 captions, D = 512, both directions, with intervals and the shuffled control.

    python benchmarks/retrieval.py [--images 5000] [--captions 5] [--threads 2]
    python benchmarks/retrieval.py --grain --images 1000 --shortlist 100

Prints seconds and peak memory, each over its limit (10 s, 1 GB); random features, so recall is near chance plus what is planted.
--grain: scored by whole and grain, three phrases a caption out of 2,000, 49 patches a picture; --shortlist 0 scores every pair.
"""

from __future__ import annotations

import argparse
import resource
import time
from dataclasses import replace

import torch

from wholegrain.evaluation.features.encode import Encoded
from wholegrain.evaluation.tasks.retrieval import RetrievalOptions, retrieval
from wholegrain.features import ImageFeatures, TextFeatures
from wholegrain.losses.whole_and_grain import score

SECONDS, GIGABYTES = 10.0, 1.0
PATCHES, PHRASES, DISTINCT = 49, 3, 2000


class Scored:
    """A model of which retrieval sees the score alone."""

    def score(self, image: ImageFeatures, text: TextFeatures) -> torch.Tensor:
        """Whole and grain at weight 1."""
        return score(image, text, 1.0, 0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--captions", type=int, default=5)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--grain", action="store_true")
    parser.add_argument("--shortlist", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    image = torch.randn(args.images, args.width)
    owner = torch.arange(args.images).repeat_interleave(args.captions)
    text = torch.randn(len(owner), args.width).mul_(6.0).add_(image[owner])
    names = tuple(f"text {n}" for n in range(len(owner)))
    keys = tuple(f"{b:06d}" for b in range(args.images))
    seen, read, model = ImageFeatures(image), TextFeatures(text), None
    if args.grain:
        patches = torch.randn(args.images, PATCHES, args.width)
        phrases = torch.randn(DISTINCT, args.width)[torch.randint(DISTINCT, (len(owner), PHRASES))]
        seen = replace(seen, patches_BPD=patches, grid=(1, PATCHES))
        read = replace(read, phrases_NKD=phrases, phrase_weight_NK=torch.full((len(owner), PHRASES), 1 / PHRASES))
        model = Scored()
    encoded = Encoded(keys, seen, names, read, owner, ("web",) * len(owner), names)
    wall, cpu = time.perf_counter(), time.process_time()
    result = retrieval(encoded, RetrievalOptions(shortlist=args.shortlist), model=model)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{args.images:,} images, {len(owner):,} captions, D = {args.width}, {args.threads} threads")
    print(f"{wall:.1f} s (processor {cpu:.1f} s): {wall / SECONDS:.2f} of {SECONDS:.0f} s")
    print(f"{peak:.2f} GB at most, the libraries with it: {peak / GIGABYTES:.2f} of {GIGABYTES:.0f} GB")
    for name in ("image_retrieval_recall@1", "text_retrieval_recall@1"):
        figure = result.figure(name)
        print(
            f"{name}: {figure.value:.4f} ({figure.low:.4f} to {figure.high:.4f}), chance {figure.chance:.5f}, shuffled {figure.shuffled:.5f}"
        )


if __name__ == "__main__":
    main()
