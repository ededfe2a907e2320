"""Checkpoints of a model that is shared out: every process writes and verifies its part.

A checkpoint is written by all: each process its parts, as safetensors, by ``torch.distributed.checkpoint``; nothing is pickled. What is
no part of a weight lies in ``state.safetensors`` as always. Any number of processes can go on from it, one alone, too. The run's
model is gathered and saved whole.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, distribute_tensor

from wholegrain.errors import MachineError
from wholegrain.files import sha256
from wholegrain.towers.model import Model
from wholegrain.training.checkpoints import checkpoint
from wholegrain.training.checkpoints.checkpoint import Checkpoint
from wholegrain.training.distributed.processes import DistributedContext

SHARDS = "shards"
"""The folder in a checkpoint that holds what all processes wrote."""


def save_shards(saved: Checkpoint, folder: Path, keep: int, context: DistributedContext) -> None:
    """As :func:`wholegrain.training.checkpoints.checkpoint.save`, by all processes; where one fails, all do, and the older ones stay."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save as write

    final = folder / f"step-{saved.step:08d}"
    parts = {name: value for name, value in saved.tensors.items() if isinstance(value, DTensor)}
    rest = {name: value.detach().cpu().contiguous() for name, value in saved.tensors.items() if name not in parts}
    with ExitStack() as stack:

        def begin() -> None:
            if context.is_main_process:
                stack.enter_context(checkpoint.aside(final))

        def put() -> None:
            try:
                writer = HuggingFaceStorageWriter(str(part / SHARDS), save_distributed=True)
                write(parts, storage_writer=writer, process_group=context.group)
                if context.is_main_process:
                    save_file(rest, part / checkpoint.TENSORS)
            except (OSError, SafetensorError, CheckpointException) as problem:
                raise checkpoint.unwritable(final, problem) from problem

        def end() -> None:
            if context.is_main_process:
                checkpoint.write_facts(part, saved.step, files, {**saved.facts, "processes": context.world_size})

        part = final.with_name(f".{final.name}.part")
        context.on_all_processes(begin)
        context.on_all_processes(put)
        names = sorted(str(path.relative_to(part)) for path in part.rglob("*") if path.is_file())
        digests = context.all_gather({name: sha256(part / name) for name in names[context.rank :: context.world_size]})
        files = {name: digest for found in digests for name, digest in found.items()}
        context.on_all_processes(end)
    if context.is_main_process:
        checkpoint.keep_newest(folder, keep)
    context.barrier()


def gloo_context(context: DistributedContext) -> DistributedContext:
    """The same processes, joined once more through gloo, so that threads of theirs may speak while training goes on."""
    assert context.group is not None
    ranks = dist.get_process_group_ranks(context.group)
    group = dist.new_group(ranks, backend="gloo", use_local_synchronization=True)
    assert isinstance(group, dist.ProcessGroup)
    return replace(context, group=group, store=None, device=torch.device("cpu"))


def on_cpu(shared: DTensor, local: Tensor, context: DistributedContext) -> DTensor:
    """A copy of this process's part as a part of the whole, on the CPU."""
    assert context.group is not None
    mesh = DeviceMesh.from_group(context.group, "cpu")
    return DTensor.from_local(local, mesh, shared.placements, run_check=False, shape=shared.shape, stride=shared.stride())


def load_shards(context: DistributedContext) -> Callable[[Path], Checkpoint]:
    """As :func:`wholegrain.training.checkpoints.checkpoint.load`, by all processes, each of which verifies some of the files.

    What was shared out is not read yet (:func:`read_shards`).
    """

    def load(path: Path) -> Checkpoint:
        found, problem = None, None
        try:
            facts = checkpoint.read_facts(path, slice(context.rank, None, context.world_size))
            found = Checkpoint(facts["step"], load_file(path / checkpoint.TENSORS), facts, _described(path))
        except checkpoint.BROKEN as error:
            problem = str(error)
        broken = next((text for text in context.all_gather(problem) if text is not None), None)
        if broken is not None:
            raise ValueError(broken)
        assert found is not None
        return found

    return load


def _described(path: Path) -> dict[str, Tensor]:
    """The tensors that all processes wrote, without their contents."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    if not (path / SHARDS).is_dir():
        return {}
    try:
        metadata = HuggingFaceStorageReader(str(path / SHARDS)).read_metadata().state_dict_metadata
        tensors = {name: entry for name, entry in metadata.items() if isinstance(entry, TensorStorageMetadata)}
        if len(tensors) < len(metadata):
            raise TypeError("not all of it is tensors")
        return {name: torch.empty(m.size, dtype=m.properties.dtype, device="meta") for name, m in tensors.items()}
    except Exception as problem:  # whatever torch meets in files that fit their checksums
        raise ValueError(f"{SHARDS} cannot be read ({problem})") from problem


def read_shards(saved: Checkpoint, folder: Path, model: Model, context: DistributedContext) -> Checkpoint:
    """The checkpoint with all tensors, shared out as the model is now; every process calls this."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load as read

    path = folder / f"step-{saved.step:08d}"
    like = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    tensors = {name: _like(value, like.get(_owner(name))) for name, value in saved.tensors.items()}
    if saved.sharded:
        reader = HuggingFaceStorageReader(str(path / SHARDS))
        parts = {name: torch.empty_like(like[_owner(name)]) for name in saved.sharded}
        try:
            read(parts, storage_reader=reader, process_group=context.group, no_dist=context.group is None)
        except CheckpointException as problem:
            raise MachineError(f"{path} could not be read ({str(problem)[:200]}); look at the disk, then resume.") from problem
        tensors |= parts
    return Checkpoint(saved.step, tensors, saved.facts)


def _owner(name: str) -> str:
    """The name of the parameter that ``model/NAME`` or ``optimiser/NAME/part`` belongs to; empty for others."""
    kind, _, rest = name.partition("/")
    return rest if kind == "model" else rest.rpartition("/")[0] if kind == "optimiser" else ""


def _like(value: Tensor, owner: Tensor | None) -> Tensor:
    """A whole tensor, shared out as its parameter is."""
    if isinstance(owner, DTensor) and value.shape == owner.shape:
        return distribute_tensor(value.to(owner.device), owner.device_mesh, owner.placements)
    return value
