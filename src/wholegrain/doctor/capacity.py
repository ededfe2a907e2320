"""Is there room? Device memory for the batch, and disk for checkpoints."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from wholegrain.doctor.finding import Finding
from wholegrain.doctor.trial import Trial
from wholegrain.objectives.objective import Objective
from wholegrain.towers.model import Model
from wholegrain.training.memory.precision import autocast
from wholegrain.training.memory.recompute import recomputed

GIB = 2**30


def memory(trial: Trial, processes: int) -> list[Finding]:
    """Bytes that the backward pass keeps, counted on two small batches and drawn on in a line, beside weights, gradients and moments."""
    settings = trial.recipe.optimiser
    images = len(trial.dataset.layout(trial.recipe.data.split))
    few, more = (4, 8) if images >= 24 else (2, max(3, images // 3))
    first, second = (_kept_bytes(trial, size) for size in (few, more))
    each = max(0.0, (second - first) / (more - few))
    fixed = max(0.0, first - few * each) + fixed_bytes(trial.model, trial.recipe.teacher.kind != "none")
    own = max(1, settings.batch // processes)
    at_once = min(own, settings.micro_batch or own)
    needed, there = 1.2 * (fixed + each * at_once), device_memory(trial.device)
    numbers = {"GiB needed": needed / GIB, "GiB there": there / GIB, "MiB an image": each / 2**20, "images at once": at_once}
    said = (
        f"A process with {at_once:,} images at once needs about {needed / GIB:.2g} GiB ({each / 2**20:.3g} MiB an image) "
        f"and {trial.device} has {there / GIB:.3g} GiB free"
    )
    if not there or needed <= there:
        return [Finding("memory", "fine", said + ".", numbers=numbers)]
    fits = int((there / 1.2 - fixed) / each) if each else 0
    if fits < 1:
        do = "take a smaller model, set optimiser.recompute, or optimiser.shard over several devices"
    else:
        do = f"set optimiser.micro_batch to {1 << (fits.bit_length() - 1)} (the same step to rounding)" + (
            "" if settings.recompute else ", or optimiser.recompute"
        )
    return [Finding("memory", "stop", said + ".", do, numbers)]


def _kept_bytes(trial: Trial, size: int) -> float:
    """Bytes of distinct storages that autograd keeps of one forward pass, the model's own left out."""
    objective, encoder, batch = Objective(trial.recipe.terms), trial.encoder(), trial.batch(size)
    own = {value.untyped_storage().data_ptr() for value in (*trial.model.parameters(), *trial.model.buffers())}
    with (
        _counted(own) as kept,
        recomputed(trial.model, trial.recipe.optimiser.recompute),
        autocast(trial.device, trial.recipe.optimiser.precision),
    ):
        image, text, scale, bias = encoder(batch, objective.needs)
        value = objective(image, text, batch.pairing, scale, bias).value
    del value
    return float(sum(kept.values()))


@contextmanager
def _counted(own: set[int]) -> Iterator[dict[int, int]]:
    sizes: dict[int, int] = {}
    alive: list[Tensor] = []  # else an address would be counted for two tensors

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own and storage.data_ptr() not in sizes:
            sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(value.detach())
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        yield sizes


def fixed_bytes(model: Model, teacher: bool) -> float:
    """Weights and buffers, and of what is trained a gradient, two moments and a teacher's copy."""
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return sum(v.numel() * v.element_size() for v in (*model.parameters(), *model.buffers())) + trained * (3 + teacher)


def device_memory(device: torch.device) -> float:
    """Bytes that are free; 0 where nobody knows."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return 0.0


def disk(trial: Trial, out: Path) -> list[Finding]:
    """Checkpoints that are kept, one more while it is written, and two models with one more of each while it is written."""
    model, saving, teacher = trial.model, trial.recipe.saving, trial.recipe.teacher.kind != "none"
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    whole = sum(v.numel() * v.element_size() for v in (*model.parameters(), *model.buffers()))
    one = trained * (3 + teacher)
    needed = one * (saving.keep + 1) + 3 * whole
    place = out.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    numbers = {"GiB needed": needed / GIB, "GiB free": free / GIB, "GiB a checkpoint": one / GIB}
    said = f"{saving.keep + 1} checkpoints of {one / GIB:.2g} GiB and models take {needed / GIB:.2g} GiB, and {place} has {free / GIB:.3g} GiB free"
    if needed > free:
        return [
            Finding("disk", "stop", said + ".", "make room, choose another disk with --out, or set saving.keep to 1", numbers)
        ]
    if not os.access(place, os.W_OK):
        return [Finding("disk", "stop", f"{place} cannot be written to.", "choose another folder with --out", numbers)]
    if 2 * needed > free:
        return [Finding("disk", "look", said + ".", "watch it, or choose another disk with --out", numbers)]
    return [Finding("disk", "fine", said + ".", numbers=numbers)]
