"""What is learned of a captioner, and how a frozen decoder looks through it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from wholegrain.downstream.captioning.attention import Attention, KeysValues, feed_forward
from wholegrain.downstream.captioning.decoder import Decoder
from wholegrain.downstream.captioning.resampler import PerceiverResampler
from wholegrain.downstream.captioning.settings import HeadSettings


class GatedCrossAttention(nn.Module):
    """``y + tanh(gate) attention(y, latents)``, then ``y + tanh(gate) feed_forward(y)`` (Alayrac et al. 2022, section 2.2 and figure 4).

    Both gates begin at 0, so that a decoder says at first what it says without pictures. A gate is tanh(s x parameter); the paper's s is 1, see
    :attr:`~wholegrain.downstream.captioning.settings.HeadSettings.gate_speed`.

    Args:
        width: W, of the decoder's hidden states.
        settings: of the latents' width, heads and their width.
    """

    def __init__(self, width: int, settings: HeadSettings) -> None:
        super().__init__()
        self.attend = Attention(width, settings.width, settings)
        self.feed = feed_forward(width, settings.expansion)
        self.attend_gate = nn.Parameter(torch.zeros(()))
        self.feed_gate = nn.Parameter(torch.zeros(()))
        self.gate_speed = settings.gate_speed

    @property
    def gates(self) -> tuple[Tensor, Tensor]:
        """What attention and feed-forward network are multiplied with, -1 to 1."""
        return (self.gate_speed * self.attend_gate).tanh(), (self.gate_speed * self.feed_gate).tanh()

    def forward(self, y_BLW: Tensor, keys_values: KeysValues) -> Tensor:
        """Hidden states ``[B, L, W]`` that have looked; with B rows of latents, or B / n of them, each for n rows in turn (beams)."""
        times = len(y_BLW) // len(keys_values[0])
        if times > 1:
            keys_values = keys_values[0].repeat_interleave(times, 0), keys_values[1].repeat_interleave(times, 0)
        attend_gate, feed_gate = self.gates
        y = y_BLW + attend_gate * self.attend(y_BLW, keys_values)
        return y + feed_gate * self.feed(y)


class Captioner(nn.Module):
    """A resampler, and gated cross-attention for some of a decoder's layers; the decoder itself is no part of it.

    Args:
        seen_width: V, of an image tower's patches.
        width: W, of the decoder.
        layers: of the decoder.
        settings: of the recipe.
    """

    def __init__(self, seen_width: int, width: int, layers: int, settings: HeadSettings) -> None:
        super().__init__()
        self.resampler = PerceiverResampler(seen_width, settings)
        self.places = tuple(range(0, layers, settings.every))
        self.cross = nn.ModuleList(GatedCrossAttention(width, settings) for _ in self.places)

    @property
    def gates(self) -> list[float]:
        """Every gate, attention and feed-forward in turn: 0 is a picture without influence."""
        return [float(gate.detach()) for part in self.cross if isinstance(part, GatedCrossAttention) for gate in part.gates]

    @contextmanager
    def shown(self, decoder: Decoder, patches_BPV: Tensor) -> Iterator[None]:
        """Inside, the decoder looks at these pictures, row by row: hooks before its layers, which are gone afterwards."""
        latents = self.resampler(patches_BPV)
        handles = []
        try:
            for place, cross in zip(self.places, self.cross, strict=True):
                assert isinstance(cross, GatedCrossAttention)
                look = partial(_look, cross, cross.attend.keys_values(latents))
                handles.append(decoder.layers[place].register_forward_pre_hook(look, with_kwargs=True))
            yield
        finally:
            for handle in handles:
                handle.remove()


def _look(
    cross: GatedCrossAttention, keys_values: KeysValues, layer: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
) -> tuple[tuple[object, ...], dict[str, object]]:
    """A layer's arguments with hidden states that have looked; they come first, or by their name."""
    hidden = args[0] if args else kwargs["hidden_states"]
    assert isinstance(hidden, Tensor)
    seen = cross(hidden, keys_values)
    return ((seen, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": seen})
