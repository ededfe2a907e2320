"""How a training is called: what is no part of the method, and what others have a say in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch.distributed as dist

from wholegrain.towers.model import Model
from wholegrain.training.distributed.processes import TIMEOUT
from wholegrain.training.step import Outcome

Evaluate = Callable[[Model], Mapping[str, float]]
OnStep = Callable[[Outcome], bool | None]


@runtime_checkable
class SharedEvaluate(Protocol):
    """An :data:`Evaluate` in which the other processes can help: all of them call ``shared``, and the main one calls what it gives."""

    def shared(self, model: Model, group: dist.ProcessGroup) -> Callable[[], Mapping[str, float]]: ...


@dataclass(frozen=True)
class TrainOptions:
    """All that is no part of the method: where a run is kept, and what it runs on.

    Attributes:
        out: a new folder, or that of the run to resume.
        resume: go on from the newest intact checkpoint in ``out``.
        device: such as ``cpu``; by default CUDA where there is one.
        workers: processes that load data, per training process.
        timeout: seconds to wait for another process before it is taken for lost.
        after: the folder of a run of the same recipe, data and model with fewer steps, both with the schedule ``wsd``: this one goes on from
            the step with which that one's rate began to fall, and ends with the bits of a run that took all steps itself. Where the
            two do not share those steps, this run takes all of its steps itself. Not together with ``evaluate``: the best model so far may be the other's.
        cache: a folder that keeps raw features of frozen towers from run to run.
        quiet: no progress.
        tracker: ``wandb``, ``trackio`` or ``mlflow``, and the project there.
        origin: further facts for ``run.json``, such as the command.
    """

    out: Path
    resume: bool = False
    device: str | None = None
    workers: int = 0
    timeout: float = TIMEOUT
    after: Path | None = None
    cache: Path | None = None
    quiet: bool = False
    tracker: tuple[str, str] | None = None
    origin: Mapping[str, object] = field(default_factory=dict)
