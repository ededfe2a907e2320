"""A digest of a model: what two models have in common if and only if they make the same of every picture and text."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import nn

from wholegrain.files import digest

PROBES = ["A dog's cup, left of 2 red ones.", "naïve", "x " * 500]
"""Texts whose tokens stand for a tokeniser, which the weights do not hold."""


def state_digest(module: nn.Module | Any) -> str:
    """SHA-256 (hex) of all parameters and buffers, by name."""
    total = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if isinstance(value, torch.Tensor):
            total.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
            total.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def model_digest(model: Any) -> str:
    """SHA-256 (hex) of all that decides what a model makes of pictures and texts: weights, architecture, preprocessing, tokeniser.

    A model with a ``content_hash`` (a text, or a function that gives one) says it itself; of a foreign one without, what it shows counts.
    """
    own = getattr(model, "content_hash", None)
    if own is not None:
        return str(own() if callable(own) else own)
    configs = [getattr(getattr(model, name, None), "config", None) for name in ("image_tower", "text_tower", "head")]
    parts = [config() if callable(config) else None for config in configs]
    tokeniser, preprocess = getattr(model, "tokenizer", None), getattr(model, "preprocess", None)
    tokens = None if tokeniser is None else tokeniser.encode(PROBES).tokens_NL.tolist()
    stated = getattr(preprocess, "to_json", None)
    prepared = stated() if callable(stated) else repr(preprocess)
    return digest([state_digest(model), parts, prepared, tokens, getattr(model, "bias", None) is not None])
