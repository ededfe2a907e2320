"""A digest of a model: what two models have in common if and only if they make the same of every picture and text."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from wholegrain.files import digest
from wholegrain.towers.tensor_files import tensors_digest

PROBES = ["A dog's cup, left of 2 red ones.", "naïve", "x " * 500]
"""Texts whose tokens stand for a tokeniser, which the weights do not hold."""


def state_digest(module: nn.Module) -> str:
    """:func:`~wholegrain.towers.tensor_files.tensors_digest` of all parameters and buffers."""
    return tensors_digest({name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)})


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
