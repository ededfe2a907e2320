"""Adapters of a model that was trained with them and saved without: read where they are kept, or recovered from what they added.

A saved model holds ``base + alpha / rank * up @ down``. With the base beside it the product is known to rounding; it has rank ``rank`` at most, so
a truncated SVD gives factors of it. They are not those that were trained, but their product is the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from wholegrain.errors import UserError
from wholegrain.towers.lora import adaptable
from wholegrain.towers.model import Model

TOLERANCE = 1e-6
"""How far base and adapter together may be from the trained matrix, as a share of its largest number; float32 rounds to 6e-8."""
Factors = tuple[Tensor, Tensor]
"""``down_RI`` and ``up_OR``."""


@dataclass(frozen=True)
class Adapters:
    """What training added to a model's matrices: ``alpha / rank * up @ down``.

    Attributes:
        rank, alpha: of all of them.
        bases: matrix, by its name in ``model.state_dict()`` -> what it was before, ``[O, I]``.
        factors: the same names -> ``down_RI`` and ``up_OR``.
    """

    rank: int
    alpha: float
    bases: Mapping[str, Tensor]
    factors: Mapping[str, Factors]


def adapted_names(model: Model, towers: Iterable[str], parts: Iterable[str]) -> list[str]:
    """Names in ``model.state_dict()`` of the matrices that have adapters when ``model.lora`` has these towers and parts."""
    sides = {"image": model.image_tower, "text": model.text_tower}
    return [f"{side}_tower.{name}.{weight}" for side in towers for name, _, weight in adaptable(sides[side], parts)]


def fit(factors: Mapping[str, Factors], alpha: float, bases: Mapping[str, Tensor], trained: Mapping[str, Tensor]) -> bool:
    """Whether these factors made the trained matrices of the bases."""
    return all(
        name in factors and factors[name][1].shape[0] == base.shape[0] and _far(factors[name], alpha, base, trained[name]) <= TOLERANCE
        for name, base in bases.items()
    )


def recovered(rank: int, alpha: float, bases: Mapping[str, Tensor], trained: Mapping[str, Tensor]) -> dict[str, Factors]:
    """Factors of what was added to each base.

    Args:
        rank, alpha: of the adapters.
        bases, trained: name -> matrix ``[O, I]`` before and after.

    Raises:
        UserError: something of higher rank was added, by name.

    Example:
        >>> base, added = torch.eye(4), torch.arange(4.0)[:, None].expand(4, 4)
        >>> down, up = recovered(1, 2.0, {"w": base}, {"w": base + added})["w"]
        >>> torch.allclose(2 * up @ down, added, atol=1e-6)
        True
    """
    found = {}
    for name, base_OI in bases.items():
        found[name] = _factors(trained[name].double() - base_OI.double(), rank, alpha / rank)
        if _far(found[name], alpha, base_OI, trained[name]) > TOLERANCE:
            raise UserError(
                f"what training added to {name} has a higher rank than model.lora.rank, which is {rank}, so the model is not what adapters made of "
                "this start; give the run as training left it, or export --to transformers."
            )
    return found


def _factors(added_OI: Tensor, rank: int, scale: float) -> Factors:
    count = min(rank, *added_OI.shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # it looks at products with random vectors: the same model, the same bytes
        left_OQ, values_Q, right_IQ = torch.svd_lowrank(added_OI, q=min(count + 8, *added_OI.shape), niter=4)
    root_R = (values_Q[:count] / scale).sqrt()
    down_RI, up_OR = added_OI.new_zeros(rank, added_OI.shape[1]), added_OI.new_zeros(added_OI.shape[0], rank)
    down_RI[:count], up_OR[:, :count] = (right_IQ[:, :count] * root_R).T, left_OQ[:, :count] * root_R
    return down_RI.float(), up_OR.float()


def _far(factors: Factors, alpha: float, base_OI: Tensor, trained_OI: Tensor) -> float:
    down_RI, up_OR = (factor.double() for factor in factors)
    wrong_OI = base_OI.double() + alpha / len(down_RI) * up_OR @ down_RI - trained_OI.double()
    return (wrong_OI.abs().max() / trained_OI.double().abs().max().clamp(min=1e-12)).item()
