"""Models that are shared out: every process keeps a part of each weight, its gradient and its moments (``optimiser.shard``).

torch's ``fully_shard`` gathers a block's weights when it is needed and drops them behind it (Zhao et al., *PyTorch FSDP*, VLDB 2023, arXiv
2304.11277; ZeRO stage 3: Rajbhandari et al., SC 2020, arXiv 1910.02054). Every block of a transformer is a unit, all else is another.
Weights are gathered in the type they have; autocast computes as without. Single numbers (temperature, bias) are whole in every process.
"""

from __future__ import annotations

import copy
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from wholegrain.errors import UserError
from wholegrain.objectives.schema import Recipe
from wholegrain.towers.model import Model
from wholegrain.training.distributed.processes import DistributedContext
from wholegrain.training.encoder import Encoder
from wholegrain.training.memory.accumulate import refuse_batchnorm


def refuse_shard(recipe: Recipe, model: Model) -> None:
    """Raises :class:`UserError` for what cannot be shared out; call with the model in training mode."""
    with_it = {
        "teacher.kind": recipe.teacher.kind != "none",
        "optimiser.compile": recipe.optimiser.compile,
        "optimiser.precision fp16": recipe.optimiser.precision == "fp16",
    }
    odd = next((name for name, wanted in with_it.items() if wanted), None)
    if odd is not None:
        raise UserError(f"optimiser.shard does not go together with {odd}; leave one of them out.")
    refuse_batchnorm(model, "optimiser.shard")
    try:
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader  # noqa: F401
    except ImportError:
        raise UserError(f"optimiser.shard needs torch 2.9 or newer, and this is {torch.__version__}; update it.") from None


class ShardedModel:
    """A model that was shared out over the processes of a context.

    Args:
        encoder: with its model on the device, before the optimiser is made; changed in place.
        context: with several processes.
    """

    def __init__(self, encoder: Encoder, context: DistributedContext) -> None:
        model = encoder.model
        assert context.group is not None
        self._full: Model = copy.deepcopy(model).cpu()
        mesh = DeviceMesh.from_group(context.group, context.device.type)
        numbers = {parameter for parameter in encoder.parameters() if parameter.ndim == 0}
        for tower in (model.image_tower, model.text_tower):
            for block in tower.transformer_blocks():
                fully_shard(block, mesh=mesh, ignored_params=numbers)
        fully_shard(encoder, mesh=mesh, ignored_params=numbers, reshard_after_forward=False)
        for parameter in numbers:
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(partial(_average, context.group))

    @torch.no_grad()
    def full_model(self, model: Model) -> Model:
        """An ordinary model on the CPU with the weights as they are now; every process calls this. It is the same object every time."""
        own = self._full.state_dict()
        for name, value in model.state_dict().items():
            if isinstance(value, Tensor):
                own[name].copy_(value.full_tensor() if isinstance(value, DTensor) else value)
        return self._full


def _average(group: dist.ProcessGroup, parameter: Tensor) -> None:
    assert parameter.grad is not None
    dist.all_reduce(parameter.grad, group=group)
    parameter.grad /= dist.get_world_size(group)
