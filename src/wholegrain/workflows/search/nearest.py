"""The vectors of an index that are nearest to a query."""

from __future__ import annotations

from torch import Tensor


def nearest(vectors_ND: Tensor, query_D: Tensor, k: int) -> tuple[list[int], list[float]]:
    """Places and products of the k vectors with the greatest product with the query, greatest first; equal ones in their order.

    Example:
        >>> import torch
        >>> nearest(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([1.0, 0.0]), 2)
        ([0, 2], [1.0, 1.0])
    """
    score_N = vectors_ND @ query_D
    k = min(k, len(score_N))
    least = score_N.topk(k).values[-1]
    place_M = (score_N >= least).nonzero().squeeze(1)  # topk takes any of equal ones
    chosen = place_M[score_N[place_M].sort(descending=True, stable=True).indices][:k]
    return chosen.tolist(), score_N[chosen].tolist()
