"""Low-rank adapters: the matrices of a tower's blocks stay as they are, and a small product learns what is added to them.

``W + alpha / rank * up @ down`` (LoRA: Hu et al., ICLR 2022, arXiv 2106.09685, section 4.1), with ``up`` zero at the start, so the first step
sees the base model, and ``down`` as ``nn.Linear`` begins (the released code; the paper says Gaussian). A fused matrix of queries, keys and values
has one adapter, with one ``down`` for the three. There is no dropout in front of an adapter: the added matrix is the same for every input.

Adapters are torch's own parametrizations of the weights: whoever reads ``attention.in_proj_weight`` gets the sum, whatever it does with it.
(Replacing modules, as peft does, would miss the blocks of :mod:`wholegrain.towers.blocks`, which read the weights and call functions.) The sum is
taken in the weights' own type, outside of autocast.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from wholegrain.errors import UserError
from wholegrain.towers.base import ImageTower, TextTower

PARTS = ("attention", "mlp")
_MARK = ".parametrizations."


class LowRank(nn.Module):
    """Adds ``alpha / rank * up @ down`` to a matrix.

    Args:
        weight_OI: the matrix, for its shape, type and device.
        rank, alpha: as above.
        random: of ``down``.
    """

    def __init__(self, weight_OI: Tensor, rank: int, alpha: float, random: torch.Generator) -> None:
        super().__init__()
        outputs, inputs = weight_OI.shape
        down_RI = torch.empty(rank, inputs)
        nn.init.kaiming_uniform_(down_RI, a=math.sqrt(5), generator=random)
        self.down_RI = nn.Parameter(down_RI.to(weight_OI))
        self.up_OR = nn.Parameter(weight_OI.new_zeros(outputs, rank))
        self.scale = alpha / rank

    def forward(self, weight_OI: Tensor) -> Tensor:
        """The sum."""
        with torch.autocast(weight_OI.device.type, enabled=False):
            return torch.addmm(weight_OI, self.up_OR, self.down_RI, alpha=self.scale)


def add_lora(tower: ImageTower | TextTower, rank: int, alpha: float, parts: Iterable[str], seed: int) -> None:
    """Freezes a tower and gives the matrices of its blocks adapters; one that has them keeps them.

    Class tokens of branches, which no base model has, are trained as they are.

    Args:
        tower: a transformer.
        rank, alpha: of the adapters.
        parts: ``attention``, ``mlp`` or both.
        seed: of ``down``, together with the weight's name: the same in every process.

    Raises:
        UserError: there are no blocks, or none that can be adapted.
    """
    chosen = adaptable(tower, parts)
    if not chosen or (isinstance(tower, ImageTower) and tower.mlp_branches is not None):
        raise UserError(
            "model.lora needs a tower of transformer blocks without split ones (no convolutional network, no recurrent reader, no MLP "
            "branches); leave that tower out of model.lora.towers."
        )
    tower.requires_grad_(False)
    for name, module, weight in chosen:
        if not parametrize.is_parametrized(module, weight):
            digest = hashlib.blake2b(f"{seed}/{name}/{weight}".encode(), digest_size=8).digest()
            random = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
            parametrize.register_parametrization(module, weight, LowRank(getattr(module, weight), rank, alpha, random))
    for adapter in adapters(tower):
        adapter.requires_grad_(True)
    if isinstance(tower, ImageTower) and tower.branches is not None:
        tower.branches.requires_grad_(True)


def adaptable(tower: ImageTower | TextTower, parts: Iterable[str]) -> list[tuple[str, nn.Module, str]]:
    """(name, module, name of its weight) of the matrices that :func:`add_lora` gives adapters."""
    inside, wanted = {id(module) for block in tower.transformer_blocks() for module in block.modules()}, set(parts)
    return [(name, module, weight) for name, module, weight in _matrices(tower) if id(module) in inside and _part(name) in wanted]


def adapters(module: nn.Module) -> list[LowRank]:
    """All adapters inside a module."""
    return [inner for inner in module.modules() if isinstance(inner, LowRank)]


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """A model's state with adapters added to their matrices: names and shapes are those of a model without any."""
    state: dict[str, Tensor] = {}
    with torch.no_grad():
        for key, value in model.state_dict().items():
            owner, _, rest = key.partition(_MARK)
            name, _, part = rest.partition(".")
            module = model.get_submodule(owner) if rest else model
            if not rest or not isinstance(module.get_submodule(f"parametrizations.{name}.0"), LowRank):
                state[key] = value
            elif part == "original":
                state[f"{owner}.{name}"] = getattr(module, name).detach()
    return state


def _matrices(tower: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """(name, module, name of its weight) of linear layers, and of the fused matrix of attentions."""
    for name, module in tower.named_modules():
        if _MARK in f".{name}.":
            continue
        if isinstance(module, nn.Linear):
            yield name, module, "weight"
        elif isinstance(getattr(module, "in_proj_weight", None), Tensor):  # torch's attention and open_clip's
            yield name, module, "in_proj_weight"


def _part(name: str) -> str:
    return "attention" if "attn" in name or "attention" in name else "mlp"
