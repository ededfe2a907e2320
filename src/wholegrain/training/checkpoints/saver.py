"""When and how a run's checkpoints are written: at once, in a thread beside the training, or by all processes in parts."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from wholegrain.errors import MachineError, UserError
from wholegrain.training.checkpoints import checkpoint
from wholegrain.training.checkpoints.checkpoint import Checkpoint
from wholegrain.training.checkpoints.sharded import gloo_context, on_cpu, save_shards
from wholegrain.training.distributed.processes import DistributedContext


class Saver:
    """Writes checkpoints of a run, from the first process, or from all where the model is shared out.

    Args:
        folder: the run's ``checkpoints/``.
        keep: how many stay.
        context: this process among all.
        sharded: every process writes its part (:mod:`wholegrain.training.distributed.sharded`).
        asynchronous: copy the state, and let a thread write it while training goes on. One is in flight at most: the next one waits for
            it, and so does the end. Where writing fails, :attr:`failed` says so at the next step.
    """

    def __init__(self, folder: Path, keep: int, context: DistributedContext, asynchronous: bool = False, sharded: bool = False) -> None:
        self.folder, self.keep, self.context, self.asynchronous, self.sharded = folder, keep, context, asynchronous, sharded
        self._writers = gloo_context(context) if sharded and asynchronous else context
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
        if self.sharded and not self.asynchronous:
            save_shards(pack(), self.folder, self.keep, self.context)
            return
        if not self.asynchronous:
            self.context.on_main_process(lambda: checkpoint.save(pack(), self.folder, self.keep))
            return
        self.finish()
        if self.context.is_main_process or self.sharded:
            copied = self._copy(pack())
            self._thread = threading.Thread(target=self._write, args=(copied,), name="checkpoint")
            self._thread.start()

    def finish(self) -> None:
        """Waits until all is written; every process calls this. Raises as :meth:`save`."""
        if self.sharded:
            self.context.on_all_processes(self._join)
        else:
            self.context.on_main_process(self._join)

    def close(self) -> None:
        """Lets what is being written come to its end; for when the run ends with another error."""
        if self._thread is not None:
            self._thread.join()

    def _join(self) -> None:
        self.close()
        self._thread = None
        if self._problem is not None:
            problem, self._problem = self._problem, None
            raise problem

    def _write(self, copied: Checkpoint) -> None:
        try:
            if self.sharded:
                save_shards(copied, self.folder, self.keep, self._writers)
            else:
                checkpoint.save(copied, self.folder, self.keep)
        except (MachineError, UserError) as problem:
            self._problem = problem
        except Exception as problem:  # told by the main thread, with where it came from
            self._problem = MachineError(f"A checkpoint could not be written ({type(problem).__name__}: {problem}); resume.")
            self._problem.__cause__ = problem

    def _copy(self, packed: Checkpoint) -> Checkpoint:
        """The tensors in memory of their own, which is used again the next time; page-locked where they come from a CUDA device."""
        copied: dict[str, Tensor] = {}
        for name, tensor in packed.tensors.items():
            value = (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()
            kept = self._copies.get(name)
            if kept is None or kept.shape != value.shape or kept.dtype != value.dtype:
                self._copies[name] = kept = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
            kept.copy_(value, non_blocking=value.is_cuda)
            copied[name] = on_cpu(tensor, kept, self._writers) if isinstance(tensor, DTensor) else kept
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return Checkpoint(packed.step, copied, copy.deepcopy(packed.facts))
