"""Features of a whole split, made or read from where they are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from wholegrain.evaluation.contract import EvaluatedData, EvaluatedModel
from wholegrain.evaluation.features.encode import NO_CAPTIONS, Encoded, Progress, distinct_texts, split_keys
from wholegrain.evaluation.features.feature_store import FeatureStore
from wholegrain.evaluation.result import NotSupportedError
from wholegrain.features import ImageFeatures, TextFeatures


def encode_split(
    model: EvaluatedModel,
    dataset: EvaluatedData,
    split: str = "test",
    *,
    needs: frozenset[str] | None = None,
    batch: int = 64,
    cache: str | Path | None = None,
    progress: Progress | None = None,
) -> Encoded:
    """Encodes all images and captions of a split.

    Args:
        needs: what the towers must return beside the pooled vectors (``patches``, ``tokens``, ``branches``); ``None`` for
            :func:`~wholegrain.evaluation.features.encode.default_needs`.
        batch: images per step; texts take four times as many.
        cache: a folder for features (:class:`~wholegrain.evaluation.features.feature_store.FeatureStore`): those found there are read, new ones
            written; ``None`` keeps nothing.

    Raises:
        UserError: when the split is not there or empty.
    """
    keys, store = split_keys(dataset, split), FeatureStore(model, cache, batch=batch, needs=needs)

    def encode(distinct: list[str]) -> tuple[TextFeatures, int]:
        if not distinct:
            raise NotSupportedError(NO_CAPTIONS)
        text, cut = store.texts(distinct, progress)
        return text, sum(cut)

    return with_captions(dataset, keys, store.images(dataset, keys, progress), encode)


def with_captions(
    dataset: EvaluatedData, keys: Sequence[str], image: ImageFeatures, encode: Callable[[list[str]], tuple[TextFeatures, int]]
) -> Encoded:
    """The images of ``keys`` with all their captions; ``encode`` is called once with the distinct texts and also counts those that were cut."""
    captions = [(b, caption) for b, key in enumerate(keys) for caption in dataset.record(key).captions]
    texts = tuple(caption.text for _, caption in captions)
    distinct, place_N = distinct_texts(texts)
    text, cut = encode(distinct)
    owner_N = torch.tensor([b for b, _ in captions], dtype=torch.int64)
    roles, ids = tuple(caption.role for _, caption in captions), tuple(caption.id for _, caption in captions)
    return Encoded(tuple(keys), image, texts, text.select(place_N), owner_N, roles, ids, cut)
