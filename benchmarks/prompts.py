"""An ensemble of prompts the size of ImageNet's: 1,000 classes x 80 sentences through the text tower of ViT-B-32.

Ours: all sentences together, batches by length, each at its own length. CLIP_benchmark's: its function ``zero_shot_classifier`` (a checkout of it
is given by its path), a class at a time, every sentence padded to 77 tokens. Random weights, both on the same tower, in turn. The slow way is
timed on the first ``--classes`` classes; so is ours, and then on all 1,000 if ``--all``. Both give the same vectors, which is checked.

    OMP_NUM_THREADS=2 python benchmarks/prompts.py --clip-benchmark PATH --classes 20
    OMP_NUM_THREADS=1 python benchmarks/prompts.py --clip-benchmark PATH --classes 2 --cpu-time
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from pathlib import Path

import open_clip
import torch

from wholegrain.evaluation.tasks.zero_shot import class_vectors
from wholegrain.towers import load_model
from wholegrain.towers.export.open_clip import write_open_clip


def theirs(path: Path):
    """``zero_shot_classifier`` of a checkout of CLIP_benchmark."""
    file = path / "clip_benchmark" / "metrics" / "zeroshot_classification.py"
    spec = importlib.util.spec_from_file_location("their_classification", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.zero_shot_classifier


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clip-benchmark", type=Path)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--all", action="store_true")
    parser.add_argument(
        "--cpu-time", action="store_true", help="processor time in place of the clock's, for a machine that others use, too"
    )
    asked = parser.parse_args()
    asked.clock = time.process_time if asked.cpu_time else time.perf_counter
    torch.manual_seed(0)
    names = list(open_clip.IMAGENET_CLASSNAMES)[: asked.classes]
    templates = [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    ours = load_model("ViT-B-32")
    found: dict[str, list[float]] = {"ours": [], "CLIP_benchmark": []}
    same: dict[str, torch.Tensor] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_open_clip(ours, Path(folder))
        tower = open_clip.create_model(f"local-dir:{folder}").eval()
    classifier = theirs(asked.clip_benchmark) if asked.clip_benchmark is not None else None
    for _ in range(asked.rounds):
        start = asked.clock()
        same["ours"] = class_vectors(ours, names, templates)
        found["ours"].append(asked.clock() - start)
        if classifier is not None:
            sentences = [template.replace("{}", "{c}") for template in templates]
            start = asked.clock()
            same["CLIP_benchmark"] = classifier(tower, open_clip.get_tokenizer("ViT-B-32"), names, sentences, "cpu", amp=False).T
            found["CLIP_benchmark"].append(asked.clock() - start)
    count = len(names) * len(templates)
    for who, seconds in found.items():
        if seconds:
            best = sorted(seconds)[len(seconds) // 2]
            print(
                f"{who}: {len(names)} classes x {len(templates)} sentences in {best:.1f} s (median of {len(seconds)}), {count / best:.0f} texts/s"
            )
    if classifier is not None:
        gap = float((same["ours"] - same["CLIP_benchmark"]).abs().max())
        ratios = [b / a for a, b in zip(found["ours"], found["CLIP_benchmark"], strict=True)]
        print(
            f"ours is {sorted(ratios)[len(ratios) // 2]:.1f} times as fast (from {min(ratios):.1f} to {max(ratios):.1f}); greatest difference {gap:.1e}"
        )
    if asked.all:
        start = asked.clock()
        class_vectors(ours, list(open_clip.IMAGENET_CLASSNAMES), templates)
        print(f"ours: 1,000 classes x {len(templates)} sentences in {asked.clock() - start:.0f} s")


if __name__ == "__main__":
    main()
