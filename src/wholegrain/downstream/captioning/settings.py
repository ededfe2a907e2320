"""The recipe of captioning: its tables, their defaults, and what they may hold."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from wholegrain.downstream.settings import HeadTraining, require


@dataclass(frozen=True)
class DecoderSettings:
    """The language model that is trained on the data's captions where none is given: GPT-2's form (Radford et al. 2019), a small one.

    Attributes:
        layers, width, heads: of the transformer.
        vocabulary: most tokens of its byte-level byte pairs, which are trained on the same captions.
        steps, batch, lr, warmup_steps: of its training; captions per step; AdamW, cosine to zero.
        dropout: while it is trained.
        digest: of the frozen weights; filled in by the command, so that a run knows its decoder.
    """

    layers: int = 3
    width: int = 128
    heads: int = 4
    vocabulary: int = 2048
    steps: int = 400
    batch: int = 32
    lr: float = 2e-3
    warmup_steps: int = 50
    dropout: float = 0.1
    digest: str = ""

    def __post_init__(self) -> None:
        for name in ("layers", "width", "heads", "steps", "batch"):
            require(getattr(self, name) >= 1, f"decoder.{name}", getattr(self, name), "1 or more")
        require(self.width % self.heads == 0, "decoder.width", self.width, f"a multiple of its heads, {self.heads}")
        require(self.vocabulary >= 258, "decoder.vocabulary", self.vocabulary, "258 or more: 256 bytes, and two marks")
        require(0 <= self.dropout < 1, "decoder.dropout", self.dropout, "in [0, 1)")
        require(self.lr > 0 and self.warmup_steps >= 0, "decoder.lr", self.lr, "above 0, with warmup_steps 0 or more")


@dataclass(frozen=True)
class HeadSettings:
    """What is learned: the resampler and the gated cross-attention.

    Attributes:
        latents: vectors that a picture becomes.
        width: of the latents.
        layers: of the resampler.
        heads, head_width: of every attention.
        every: cross-attention stands before each ``every``-th layer of the decoder, the first one always.
        expansion: how many times wider a feed-forward network is inside.
        gate_speed: a gate is tanh(gate_speed x parameter). Flamingo's is 1; an optimiser that moves every parameter by about its rate needs thousands
            of steps to open such a gate.
    """

    latents: int = 16
    width: int = 192
    layers: int = 2
    heads: int = 4
    head_width: int = 48
    every: int = 1
    expansion: int = 4
    gate_speed: float = 10.0

    def __post_init__(self) -> None:
        require(self.gate_speed > 0, "head.gate_speed", self.gate_speed, "above 0")
        for name in ("latents", "width", "layers", "heads", "head_width", "every", "expansion"):
            require(getattr(self, name) >= 1, f"head.{name}", getattr(self, name), "1 or more")


@dataclass(frozen=True)
class CaptionData:
    """Which captions are learned, and are references.

    Attributes:
        roles: of each picture, its captions of the first of these roles that it has.
        max_tokens: longest caption, its end mark included; longer ones are cut in training.
    """

    roles: tuple[str, ...] = ("detail", "web")
    max_tokens: int = 48

    def __post_init__(self) -> None:
        require(bool(self.roles), "data.roles", list(self.roles), "one role or more")
        require(self.max_tokens >= 2, "data.max_tokens", self.max_tokens, "2 or more")


@dataclass(frozen=True)
class Generation:
    """How captions are written.

    Attributes:
        beams: of the beam search; 1 is greedy.
        length_penalty: the exponent of a hypothesis' length that its log probability is divided by.
        batch: pictures at a time.
    """

    beams: int = 3
    length_penalty: float = 1.0
    batch: int = 64

    def __post_init__(self) -> None:
        for name in ("beams", "batch"):
            require(getattr(self, name) >= 1, f"generation.{name}", getattr(self, name), "1 or more")
        require(math.isfinite(self.length_penalty), "generation.length_penalty", self.length_penalty, "a finite number")


@dataclass(frozen=True)
class CaptionSettings:
    """The recipe ``caption``."""

    training: HeadTraining = field(default_factory=HeadTraining)
    decoder: DecoderSettings = field(default_factory=DecoderSettings)
    head: HeadSettings = field(default_factory=HeadSettings)
    data: CaptionData = field(default_factory=CaptionData)
    generation: Generation = field(default_factory=Generation)
