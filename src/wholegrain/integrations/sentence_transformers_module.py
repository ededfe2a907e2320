"""Any model as a ``SentenceTransformer``: for search, clustering and mining there, and for MTEB, which takes such models.

A model that ``wholegrain export --to transformers`` can write needs none of this: sentence-transformers reads the folder itself. This is for
all others (branches, towers of timm and Hugging Face, the preset ``small``). It gives vectors and is not for training. See ``docs/works_with.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NotRequired, TypeAlias, TypedDict

import numpy as np
import torch
from PIL import Image

from wholegrain.errors import UserError
from wholegrain.integrations.embeds import Embeds

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modality_types import Modality

Input: TypeAlias = str | Image.Image | np.ndarray
"""A text, or a picture."""


class _Features(TypedDict):
    given: list[Input]
    sentence_embedding: NotRequired[torch.Tensor]


def sentence_transformer(model: Embeds) -> SentenceTransformer:
    """The model as a ``SentenceTransformer`` of texts and pictures, with the vectors of :class:`~wholegrain.integrations.embeds.Embeds`.

    Its ``similarity`` is their product, which of a text and a picture is the model's cosine; a joint score stays behind.

    Args:
        model: what ``wholegrain.load`` gives; it stays on the device on which it was loaded.

    Raises:
        UserError: sentence-transformers is missing, or older than 5.4, which knows no pictures.

    Example::

        model = sentence_transformer(wholegrain.load("runs/latest"))
        model.similarity(model.encode(["a red cup"]), model.encode([Image.open("cup.jpg")]))
    """
    try:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.base.modules.input_module import InputModule
    except ImportError:
        raise UserError(
            'sentence-transformers 5.4 or newer is not installed; install it with: pip install "sentence-transformers>=5.4"'
        ) from None

    class Encoder(InputModule):
        """The model as the one module of a ``SentenceTransformer``."""

        @property
        def modalities(self) -> list[Modality]:
            return ["text", "image"]

        def get_embedding_dimension(self) -> int:
            return model.width

        def preprocess(self, inputs: Sequence[object], prompt: str | None = None, **_: object) -> _Features:
            return {"given": inputs_of(inputs, prompt or "")}

        def forward(self, features: _Features, **_: object) -> _Features:
            return {**features, "sentence_embedding": vectors_of(model, features["given"])}

        def save(self, output_path: str, *_: object, **__: object) -> None:
            raise UserError(f"A model is not saved by sentence-transformers; write {output_path} with: wholegrain export")

    # by its default it would make all vectors unit vectors, and those of branches are shorter where these disagree
    return SentenceTransformer(modules=[Encoder()], device="cpu", similarity_fn_name="dot")


def inputs_of(inputs: Sequence[object], prompt: str) -> list[Input]:
    """Texts and pictures as they come from sentence-transformers and MTEB: by themselves, or as ``{"text": ...}`` or ``{"image": ...}``.

    Args:
        prompt: goes before every text.

    Raises:
        UserError: an input that is both, or neither.
    """
    return [prompt + one if isinstance(one, str) else one for one in map(_one, inputs)]


def _one(given: Any) -> Input:
    if isinstance(given, Mapping):
        parts = {key: value for key, value in given.items() if key in ("text", "image")}
        if len(parts) != 1:
            raise UserError(f"An input has {', '.join(map(str, given)) or 'nothing'}; give a text or a picture, one of them.")
        (given,) = parts.values()
    if not isinstance(given, str | Image.Image) and not hasattr(given, "shape"):
        raise UserError(
            f"An input is of type {type(given).__name__}; give texts, Pillow pictures or uint8 arrays [height, width, 3]."
        )
    return given


def vectors_of(model: Embeds, given: Sequence[Any]) -> torch.Tensor:
    """Vectors float32 ``[N, D]`` of texts, or of pictures; sentence-transformers refuses a mixture."""
    embed = model.embed_texts if isinstance(given[0], str) else model.embed_images
    return torch.from_numpy(embed(given))
