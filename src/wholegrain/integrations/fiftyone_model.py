"""Any model in FiftyOne: embeddings, similarity search by text, and zero-shot labels of a data set there.

:class:`FiftyOneModel` keeps the interface of ``fiftyone.core.models``: ``Model`` with ``EmbeddingsMixin`` and ``PromptMixin``.
:func:`fiftyone_model` makes it one of FiftyOne's own, which asks for the package. See ``docs/works_with.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

import numpy as np

from wholegrain.errors import UserError
from wholegrain.integrations.embeds import Embeds

Array = np.ndarray


class FiftyOneModel:
    """A model as FiftyOne calls it: pictures are uint8 RGB ``[H, W, 3]``, of any sizes; vectors are float32 ``[D]``, as of :class:`Embeds`.

    Labels are those of the model's own score; a joint one is not in the vectors.

    Args:
        model: what ``wholegrain.load`` gives.
        labels: two or more, for :meth:`predict`; without them the model gives vectors alone.
        templates: sentences with ``{}`` for a label, or names, as of ``classify``; one text or several.

    Raises:
        UserError: the labels are one text.
    """

    media_type = "image"
    has_logits = False
    has_embeddings = True
    can_embed_prompts = True
    ragged_batches = False  # pictures of different sizes come as a list, and are taken so
    transforms = None
    preprocess = True  # what FiftyOne may set to False for models that it loads pictures for; this one resizes by itself

    def __init__(self, model: Embeds, labels: Sequence[str] = (), templates: str | Sequence[str] = ("photo",)) -> None:
        if isinstance(labels, str):
            raise UserError(f'The labels are the text {labels!r}; give a list of texts, such as ["cat", "dog"].')
        self.model, self.labels = model, list(labels)
        self.templates = [templates] if isinstance(templates, str) else list(templates)
        self._pictures: list[Array] = []
        self._vectors_ND: Array | None = np.zeros((0, model.width), np.float32)

    def __enter__(self) -> FiftyOneModel:
        return self

    def __exit__(self, *_: object) -> None:
        """There is nothing to put away."""

    def embed(self, arg: Array) -> Array:
        """The vector of a picture."""
        return self.embed_all([arg])[0]

    def embed_all(self, args: Sequence[Array]) -> Array:
        """``[N, D]``."""
        self._pictures, self._vectors_ND = list(args), None
        return self.get_embeddings()

    def get_embeddings(self) -> Array:
        """Of the pictures that were looked at last, ``[N, D]``; after :meth:`predict_all` they are encoded when this is asked."""
        if self._vectors_ND is None:
            self._vectors_ND = self.model.embed_images(self._pictures)
        return self._vectors_ND

    def embed_prompt(self, arg: str) -> Array:
        """The vector of a text."""
        return self.embed_prompts([arg])[0]

    def embed_prompts(self, args: Sequence[str]) -> Array:
        """``[N, D]``."""
        return self.model.embed_texts(list(args))

    def predict(self, arg: Array) -> object:
        """The most probable of the labels, as a ``fiftyone.Classification``."""
        return self.predict_all([arg])[0]

    def predict_all(self, args: Sequence[Array]) -> list[object]:
        """One for each picture. Labels are encoded once a call, so ``apply_model`` is given a batch size.

        Raises:
            UserError: the model was given no labels.
        """
        if not self.labels:
            raise UserError('This model has no labels to predict; make it with fiftyone_model(model, labels=["cat", "dog"]).')
        labels = _fiftyone("fiftyone.core.labels")
        self._pictures, self._vectors_ND = list(args), None
        found = self.model.classify(self._pictures, self.labels, templates=self.templates)
        named = zip(found.labels, found.probabilities.max(1), strict=True)
        return [labels.Classification(label=label, confidence=float(probability)) for label, probability in named]


def fiftyone_model(model: Embeds, labels: Sequence[str] = (), templates: str | Sequence[str] = ("photo",)) -> FiftyOneModel:
    """A model for ``dataset.compute_embeddings``, ``dataset.apply_model`` and ``fiftyone.brain.compute_similarity``.

    Args:
        model, labels, templates: as of :class:`FiftyOneModel`.

    Raises:
        UserError: fiftyone is not installed, or the labels are one text.

    Example::

        dataset.compute_embeddings(fiftyone_model(wholegrain.load("runs/latest")), embeddings_field="wholegrain")
    """
    theirs = _fiftyone("fiftyone.core.models")
    made = type("WholegrainModel", (FiftyOneModel, theirs.EmbeddingsMixin, theirs.PromptMixin, theirs.Model), {})
    return made(model, labels, templates)


def _fiftyone(module: str) -> ModuleType:
    try:
        return import_module(module)
    except ImportError:
        raise UserError("FiftyOne is not installed; install it with: pip install fiftyone") from None
