"""Clipping gradients by their global norm, also where parameters are shared out over processes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def clip_gradients(parameters: Sequence[Tensor], limit: float) -> Tensor:
    """Scales all gradients so that their norm is at most ``limit``; gives the norm before, of the whole model in every process."""
    with_grad = [parameter for parameter in parameters if parameter.grad is not None]
    kinds = [kind for wanted in (True, False) if (kind := [p for p in with_grad if isinstance(p, DTensor) == wanted])]
    if len(kinds) < 2 and not (kinds and isinstance(kinds[0][0], DTensor)):
        return nn.utils.clip_grad_norm_(with_grad, limit)
    norms = []
    for kind in kinds:
        norm = nn.utils.get_total_norm([parameter.grad for parameter in kind if parameter.grad is not None])
        norms.append(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    total = torch.linalg.vector_norm(torch.stack(norms))
    for kind in kinds:
        nn.utils.clip_grads_with_norm_(kind, limit, total)
    return total
