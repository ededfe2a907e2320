"""The captioner as a task that :func:`wholegrain.downstream.trainer.train_head` trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from wholegrain.downstream.captioning.captioner import Captioner
from wholegrain.downstream.captioning.decoder import Captions, Decoder
from wholegrain.downstream.captioning.examples import CaptionExample
from wholegrain.downstream.captioning.settings import CaptionSettings
from wholegrain.downstream.task import Term, View
from wholegrain.towers.base import RawImage, real_tokens
from wholegrain.towers.model import Model


@dataclass(frozen=True)
class CaptionTargets:
    """One caption a picture, drawn of its own."""

    captions: Captions

    def to(self, device: torch.device) -> CaptionTargets:
        """On another device."""
        return CaptionTargets(self.captions.to(device))


class CaptionTask:
    """Trains a :class:`Captioner` for a frozen decoder: the mean cross-entropy of a caption's tokens, the end mark among them.

    Args:
        settings: the recipe.
        decoder: frozen; it goes to the model's device.
    """

    name = "caption"
    needs = frozenset({"patches"})
    view: View = "whole"

    def __init__(self, settings: CaptionSettings, decoder: Decoder) -> None:
        self.settings, self.decoder = settings, decoder

    def make_head(self, model: Model) -> Captioner:
        """A new captioner with its gates at 0."""
        nn.Module.to(self.decoder.model, model.device)
        return Captioner(model.image_tower.width, self.decoder.width, len(self.decoder.layers), self.settings.head)

    def targets(self, examples: Sequence[CaptionExample], random: Sequence[np.random.Generator]) -> CaptionTargets:
        """A caption for each picture, drawn from those that it has."""
        texts = [example.captions[int(one.integers(len(example.captions)))] for example, one in zip(examples, random, strict=True)]
        return CaptionTargets(self.decoder.captions(texts, self.settings.data.max_tokens))

    def loss(self, head: nn.Module, image: RawImage, targets: CaptionTargets) -> dict[str, Term]:
        """Cross-entropy in nats, summed over tokens."""
        assert isinstance(head, Captioner)
        assert image.patches_BPV is not None
        with head.shown(self.decoder, image.patches_BPV):
            total, count = token_loss(self.decoder.logits(targets.captions.tokens_NL[:, :-1]), targets.captions)
        return {"caption": Term(total, count)}


def token_loss(logits_NLC: Tensor, captions: Captions) -> tuple[Tensor, float]:
    """The summed cross-entropy of all tokens behind the start marks, in nats, and how many there are.

    Args:
        logits_NLC: for all places but the last.
    """
    wanted = captions.tokens_NL[:, 1:]
    real = real_tokens(captions.length_N - 1, wanted.shape[1])
    each = functional.cross_entropy(logits_NLC.float()[real], wanted[real], reduction="sum")
    return each, float(real.sum())
