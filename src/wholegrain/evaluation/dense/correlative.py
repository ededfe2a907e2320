"""Correlative self-attention in an image tower's last block: patches look at patches that are like them.

SCLIP (Wang, Mei, Yuille, ECCV 2024, equation 4): the weights ``softmax(q k^T)`` of the last block become
``softmax(q q^T) + softmax(k k^T)``, everything else stays. It is done while patches are read and undone afterwards; no parameter changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from wholegrain.evaluation.result import NotSupportedError
from wholegrain.towers.blocks import Dense, Packed, ResidualBlock


@contextmanager
def correlative(model: object, on: bool = True) -> Iterator[None]:
    """While open, the last block of the model's image tower attends by similarity of queries and of keys.

    Raises:
        NotSupportedError: a tower whose last block is no plain attention of open_clip or timm.
    """
    if not on:
        yield
        return
    module, name, changed = _place(model)
    setattr(module, name, changed)
    try:
        yield
    finally:
        delattr(module, name)  # the class's own method is seen again


def attend(q: Tensor, k: Tensor, v: Tensor, mask_SS: Tensor | None = None) -> Tensor:
    """``(softmax(q q^T / sqrt(E)) + softmax(k k^T / sqrt(E))) v`` for ``[..., S, E]``."""

    def weights(x: Tensor) -> Tensor:
        near = x @ x.transpose(-1, -2) * x.shape[-1] ** -0.5
        return (near if mask_SS is None else near + mask_SS).softmax(-1)

    return (weights(q) + weights(k)) @ v


def _place(model: object) -> tuple[nn.Module, str, Callable[..., object]]:
    net = getattr(getattr(model, "image_tower", None), "net", None)
    blocks = getattr(getattr(net, "transformer", None), "resblocks", None)
    if blocks is not None and isinstance(blocks[-1], ResidualBlock):
        return blocks[-1], "attention", _open_clip(blocks[-1])
    blocks = getattr(net, "blocks", None)
    attention = getattr(blocks[-1], "attn", None) if blocks is not None and len(blocks) else None
    if attention is not None and all(hasattr(attention, part) for part in ("qkv", "q_norm", "k_norm", "proj", "num_heads")):
        return attention, "forward", _timm(attention)
    raise NotSupportedError(
        "Correlative attention needs queries and keys of a Vision Transformer's last block, which this image tower has not; "
        "use plain patches."
    )


def _open_clip(block: ResidualBlock) -> Callable[..., tuple[Tensor, Tensor]]:
    def attention(x: Tensor, layout: Dense | Packed, pooled_only: bool) -> tuple[Tensor, Tensor]:
        module = block.attn
        if pooled_only or not isinstance(layout, Dense):  # only the class token is read: nothing to correlate
            return ResidualBlock.attention(block, x, layout, pooled_only)
        heads = [part.unflatten(-1, (module.num_heads, -1)).transpose(1, 2) for part in block.qkv(x, layout, pooled_only)]
        mask = None if layout.mask_SS is None else layout.mask_SS.to(x.dtype)
        return x, attend(*heads, mask_SS=mask).transpose(1, 2).flatten(2)

    return attention


class _Attention(Protocol):
    """timm's, by the parts that :func:`_place` has found."""

    num_heads: int
    qkv: Callable[[Tensor], Tensor]
    q_norm: Callable[[Tensor], Tensor]
    k_norm: Callable[[Tensor], Tensor]
    proj: Callable[[Tensor], Tensor]


def _timm(attention: _Attention) -> Callable[..., Tensor]:
    def forward(x: Tensor, attn_mask: Tensor | None = None, **_: object) -> Tensor:
        qkv = attention.qkv(x).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        seen = attend(attention.q_norm(q), attention.k_norm(k), v, attn_mask).transpose(1, 2).flatten(2)
        norm = getattr(attention, "norm", None)
        return attention.proj(seen if norm is None else norm(torch.as_tensor(seen)))

    return forward
