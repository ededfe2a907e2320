"""Time and peak memory of a forward and a backward pass on the CPU."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor
from torch.profiler import ProfilerActivity, profile


def timed(loss: Callable[[], Tensor]) -> tuple[float, float]:
    """Seconds on the wall and of the processor, forward and backward."""
    wall, cpu = time.perf_counter(), time.process_time()
    loss().backward()
    return time.perf_counter() - wall, time.process_time() - cpu


def with_peak_megabytes(loss: Callable[[], Tensor], leaves: list[Tensor]) -> tuple[tuple[float, float], float]:
    """:func:`timed`, and the peak of what the allocator handed out (2^20 bytes), less the gradients of the leaves, which are dropped."""
    with _silent_stderr(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        seconds = timed(loss)
    gradients = sum(x.grad.nbytes for x in leaves if x.grad is not None)
    drop_gradients(leaves)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiled.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    steps = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e.get("name") == "[memory]")
    held = peak = 0
    for _, number in steps:
        held += number
        peak = max(peak, held)
    return seconds, max(0.0, (peak - gradients) / 2**20)


def drop_gradients(leaves: Iterable[Tensor]) -> None:
    """Sets them to ``None``."""
    for x in leaves:
        x.grad = None


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Some builds of torch's profiler report their every start and stop there, from C++."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
