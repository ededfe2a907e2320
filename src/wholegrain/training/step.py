"""One optimiser step: features, the objective's share, gradients, clipping, AdamW; and what they are made with."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from wholegrain.data.batch import Batch
from wholegrain.objectives.objective import Objective
from wholegrain.objectives.schema import Optimiser


@dataclass(frozen=True)
class Outcome:
    """What one step did, over all processes.

    Attributes:
        step: which one, from 0.
        loss: the objective.
        parts: its parts, named as in ``Objective``.
        lr: the learning rate it was taken with.
        grad_norm: before clipping.
        scale: the temperature's inverse, before the step.
        images, texts: how many the step saw, over all processes.
    """

    step: int
    loss: float
    parts: dict[str, float]
    lr: float
    grad_norm: float
    scale: float
    images: int
    texts: int


class NonFiniteLossError(Exception):
    """The loss or its gradient is not a finite number; nothing was updated."""


def learning_rate(step: int, total: int, settings: Optimiser) -> float:
    """The rate of step 0..total-1: linear warm-up (for half of all steps at most), then cosine to zero or constant.

    Example:
        >>> [round(learning_rate(s, 8, Optimiser(lr=1.0, warmup_steps=2)), 3) for s in range(8)]
        [0.5, 1.0, 1.0, 0.933, 0.75, 0.5, 0.25, 0.067]
    """
    warmup = min(settings.warmup_steps, total // 2)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    if settings.schedule == "constant":
        return settings.lr
    return settings.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def make_optimiser(module: nn.Module, settings: Optimiser) -> torch.optim.AdamW:
    """Fused AdamW over what is trained; vectors and scalars (gains, biases, the temperature) and gates do not decay."""
    trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    still = [p for name, p in trained if p.ndim < 2 or "gate" in name.rpartition(".")[2]]
    ids = {id(p) for p in still}
    groups = [
        {"params": [p for _, p in trained if id(p) not in ids], "weight_decay": settings.weight_decay},
        {"params": still, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=True)


def resolve_precision(wanted: str, device: torch.device) -> str:
    """``fp32`` or ``bf16``; ``auto`` takes bf16 where the machine has units for it: CUDA, or a CPU with AMX or AVX512-BF16."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    able = torch.cpu.get_capabilities() if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities") else {}
    return "bf16" if able.get("amx_bf16") or able.get("avx512_bf16") else "fp32"


def seed_everything(*parts: int) -> None:
    """Makes torch's random streams a function of these numbers (the seed, the step, the process)."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest, "big") >> 1)


def take_step(
    encoder: nn.Module,
    objective: Objective,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    *,
    step: int,
    lr: float,
    grad_clip: float = 0.0,
    precision: str = "fp32",
    group: dist.ProcessGroup | None = None,
) -> Outcome:
    """Takes one step and says what it did.

    Args:
        encoder: batch, needs -> image features, text features, scale, bias (``training.encoder.Encoder``, or DDP of it).
        objective: gives this process's share of the loss.
        optimiser: is stepped; its gradients are cleared.
        batch: this process's part of the global batch, on the encoder's device.
        step, lr: the step's number and rate.
        grad_clip: largest gradient norm, 0 for no limit.
        precision: ``fp32`` or ``bf16`` (autocast).
        group: the processes that share the batch.

    Raises:
        NonFiniteLossError: before anything is updated, in every process alike.
    """
    world = dist.get_world_size(group) if group is not None else 1
    for settings in optimiser.param_groups:
        settings["lr"] = lr
    device = batch.row_N.device
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
        image, text, scale, bias = encoder(batch, objective.needs)
        output = objective(image, text, batch.pairing, scale, bias, group=group)
    # DDP averages gradients over processes; the shares add up to the loss, so the mean of W times a share is what is wanted.
    (output.value * world).backward()
    parameters = [p for settings in optimiser.param_groups for p in settings["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, grad_clip if grad_clip > 0 else math.inf)
    counts = (len(batch.keys), len(batch.pairing.owner_N))
    loss, *values, images, texts = _sums([output.value.detach(), *output.parts.values(), *map(float, counts)], device, group)
    if not math.isfinite(loss) or not math.isfinite(norm.item()):
        optimiser.zero_grad(set_to_none=True)
        raise NonFiniteLossError
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    parts = dict(zip(output.parts, values, strict=True))
    return Outcome(step, loss, parts, lr, norm.item(), float(scale.detach()), int(images), int(texts))


def _sums(shares: list[Tensor | float], device: torch.device, group: dist.ProcessGroup | None) -> list[float]:
    """The sums of all processes' shares, in one transfer."""
    stacked = torch.stack([torch.as_tensor(share, dtype=torch.float64, device=device) for share in shares])
    if group is not None:
        dist.all_reduce(stacked, group=group)
    return stacked.tolist()
