"""Features of a split for evaluation, made once: by frozen towers once for all models that have them, by others once a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from wholegrain.data.dataset import Dataset
from wholegrain.evaluation.features.encode import (
    Encoded,
    default_needs,
    encode_distinct,
    encode_keys,
    evaluating,
    split_keys,
)
from wholegrain.evaluation.features.split import encode_split, with_captions
from wholegrain.features import TextFeatures
from wholegrain.towers.model import Model
from wholegrain.training.loading.frozen import encode_images_once, encode_texts_once


def split_features(
    model: Model, dataset: Dataset, split: str, *, batch: int = 64, cache: Path | None = None, say: Callable[[str], None] = print
) -> Encoded:
    """As :func:`~wholegrain.evaluation.features.split.encode_split`; what frozen towers make of the split is shared by all models with these towers.

    Args:
        cache: a folder for features; ``None`` keeps nothing. Those of models that score pairs by patches or tokens are never kept.
        say: is told how far it is, a line now and then.

    Raises:
        UserError: when the split is not there, empty or without captions.
    """
    needs = default_needs(model)
    if needs & {"patches", "tokens"}:  # a picture's patches are larger than its file
        cache = None
    frozen = getattr(model, "image_frozen", False), getattr(model, "text_frozen", False)
    if cache is None or not any(frozen):
        return encode_split(
            model, dataset, split, batch=batch, cache=cache, progress=lambda what, done, total: say(f"{done:,} of {total:,} {what}")
        )
    keys = list(split_keys(dataset, split))
    seen = encode_images_once(model, dataset, keys, needs, "fp32", 0, say, cache) if frozen[0] else None
    if seen is None:
        image = encode_keys(model, dataset, keys, needs, batch=batch)
    else:
        with evaluating(model):
            image = model.project_images(seen.read(keys, model.device), needs).to_cpu()

    def texts(distinct: list[str]) -> tuple[TextFeatures, int]:
        read = encode_texts_once(model, distinct, needs, "fp32", say, cache) if frozen[1] and distinct else None
        if read is None:
            text, cut_N = encode_distinct(model, distinct, needs, batch=4 * batch)
            return text, int(cut_N.sum())
        with evaluating(model):
            text = model.project_texts(read.read(distinct, model.device), needs).to_cpu()
        return text, int(torch.as_tensor(model.tokenizer.encode(distinct).cut_N).sum())

    return with_captions(dataset, keys, image, texts)
