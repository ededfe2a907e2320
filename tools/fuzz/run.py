"""``python -m fuzz``: many cases of every surface in processes of their own, and the counts."""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.pool
import os
import resource
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from fuzz.watch import Verdict
from wholegrain.progress import each, showing

BATCH = 100
MOST_MEMORY = 16 * 2**30  # of address space; torch alone reserves several
STUCK = 100  # seconds


Case = tuple[str, int]


def _work(cases: list[Case], pipe: Connection, folder: str) -> None:
    """Cases in this process, told one by one; what it writes lies in ``folder``."""
    tempfile.tempdir = folder
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    import torch

    from fuzz.surfaces import SURFACES, warm
    from fuzz.watch import watched

    torch.set_num_threads(1)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    warm(dict(cases))
    for surface, number in cases:
        pipe.send(((surface, number), None))
        pipe.send(((surface, number), watched(SURFACES[surface], f"{surface} {number}")))
    pipe.send(None)


def tried(cases: list[Case]) -> list[tuple[Case, Verdict, str]]:
    """Cases in a process of their own; one that kills or holds it is badly met, and the rest goes on in another."""
    with tempfile.TemporaryDirectory(prefix="fuzz-", ignore_cleanup_errors=True) as folder:
        return _tried(cases, folder)


def _tried(cases: list[Case], folder: str) -> list[tuple[Case, Verdict, str]]:
    found: list[tuple[Case, Verdict, str]] = []
    context = multiprocessing.get_context("spawn")
    while cases:
        mine, other = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(cases, other, folder))
        process.start()
        other.close()
        at = cases[0]
        try:
            while mine.poll(STUCK):
                message = mine.recv()
                if message is None:
                    process.join()
                    return found
                at, result = message
                if result is not None:
                    found.append((at, *result))
            found.append((at, Verdict("stuck", f"over {STUCK} s"), ""))
        except EOFError:
            process.join()
            found.append((at, Verdict("killed", f"exit code {process.exitcode}"), ""))
        process.kill()
        cases = cases[cases.index(at) + 1 :]
    return found


def main() -> int:
    """Counts by surface on standard output, so far if interrupted; badly met cases with their tracebacks in a file. Exit code 1 if there are any."""
    from fuzz.surfaces import SURFACES

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2000, help="in all")
    parser.add_argument("--surface", choices=list(SURFACES), action="append")
    parser.add_argument("--start", type=int, default=0, help="number of the first case")
    parser.add_argument("--only", type=int, help="try one case again, in this process")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("fuzz.txt"))
    given = parser.parse_args()
    chosen = given.surface or list(SURFACES)
    if given.only is not None:
        from fuzz.surfaces import warm
        from fuzz.watch import watched

        warm(chosen[:1])
        verdict, trace = watched(SURFACES[chosen[0]], f"{chosen[0]} {given.only}")
        print(verdict, trace, sep="\n")
        return int(verdict.bad)
    most = -(-given.cases // len(chosen))
    numbers = range(given.start, given.start + most)
    jobs = [[(surface, number) for number in numbers[at : at + BATCH]] for at in range(0, most, BATCH) for surface in chosen]
    counts: dict[str, Counter[str]] = {surface: Counter() for surface in chosen}
    with multiprocessing.pool.ThreadPool(given.jobs) as pool, given.out.open("w") as out, suppress(KeyboardInterrupt), showing() as show:
        for told in each(pool.imap_unordered(tried, jobs), "batches", show, len(jobs)):
            for (surface, number), verdict, trace in told:
                counts[surface][verdict.met] += 1
                if verdict.bad:
                    print(f"== {surface} {number}: {verdict.met}: {verdict.detail}\n{trace}", file=out, flush=True)
    bad = 0
    for surface, counted in counts.items():
        wrong = {met: n for met, n in counted.items() if met not in ("served", "refused")}
        bad += sum(wrong.values())
        said = ", ".join(f"{met} {n}" for met, n in wrong.items()) or "none"
        print(f"{surface:14} {sum(counted.values()):6} cases, served {counted['served']:6}, refused {counted['refused']:6}, badly met {said}")
    print(f"{sum(map(Counter.total, counts.values())):,} cases, {bad} badly met" + (f" (see {given.out})" if bad else ""))
    return int(bad > 0)

