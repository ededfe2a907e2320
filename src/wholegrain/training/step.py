"""One optimiser step: features, the objective's share, gradients, clipping, AdamW; and what they are made with."""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.distributed.tensor import DTensor

from wholegrain.data.batch import Batch
from wholegrain.losses.core.contract import LossOutput
from wholegrain.losses.core.typed_torch import manual_seed, numbers
from wholegrain.objectives.objective import Objective
from wholegrain.objectives.schema import Optimiser
from wholegrain.towers.base import TunedModule
from wholegrain.towers.branch_tokens import BranchTokens
from wholegrain.towers.heads.base import Head
from wholegrain.towers.model import Model
from wholegrain.training.distributed.grad_norm import clip_gradients
from wholegrain.training.memory.accumulate import backward_in_parts
from wholegrain.training.memory.precision import autocast
from wholegrain.training.memory.repeatable import repeatable


@dataclass(frozen=True)
class Outcome:
    """What one step did, over all processes.

    Attributes:
        step: which one, from 0.
        loss: the objective.
        parts: its parts, named as in ``Objective``.
        lr: the learning rate it was taken with.
        grad_norm: before clipping; with fp16 not a finite number where the gradients did not fit and nothing was updated.
        scale: the temperature's inverse, before the step.
        images, texts: how many the step saw, over all processes.
        cut: how many of the texts were longer than the tokeniser's context and lost their end.
    """

    step: int
    loss: float
    parts: dict[str, float]
    lr: float
    grad_norm: float
    scale: float
    images: int
    texts: int
    cut: int = 0


class NonFiniteLossError(Exception):
    """The loss or its gradient is not a finite number; nothing was updated."""


def make_optimiser(module: nn.Module, settings: Optimiser) -> torch.optim.AdamW:
    """Fused AdamW over what is trained; vectors and scalars (gains, biases, the temperature) and gates do not decay.

    A group's ``lr_share`` is the part of the learning rate that it takes: ``layer_decay`` to the power of its depth below the head, or
    ``head_lr`` for what is new.
    """
    share = _lr_shares(module, settings.layer_decay) | _new_shares(module, settings.head_lr)
    groups: dict[tuple[float, float, bool], list[Tensor]] = {}  # sharded parameters (DTensor) cannot be in one group with others
    for decay, wanted in ((settings.weight_decay, False), (0.0, True)):
        for name, parameter in module.named_parameters():
            still = parameter.ndim < 2 or "gate" in name.rpartition(".")[2]
            if parameter.requires_grad and still == wanted:
                groups.setdefault((decay, share.get(id(parameter), 1.0), isinstance(parameter, DTensor)), []).append(parameter)
    made = [{"params": group, "weight_decay": decay, "lr_share": share} for (decay, share, _), group in groups.items()]
    return torch.optim.AdamW(made, lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=True)


def _lr_shares(module: nn.Module, decay: float) -> dict[int, float]:
    """id of a tower's parameter -> decay ** d: d is 1 in the last of n stages, n in the first, and n + 1 for what is in no stage (embeddings)."""
    shares: dict[int, float] = {}
    for tower in module.modules():
        if isinstance(tower, TunedModule) and decay != 1:
            stages = tower.stages()
            shares |= {id(p): decay ** (len(stages) + 1) for p in tower.parameters()}
            for index, stage in enumerate(stages):
                shares |= {id(p): decay ** (len(stages) - index) for p in stage.parameters()}
    return shares


def _new_shares(module: nn.Module, factor: float) -> dict[int, float]:
    """id of a parameter that a fine-tuned model did not bring along -> factor; nothing for the factor 1."""
    if factor == 1:
        return {}
    heads = [part for part in module.modules() if isinstance(part, Head)]
    tokens = [part for part in module.modules() if isinstance(part, BranchTokens) and not part.replaces_class]
    return {id(p): factor for part in heads for p in part.new_parameters()} | {
        id(p): factor for part in tokens for p in part.parameters()
    }


def seed_everything(*parts: int) -> None:
    """Makes the random streams of torch, numpy and Python a function of these numbers (the seed, the step, the process)."""
    number = int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1
    manual_seed(number)
    np.random.seed(number % 2**32)
    random.seed(number)


@dataclass(frozen=True)
class StepOptions:
    """How a step is computed, the same at every step.

    Attributes:
        grad_clip: the largest norm of the gradient; 0 is no clipping.
        precision: ``fp32``, ``bf16`` or ``fp16`` (with autocast).
        micro_batch: images that one process encodes at once; 0 or as many as the batch is all of them
            (:mod:`wholegrain.training.memory.accumulate`).
        scaler: for fp16. Where a gradient does not fit into it, nothing is updated and the factor halves; the step counts all the same.
        group: the processes that share the batch; ``None`` is this one alone.
    """

    grad_clip: float = 0.0
    precision: str = "fp32"
    micro_batch: int = 0
    scaler: GradScaler | None = None
    group: dist.ProcessGroup | None = None


def take_step(
    encoder: nn.Module,
    objective: Objective,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    *,
    step: int,
    lr: float,
    options: StepOptions = StepOptions(),
) -> Outcome:
    """Takes one step and says what it did.

    Args:
        encoder: batch, needs -> image features, text features, scale, bias (``training.encoder.Encoder``, or DDP of it).
        objective: gives this process's share of the loss.
        optimiser: is stepped; its gradients are cleared.
        batch: this process's part of the global batch, on the encoder's device.
        step, lr: the step's number and rate.
        options: how it is computed.

    Raises:
        NonFiniteLossError: before anything is updated, in every process alike; the objective's state is as before the step.
    """
    scaler = options.scaler
    for group in optimiser.param_groups:
        group["lr"] = lr * group.get("lr_share", 1.0)
    carried = objective.state_dict()
    with repeatable(batch.row_N.device):
        output, scale = _backward(encoder, objective, batch, options)
    if scaler is not None:
        scaler.unscale_(optimiser)
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    norm = clip_gradients(parameters, options.grad_clip if options.grad_clip > 0 else math.inf)
    counts = (len(batch.keys), len(batch.pairing.owner_N), batch.cut)
    shares = [output.value.detach(), *output.parts.values(), *map(float, counts)]
    loss, *values, images, texts, cut = _sums(shares, batch.row_N.device, options.group)
    overflow = scaler is not None and scaler.get_scale() > 1  # fp16: may be one, which the scaler answers by halving its factor
    fine = math.isfinite(loss) and (math.isfinite(norm.item()) or overflow)
    if not fine:
        objective.load_state_dict(carried)
    elif scaler is None:
        optimiser.step()
    else:
        scaler.step(optimiser)
    if scaler is not None:
        scaler.update()
    optimiser.zero_grad(set_to_none=True)
    if not fine:
        raise NonFiniteLossError
    for module in encoder.modules():
        if isinstance(module, Model):
            module.keep_in_range()
    parts = dict(zip(output.parts, values, strict=True))
    return Outcome(step, loss, parts, lr, norm.item(), float(scale.detach()), int(images), int(texts), int(cut))


def _backward(encoder: nn.Module, objective: Objective, batch: Batch, options: StepOptions) -> tuple[LossOutput, Tensor]:
    """Adds the batch's gradients to the parameters; gives the objective's output and the temperature's inverse."""
    group, scaler, device = options.group, options.scaler, batch.row_N.device
    world_size = dist.get_world_size(group) if group is not None else 1

    def cast() -> torch.autocast:
        return autocast(device, options.precision)

    def root(share: Tensor) -> Tensor:
        # DDP averages gradients over processes; the shares add up to the loss, so the mean of W times a share is what is wanted.
        return share * world_size if scaler is None else scaler.scale(share * world_size)

    if 0 < options.micro_batch < len(batch.keys):
        return backward_in_parts(encoder, objective, batch, options.micro_batch, cast=cast, root=root, group=group)
    with cast():
        image, text, scale, bias = encoder(batch, objective.needs)
        output = objective(image, text, batch.pairing, scale, bias, group=group)
    torch.autograd.backward(root(output.value))
    return output, scale


def _sums(shares: list[Tensor | float], device: torch.device, group: dist.ProcessGroup | None) -> list[float]:
    """The sums of all processes' shares, in one transfer."""
    dtype = torch.float32 if device.type == "mps" else torch.float64  # MPS has no larger type
    stacked = torch.stack([torch.as_tensor(share, dtype=dtype, device=device) for share in shares])
    if group is not None:
        dist.all_reduce(stacked, group=group)
    return numbers(stacked)
