"""Any model in MTEB, with its tasks of texts, of pictures and of both. See ``docs/works_with.md``."""

from __future__ import annotations

import uuid
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from wholegrain.errors import UserError
from wholegrain.integrations.embeds import Embeds
from wholegrain.integrations.sentence_transformers_module import sentence_transformer
from wholegrain.towers.identity import model_digest

if TYPE_CHECKING:
    from mteb.models import SentenceTransformerEncoderWrapper


def mteb_encoder(model: Embeds, name: str = "") -> SentenceTransformerEncoderWrapper:
    """The model for ``mteb.evaluate``, known there to read texts and pictures.

    Args:
        model: what ``wholegrain.load`` gives.
        name: under which MTEB keeps results, ``org/name``; by default ``wholegrain/`` and the last part of the model's own name. They are also
            kept by revision, a digest of the model: another model of the same name is evaluated anew.

    Raises:
        UserError: mteb or sentence-transformers is missing.

    Example::

        mteb.evaluate(mteb_encoder(wholegrain.load("runs/latest")), mteb.get_tasks(tasks=["CIFAR10ZeroShot"]))
    """
    try:
        wrapper = import_module("mteb.models").SentenceTransformerEncoderWrapper
    except (ImportError, AttributeError):
        raise UserError('mteb 2.26 or newer is not installed; install it with: pip install "mteb>=2.26"') from None
    encoder = wrapper(sentence_transformer(model))
    inner = getattr(model, "model", None)
    revision = uuid.uuid4().hex if inner is None else model_digest(inner)  # nothing tells a model that is not shown from another one
    known = {"name": name or f"wholegrain/{Path(model.name).name or 'model'}", "revision": revision[:16], "modalities": ["text", "image"]}
    encoder.mteb_model_meta = encoder.mteb_model_meta.model_copy(update=known)
    return encoder
