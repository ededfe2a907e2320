"""A query of ``wholegrain search`` beside numpy and usearch (exact and HNSW): 100,000 synthetic vectors of width 512, in one run.

    python -m benchmarks.search [--vectors 100000] [--width 512] [--queries 50] [--threads 2]

Vectors lie around 2,000 centres, queries near vectors. Of each: seconds to make what is searched (ours: to write an index, and to read it
back with its digests checked, as every command does), milliseconds a query (one at a time, the first 10), memory that it takes beside the
vectors, and which share of the exact first 10 it finds. usearch is measured where it is installed.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from wholegrain.workflows.search.nearest import nearest
from wholegrain.workflows.search.parts import MOST_ROWS, Part, Row, join_parts, read_parts, write_part

CENTRES, SPREAD, NEAR, K = 2000, 0.7, 0.3, 10
Ask = Callable[[np.ndarray], list[int]]


@dataclass(frozen=True)
class Measured:
    """One way to search.

    Attributes:
        name: of the way.
        seconds: to make what is searched.
        milliseconds: a query.
        megabytes: beside the vectors.
        found: places of the first K, ``[queries][K]``.
    """

    name: str
    seconds: float
    milliseconds: float
    megabytes: float
    found: list[list[int]]


def synthetic(count: int, width: int, queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors ``[count, width]``, and queries ``[queries, width]``, float32."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((CENTRES, width), dtype=np.float32)
    vectors = centres[random.integers(0, CENTRES, count)]
    vectors += SPREAD * random.standard_normal(vectors.shape, dtype=np.float32)
    asked = vectors[random.integers(0, count, queries)] + NEAR * random.standard_normal((queries, width), dtype=np.float32)
    return _unit(vectors), _unit(asked)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def resident() -> float:
    """Megabytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def measured(name: str, make: Callable[[], Ask], asked: np.ndarray) -> Measured:
    """Makes what is searched, and asks."""
    before, start = resident(), time.perf_counter()
    ask = make()
    seconds, megabytes = time.perf_counter() - start, resident() - before
    ask(asked[0])  # warm
    start = time.perf_counter()
    found = [ask(query) for query in asked]
    return Measured(name, seconds, 1000 * (time.perf_counter() - start) / len(asked), max(megabytes, 0.0), found)


def of_wholegrain(vectors: np.ndarray, folder: Path) -> Ask:
    """An index on the disk, written and read back."""
    whole = torch.from_numpy(vectors)
    for start in range(0, len(vectors), MOST_ROWS):
        rows = tuple(Row(f"photos/{n:07d}.jpg", 1, 1, 1, f"{n:020x}") for n in range(start, min(start + MOST_ROWS, len(vectors))))
        write_part(folder / f"part-{start // MOST_ROWS:06d}.safetensors", Part(rows, whole[start : start + MOST_ROWS]))
    read = join_parts(list(read_parts(folder)[0].values())).vectors_ND
    return lambda query: nearest(read, torch.from_numpy(query), K)[0]


def of_numpy(vectors: np.ndarray) -> Ask:
    """A product, and the first K of it."""

    def ask(query: np.ndarray) -> list[int]:
        scores = vectors @ query
        first = np.argpartition(-scores, K)[:K]
        return first[np.argsort(-scores[first])].tolist()

    return ask


def of_usearch(vectors: np.ndarray, threads: int) -> tuple[Callable[[], Ask], Callable[[], Ask]]:
    """Its exact search and its graph (float32, its own settings). ``ImportError`` where it is not installed."""
    from usearch.index import Index, search

    def exact() -> Ask:
        return lambda query: search(vectors, query, K, "ip", exact=True, threads=threads).keys.tolist()

    def graph() -> Ask:
        index = Index(ndim=vectors.shape[1], metric="ip", dtype="f32")
        index.add(np.arange(len(vectors)), vectors, threads=threads)
        return lambda query: index.search(query, K, threads=threads).keys.tolist()

    return exact, graph


def main() -> None:
    """Measures all of them and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    vectors, asked = synthetic(args.vectors, args.width, args.queries)
    print(
        f"{args.vectors:,} vectors of width {args.width} ({vectors.nbytes / 1e6:.0f} MB), {args.queries} queries, {args.threads} threads"
    )
    print(f"{'':16}{'make, s':>10}{'query, ms':>11}{'more MB':>9}{'recall@10':>11}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        ways = {"wholegrain": lambda: of_wholegrain(vectors, Path(folder)), "numpy": lambda: of_numpy(vectors)}
        try:
            ways["usearch, exact"], ways["usearch, HNSW"] = of_usearch(vectors, args.threads)
        except ImportError:
            print("usearch is not installed: pip install usearch")
        truth: list[list[int]] = []
        for name, make in ways.items():
            way = measured(name, make, asked)
            truth = truth or way.found
            right = np.mean([len(set(a) & set(b)) / K for a, b in zip(way.found, truth, strict=True)])
            print(f"{name:16}{way.seconds:10.2f}{way.milliseconds:11.2f}{way.megabytes:9.0f}{right:11.3f}", flush=True)


if __name__ == "__main__":
    main()
