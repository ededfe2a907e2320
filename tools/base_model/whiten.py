"""A head that begins white: image vectors of zero mean and unit covariance.

What a contrastive model learns first takes the largest directions of its image vectors, and what is left, such as which thing is where,
lies in small ones that a linear head with Adam stretches only slowly. Stretching them once, in closed form, lets every later loss see
all directions alike.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wholegrain.towers.heads.base import PlainHead, Widths
from wholegrain.towers.model import Model


@torch.no_grad()
def whiten_head(model: Model, pooled_NV: Tensor, *, ridge: float = 0.02) -> None:
    """Gives a model a new plain head, of shared width D = V of its image tower, that whitens these pooled vectors; its text side is fresh.

    With mean m, covariance C and mean eigenvalue e of ``pooled_NV``: ``image(x) = (C + ridge e I)^(-1/2) (x - m)``.

    Args:
        pooled_NV: the image tower's pooled vectors of training pictures, ``[N, V]``; N well above V.
        ridge: keeps directions without variance from being stretched without bound; 0 would be exact whitening.

    Example:
        >>> from wholegrain.text.trained import train_tokenizer
        >>> from wholegrain.towers.sources.small import SmallConfig, small_model
        >>> model = small_model(SmallConfig(image_width=8, heads=2, places="added"), train_tokenizer(["a cup"], 50, 32))
        >>> pooled_NV = torch.randn(500, 8) @ torch.randn(8, 8) + 3
        >>> whiten_head(model, pooled_NV, ridge=0.0)
        >>> torch.allclose(torch.cov(model.head.image(pooled_NV).T, correction=0), torch.eye(8), atol=1e-3)
        True
    """
    x = pooled_NV.double()
    mean_V = x.mean(0)
    values_V, vectors_VV = torch.linalg.eigh((x - mean_V).T @ (x - mean_V) / len(x))
    stretch_V = (values_V.clamp_min(0) + ridge * values_V.mean()).rsqrt()
    white_VV = (vectors_VV * stretch_V) @ vectors_VV.T
    width = pooled_NV.shape[1]
    head = PlainHead(Widths(width, model.head.widths.text, width, "linear_bias", "linear"))
    head.image.load_state_dict({"weight": white_VV, "bias": -white_VV @ mean_V})
    model.head = head.to(model.device)
