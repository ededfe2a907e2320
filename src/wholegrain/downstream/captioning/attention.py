"""What the resampler and the gated cross-attention have in common: attention to another sequence, and a feed-forward network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from wholegrain.downstream.captioning.settings import HeadSettings

KeysValues = tuple[Tensor, Tensor]
"""``[B, heads, K, head_width]`` each."""


class Attention(nn.Module):
    """Multi-head attention of a sequence to another one; the first is normalised here, nothing has a bias.

    Args:
        width, seen_width: of the sequence that asks, and of the one that is looked at.
        settings: heads and their width.
    """

    def __init__(self, width: int, seen_width: int, settings: HeadSettings) -> None:
        super().__init__()
        self.heads, inner = settings.heads, settings.heads * settings.head_width
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, inner, bias=False)
        self.key_value = nn.Linear(seen_width, 2 * inner, bias=False)
        self.out = nn.Linear(inner, width, bias=False)

    def keys_values(self, seen_BKW: Tensor) -> KeysValues:
        """Of what is looked at: made once, however often it is looked at."""
        key, value = self.key_value(seen_BKW).chunk(2, -1)
        return self._by_head(key), self._by_head(value)

    def forward(self, x_BLW: Tensor, keys_values: KeysValues) -> Tensor:
        """``[B, L, W]``: what each place of ``x`` takes from what is looked at."""
        query = self._by_head(self.query(self.norm(x_BLW)))
        taken = functional.scaled_dot_product_attention(query, *keys_values)
        return self.out(taken.transpose(1, 2).flatten(2))

    def _by_head(self, x_BKI: Tensor) -> Tensor:
        return x_BKI.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class SquaredReLU(nn.Module):
    """The square of what is above zero (So et al., *Primer*, 2021)."""

    def forward(self, x: Tensor) -> Tensor:
        """Of the same shape."""
        return torch.relu(x).square()


def feed_forward(width: int, expansion: int) -> nn.Sequential:
    """Normalised, widened, squared ReLU, narrowed; without biases but the norm's."""
    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, expansion * width, bias=False), SquaredReLU(), nn.Linear(expansion * width, width, bias=False)
    )
