"""The Perceiver resampler: however many patches a picture has, a fixed number of latents that a decoder looks at."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wholegrain.downstream.captioning.attention import Attention, feed_forward
from wholegrain.downstream.captioning.settings import HeadSettings


class PerceiverResampler(nn.Module):
    """Learned latents look at the patches and at themselves, layer by layer (Alayrac et al. 2022, *Flamingo*, section 2.1 and figure 5).

    Per layer ``x = x + attention(x, [patches, x])`` and ``x = x + feed_forward(x)``; a norm at the end. What a picture's latents are does not
    depend on the order of its patches: where a patch lies has to be in the patch itself, as a Vision Transformer puts it there.
    Flamingo's patches have the resampler's width already; here a linear map brings them there. It also embeds time, for videos: left out.

    Args:
        seen_width: V, of the patches.
        settings: latents, width, layers, heads.
    """

    def __init__(self, seen_width: int, settings: HeadSettings) -> None:
        super().__init__()
        width = settings.width
        self.project = nn.Linear(seen_width, width)
        self.latents = nn.Parameter(torch.randn(settings.latents, width))
        self.attend = nn.ModuleList(Attention(width, width, settings) for _ in range(settings.layers))
        self.feed = nn.ModuleList(feed_forward(width, settings.expansion) for _ in range(settings.layers))
        self.seen_norm = nn.ModuleList(nn.LayerNorm(width) for _ in range(settings.layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, patches_BPV: Tensor) -> Tensor:
        """Patches of any number P -> latents ``[B, latents, width]``."""
        seen = self.project(patches_BPV)
        x = self.latents.expand(len(seen), -1, -1)
        for attend, feed, norm in zip(self.attend, self.feed, self.seen_norm, strict=True):
            assert isinstance(attend, Attention)
            x = x + attend(x, attend.keys_values(torch.cat([norm(seen), attend.norm(x)], 1)))
            x = x + feed(x)
        return self.norm(x)
