"""What training with hard negatives teaches, and whether the picture has a part in it.

    python benchmarks/negatives.py data/flickr8k OUT --model pair.toml --mlm FOLDER --sugarcrepe FOLDER --cache data/features

Four arms, the same seeds, pictures, captions and steps in all:

* ``clip``: no negatives;
* ``rules``: CE-CLIP's losses with our negatives (``wholegrain enrich --negatives``);
* ``random``: the same losses, with as many captions of other pictures in their place;
* ``blind``: the same captions and negatives, each with the picture of another: all that can be learned of them is learned from text.

Measured on texts of another origin, CE-CLIP's recipe (a masked language model's words) on the split ``test`` and SugarCrepe, and on retrieval.
Differences to ``clip`` are paired by seed and item; intervals are over seeds and pictures. ``OUT/table.json`` has all figures.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from wholegrain.data.dataset import Dataset
from wholegrain.data.record import Negative
from wholegrain.data.shards import ShardWriter
from wholegrain.data.sidecars import write_sidecar
from wholegrain.enrich.negatives.ce_clip import CeClipStage
from wholegrain.enrich.negatives.random_negatives import RandomStage
from wholegrain.enrich.negatives.word_rules import NegativesStage
from wholegrain.enrich.runner.stage import Failure, Stage
from wholegrain.evaluation.benchmarks.run import parse_benchmark, run_benchmarks
from wholegrain.evaluation.result import TaskResult, load_results, save_results
from wholegrain.evaluation.statistics.compare import mean_over_seeds
from wholegrain.towers.io import load_model
from wholegrain.training.start import load_inputs
from wholegrain.training.trainer import TrainOptions
from wholegrain.workflows.runs import Suite, evaluate_once, train_once
from wholegrain.workflows.validation import validation

ARMS = {"clip": "clip", "rules": "ce_clip", "random": "ce_clip", "blind": "ce_clip"}
FIGURES = (
    ("negatives", "accuracy"),
    ("sugarcrepe", "accuracy"),
    ("retrieval", "image_retrieval_recall@1"),
    ("retrieval", "text_retrieval_recall@1"),
)
SHARED = (
    "--optimiser.batch=512", "--optimiser.lr=2e-3", "--optimiser.warmup_steps=20", "--data.crop_scale=[1.0, 1.0]",
    '--data.captions=[{ roles = ["any"], count = 1 }]',
)  # fmt: skip


def beside(data: Path, folder: Path) -> Path:
    """The same records and pictures in a folder of their own, for sidecars of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("manifest.json", "index.parquet", "shards"):
        if not (folder / name).exists():
            (folder / name).symlink_to((data / name).resolve())
    return folder


def exchanged(data: Path, rules: Path, folder: Path) -> Path:
    """The same pictures and texts; every training picture has another's captions, and their negatives.

    Captions move and pictures stay: a record's key is the hash of its picture.
    """
    if not (folder / "negatives.parquet").exists():
        dataset, negatives = Dataset(data), Dataset(rules).negatives
        keys = dataset.keys("train")
        other = dict(zip(keys, np.roll(np.random.default_rng(0).permutation(keys), 1).tolist(), strict=True))
        with ShardWriter(folder) as writer:
            for split in dataset.splits:
                for record in dataset.records(split):
                    captions = dataset.record(other.get(record.key, record.key)).captions
                    writer.add(replace(record, captions=captions), dataset.image_bytes(record.key))
        moved = {source: key for key, source in other.items()}
        write_sidecar(folder, "negatives", [replace(row, key=moved[row.key]) for rows in negatives.values() for row in rows])
    return folder


def put(folder: Path, stage: Stage, split: str, most: int = 0) -> Path:
    """A stage's negatives of one split, as a sidecar; a sample of ``most`` of them, if that is given."""
    if not (folder / "negatives.parquet").exists():
        dataset = Dataset(folder)
        stage.fit(dataset, dataset.keys(split))
        records = list(dataset.records(split))
        parts = (records[start : start + 256] for start in range(0, len(records), 256))
        made = [rows for part in parts for rows in stage.rows(part, [None] * len(part))]
        rows = [row for rows in made if not isinstance(rows, Failure) for row in rows if isinstance(row, Negative)]
        if most and most < len(rows):
            rows = [rows[n] for n in sorted(np.random.default_rng(0).permutation(len(rows))[:most].tolist())]
        write_sidecar(folder, "negatives", rows)
        print(f"{folder.name}: {len(rows):,} negatives of {len(records):,} pictures", flush=True)
    return folder


def run(arm: str, seed: int, data: Path, given: argparse.Namespace) -> list[TaskResult]:
    """One training, and what it scores on the test data."""
    words = [*SHARED, f"--optimiser.epochs={given.epochs}", f"--seed={seed}"]
    if arm != "clip":
        words.append(f"--data.negatives.count={given.count}")
    recipe, dataset, start = load_inputs(ARMS[arm], data, given.model, words)
    judge, folder = validation(dataset, recipe, cache=given.cache), given.out / f"{arm}-{seed}"
    model = train_once(recipe, dataset, start, TrainOptions(folder, quiet=True, cache=given.cache), judge)
    tests = evaluate_once(model, Dataset(given.test), folder / "test", Suite("test", ("retrieval", "negatives")))
    if given.sugarcrepe is not None:
        if not (folder / "sugarcrepe" / "results.json").exists():
            found = run_benchmarks(load_model(str(folder / "model")), [parse_benchmark(f"sugarcrepe={given.sugarcrepe}")], progress=False)
            save_results(found, folder / "sugarcrepe", {"dataset": str(given.sugarcrepe)})
        tests += load_results(folder / "sugarcrepe")[0]
    print(f"{arm}, seed {seed}: done", flush=True)
    return tests


def rows_of(results: dict[str, list[list[TaskResult]]]) -> list[dict[str, object]]:
    """Every figure of every arm, and its paired difference to ``clip``."""

    def of(arm: str, task: str) -> list[TaskResult]:
        return [next((r for r in found if r.task == task), None) for found in results[arm]]  # type: ignore[misc]

    made = []
    for task, name in FIGURES:
        for arm in results:
            here, plain = of(arm, task), of("clip", task)
            if any(result is None for result in (*here, *plain)):
                continue
            figure = next(f for f in here[0].figures if f.name == name)
            mean, minus = mean_over_seeds(here, name), mean_over_seeds(here, name, plain)
            made.append({
                "task": task, "figure": name, "arm": arm, "mean": mean.value, "low": mean.low, "high": mean.high, "by_seed": mean.by_seed,
                "minus_clip": minus.value, "minus_low": minus.low, "minus_high": minus.high, "chance": figure.chance, "items": figure.count,
            })  # fmt: skip
    return made


def main(words: Sequence[str] | None = None) -> None:
    """Everything; what is there already is read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--mlm", required=True, help="a masked language model: a folder or a name of transformers")
    parser.add_argument("--sugarcrepe", type=Path)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=16)
    parser.add_argument("--count", type=int, default=4, help="negatives of a caption")
    given = parser.parse_args(words)
    given.test = put(beside(given.data, given.out / "data-test"), CeClipStage(given.mlm), "test", 4_000)
    data = {
        "clip": given.data,
        "rules": put(beside(given.data, given.out / "data-rules"), NegativesStage(), "train"),
        "blind": exchanged(given.data, given.out / "data-rules", given.out / "data-blind"),
        "random": put(beside(given.data, given.out / "data-random"), RandomStage(like=str(given.out / "data-rules")), "train"),
    }
    results: dict[str, list[list[TaskResult]]] = {arm: [] for arm in ARMS}
    for seed in range(given.seeds):
        for arm in ARMS:
            results[arm].append(run(arm, seed, data[arm], given))
    rows = rows_of(results)
    (given.out / "table.json").write_text(json.dumps(rows, indent=1))
    for row in rows:
        name = f"{row['task']:12} {row['figure']:26} {row['arm']:7}"
        print(f"{name} {row['mean']:.3f} ({row['low']:.3f} to {row['high']:.3f})", end="  ")
        print(f"minus clip {row['minus_clip']:+.3f} ({row['minus_low']:+.3f} to {row['minus_high']:+.3f})")


if __name__ == "__main__":
    main()
