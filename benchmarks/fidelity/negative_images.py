"""The comparisons of methods that match short captions apart, or have false pictures for false captions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import sources
import torch
from problem import Problem, Shape, unit
from rows import Ours, Row, weighted
from torch import Tensor

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.clip import ClipLoss
from wholegrain.losses.negclip import NegclipLoss
from wholegrain.losses.primary_components import PrimaryComponentsLoss
from wholegrain.losses.tripletclip import TripletclipLoss

TWO_TEXTS = Shape(captions=2)


def short_and_long() -> Iterator[Row]:
    """Long-CLIP's two terms, with few components: with its 32 nothing is taken from vectors this narrow."""
    ours = weighted((1.0, of_caption(0, ClipLoss("negative", 0.1))), (1.0, of_caption(1, PrimaryComponentsLoss(3, 0.1, "negative"))))
    name = "(clip + primary_components components=3) label_smoothing=0.1"
    yield Row(name, sources.LONG_CLIP, "CLIP.forward, 3 components", long_clip, ours, TWO_TEXTS, True, "its components are float32", 1e-4)


# ---- TripletCLIP ------------------------------------------------------------------------------------------------------------


def triplets() -> Iterator[Row]:
    """Its loss on the images and as many false ones."""
    name = "tripletclip"
    yield Row(name, sources.TRIPLETCLIP, "tripletclip_loss", tripletclip, of_twins(TripletclipLoss()), TWO_TEXTS)
    why = "a caption chooses among the images of both sides here"
    yield Row(f'{name} rivals="all"', sources.TRIPLETCLIP, "tripletclip_loss", tripletclip, of_twins(TripletclipLoss("all")), TWO_TEXTS, False, why)


def of_twins(kind: Any) -> Ours:
    """A loss of ours on the images with their first captions, and their patches (the first of each) with the second ones, as twins."""

    def value(p: Problem) -> Tensor:
        images, place = len(p.image), torch.arange(2 * len(p.image))
        own, false = p.by_image(p.captions).unbind(1)
        side_B = (place >= images).long()
        pairing = replace(Pairing.one_to_one(2 * images), side_B=side_B)
        return kind(ImageFeatures(torch.cat([p.image, p.patches[:, 0]])), TextFeatures(torch.cat([own, false])), pairing, p.scale).value

    return value


def tripletclip(m: Any, p: Problem) -> Tensor:
    own, false = p.by_image(unit(p.captions)).unbind(1)
    return m.tripletclip_loss(unit(p.image), own, unit(p.patches[:, 0]), false, p.scale)[0]


# ---- CS-CLIP ----------------------------------------------------------------------------------------------------------------


def units() -> Iterator[Row]:
    """A whole caption and one unit of it, each with one negative."""
    ours = weighted((1.0, of_caption(0, NegclipLoss())), (0.5, of_caption(1, NegclipLoss(own_only=True))))
    name, function = "negclip + 0.5 negclip own_only=True", "multi_caption_contrastive_loss"
    yield Row(name, sources.CS_CLIP, function, cs_clip, ours, Shape(captions=2, negatives=1), True, "in float32 there", 1e-4)


def cs_clip(m: Any, p: Problem) -> Tensor:
    settings = {"lambda_components": 0.5, "component_loss_type": "negclip_hard", "contrastive_mode": "with_components_negatives"}
    true, false = p.by_image(unit(p.captions)), p.by_image(unit(p.foils))
    return m.multi_caption_contrastive_loss(unit(p.image), true, false, 1 / p.scale, torch.device("cpu"), **settings)["loss"]


# ---- Long-CLIP --------------------------------------------------------------------------------------------------------------


def of_caption(place: int, kind: Any) -> Ours:
    """A loss of ours on the first, second, ... caption of every image alone."""

    def value(p: Problem) -> Tensor:
        image, text, pairing = p.features
        kept = (pairing.role_N == place).nonzero().squeeze(1)  # negatives have the role of their caption
        return kind(ImageFeatures(image.pooled_BD), text.select(kept), pairing.select_texts(kept), p.scale).value

    return value


def long_clip(m: Any, p: Problem) -> Tensor:
    """Its forward pass on features, in float32, as in a process group of one process."""
    long, short = p.by_image(p.captions.float()).unbind(1)
    kept = SimpleNamespace(
        encode_image=lambda x: x,
        encode_text=lambda x: x,
        PCA=lambda x, _: m.CLIP.PCA(None, x, 3),
        logit_scale=p.scale.float().log(),
    )
    with patch("torch.distributed.nn.all_gather", lambda x: (x,)):
        of_long, of_short = m.CLIP.forward(kept, p.image.float(), long, short, 0)
        return of_long + of_short
