"""What a training step of each method costs, turn by turn in one process, so that methods can be compared at equal time as well as at equal pairs.

A competition's own seconds are those of machines that did other work beside it; processor seconds of one thread are not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.scenes_step import seconds
from wholegrain.data.dataset import Dataset


def step_seconds(data: Dataset, methods: Sequence[str], steps: int, turns: int) -> dict[str, float]:
    """Processor seconds of each method's median step, the least of some turns."""
    torch.set_num_threads(1)
    found = {method: [float("inf")] for method in methods}
    for turn in range(turns):
        for method in methods:
            found[method].append(seconds(data, method, "fp32", steps)[0])
            print(f"turn {turn + 1} of {turns}, {method}: {min(found[method]):.3f} s", flush=True)
    return {method: min(times) for method, times in found.items()}


@dataclass(frozen=True)
class StepCosts:
    """What was measured.

    Attributes:
        seconds: processor seconds of a step, by method.
        made: command, machine, date.
    """

    seconds: Mapping[str, float]
    made: str


def load_costs(path: Path) -> StepCosts:
    """What was measured; nothing where nothing was."""
    if not path.exists():
        return StepCosts({}, "")
    kept = json.loads(path.read_text(encoding="utf-8"))
    command = f"python -m results costs scenes --methods {' '.join(kept['seconds'])} --steps {kept['steps']} --turns {kept['turns']}"
    return StepCosts(kept["seconds"], f"`{command}`; {kept['machine']}; {kept['date']}, at commit {kept['commit']}")
