"""When and how a run's checkpoints are written: at once, in a thread beside the training, or by all processes in parts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from wholegrain.errors import MachineError, UserError
from wholegrain.training import checkpoint
from wholegrain.training.checkpoint import Checkpoint
from wholegrain.training.distributed import Place


class Saver:
    """Writes checkpoints of a run, from the first process.

    Args:
        folder: the run's ``checkpoints/``.
        keep: how many stay.
        place: this process among all.
        asynchronous: copy the state, and let a thread write it while training goes on. One is in flight at most: the next one waits for
            it, and so does the end. Where writing fails, :attr:`failed` says so at the next step.
    """

    def __init__(self, folder: Path, keep: int, place: Place, asynchronous: bool = False) -> None:
        self.folder, self.keep, self.place, self.asynchronous = folder, keep, place, asynchronous
        self._thread: threading.Thread | None = None
        self._problem: Exception | None = None
        self._copies: dict[str, Tensor] = {}

    @property
    def failed(self) -> bool:
        """Whether a checkpoint that this process wrote in the background could not be written."""
        return self._problem is not None

    def save(self, pack: Callable[[], Checkpoint]) -> None:
        """Every process calls this; returns when training may change the state again.

        Raises:
            MachineError: this checkpoint or the one before could not be written; in every process alike.
        """
        if not self.asynchronous:
            self.place.first_alone(lambda: checkpoint.save(pack(), self.folder, self.keep))
            return
        self.finish()
        if self.place.first:
            copied = self._copy(pack())
            self._thread = threading.Thread(target=self._write, args=(copied,), name="checkpoint")
            self._thread.start()

    def finish(self) -> None:
        """Waits until all is written; every process calls this. Raises as :meth:`save`."""
        self.place.first_alone(self._joined)

    def close(self) -> None:
        """Lets what is being written come to its end; for when the run ends with another error."""
        if self._thread is not None:
            self._thread.join()

    def _joined(self) -> None:
        self.close()
        self._thread = None
        if self._problem is not None:
            problem, self._problem = self._problem, None
            raise problem

    def _write(self, copied: Checkpoint) -> None:
        try:
            checkpoint.save(copied, self.folder, self.keep)
        except (MachineError, UserError) as problem:
            self._problem = problem
        except Exception as problem:  # told by the main thread, with where it came from
            self._problem = MachineError(f"A checkpoint could not be written ({type(problem).__name__}: {problem}); resume.")
            self._problem.__cause__ = problem

    def _copy(self, packed: Checkpoint) -> Checkpoint:
        """The tensors in memory of their own, which is used again the next time; page-locked where they come from a CUDA device."""
        for name, value in packed.tensors.items():
            kept = self._copies.get(name)
            if kept is None or kept.shape != value.shape or kept.dtype != value.dtype:
                self._copies[name] = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
            self._copies[name].copy_(value.detach(), non_blocking=value.is_cuda)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return Checkpoint(packed.step, {name: self._copies[name] for name in packed.tensors}, packed.facts)
