"""How much arithmetic a step is, and how much the device could do in its time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from wholegrain.data.batch import Batch, View
from wholegrain.objectives.objective import Objective

SAMPLE = 32
"""Images on which a step's arithmetic is counted."""
MOMENT = 0.05
"""Seconds that one of the products may take by which a device's peak is measured."""
_KINDS = {"bf16": torch.bfloat16, "fp16": torch.float16}


def step_work(
    encoder: nn.Module,
    objective: Objective,
    batch: Batch,
    cast: Callable[[], torch.autocast],
    sample: int = SAMPLE,
    alone: dist.ProcessGroup | None = None,
) -> float:
    """Multiplications and additions of the matrix products of one step, forward and backward, of this process.

    Counted on the first ``sample`` images and scaled to the batch; the second forward pass of ``micro_batch`` is not in it.
    Nothing changes: no weight, gradient, statistic, carried state or random number.

    Args:
        encoder: ``training.encoder.Encoder`` itself, not DDP of it.
        objective, batch: of the step; the objective is evaluated on this process's images alone.
        cast: a fresh autocast context.
        alone: of several processes, a group of this one alone, for the others do not count along.
    """
    part = _first(batch, sample)
    carried, training = objective.state_dict(), [module for module in encoder.modules() if module.training]
    trained = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    devices = [batch.row_N.device] if batch.row_N.is_cuda else []
    try:
        encoder.eval()  # statistics and dropout stay as they are
        with torch.random.fork_rng(devices), _Counter() as counter:
            with torch.compiler.set_stance("force_eager"), cast():
                image, text, scale, bias = encoder(part, objective.needs)
                output = objective(image, text, part.pairing, scale, bias, group=alone)
            torch.autograd.grad(output.value, trained, allow_unused=True)
    finally:
        for module in training:
            module.training = True
        objective.load_state_dict(carried)
    return counter.work * len(batch.keys) / len(part.keys)


class _Counter(TorchDispatchMode):
    """Adds up torch's own counts of every operation; FlopCounterMode's hooks on modules do not go with ``autograd.grad``."""

    work = 0

    def __torch_dispatch__(self, func: OpOverload, types: object, args: tuple[object, ...] = (), kwargs: Mapping[str, object] | None = None) -> object:
        """Runs the operation, and counts it if it is a matrix product."""
        result = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        self.work += 0 if count is None else int(count(*args, **(kwargs or {}), out_val=result))
        return result


def _first(batch: Batch, images: int) -> Batch:
    """The first images with their texts, which stand in the order of their images."""
    pairing = batch.pairing.select_texts(batch.pairing.owner_N < images)
    count = len(pairing.owner_N)
    phrases = None if batch.phrases is None else batch.phrases.map(lambda x: x[:count])
    spoken_Q = batch.row_N[:0] if phrases is None else phrases.row_NK[phrases.weight_NK > 0]
    rows_U, place = torch.cat([batch.row_N[:count], spoken_Q]).unique(return_inverse=True)
    if phrases is not None:
        row_NK = torch.zeros_like(phrases.row_NK).masked_scatter(phrases.weight_NK > 0, place[count:])
        phrases = replace(phrases, row_NK=row_NK)
    return replace(
        batch,
        views=tuple(View(view.pixels_BCHW[:images], view.crops_B4[:images]) for view in batch.views),
        tokens_UL=batch.tokens_UL[rows_U],
        length_U=batch.length_U[rows_U],
        row_N=place[:count],
        pairing=pairing.with_images(slice(images)),
        keys=batch.keys[:images],
        texts=tuple(batch.texts[row] for row in rows_U.tolist()),
        phrases=phrases,
    )


def matrix_peak(device: torch.device, precision: str, most: int = 2048) -> float:
    """FLOP/s of the fastest of four products of two square matrices, of at most ``most`` rows (four times as many on a GPU).

    They are doubled only while that takes no longer than a moment: a processor without units for bf16 is a hundred times slower in it.
    """
    most *= 4 if device.type == "cuda" else 1
    size, kind = min(256, most), _KINDS.get(precision, torch.float32)
    while (seconds := _product_seconds(device, kind, size)) < MOMENT / 8 and size < most:
        size *= 2
    return 2 * size**3 / seconds


def _product_seconds(device: torch.device, kind: torch.dtype, size: int) -> float:
    """The fastest of four."""
    random = torch.Generator().manual_seed(0)  # leaves the global stream alone
    a = torch.randn(size, size, generator=random).to(device, kind)
    b, best = a.T.contiguous(), float("inf")
    for _ in range(4):
        started = time.perf_counter()
        product: Tensor = a @ b
        if device.type != "cpu":
            product[0, 0].item()  # waits
        best = min(best, time.perf_counter() - started)
    return best


def peak_megabytes(device: torch.device) -> float:
    """The most memory that was in use at once (2^20 bytes): of the device, or of this process on a CPU; 0 where nobody knows."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # on Windows
        return 0.0
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
