"""Retrieval on a :class:`~wholegrain.evaluation.benchmarks.items.CaptionSet`, and how faithful the retrieved captions are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from wholegrain.data.record import caption_id
from wholegrain.evaluation.benchmarks.items import CaptionSet
from wholegrain.evaluation.benchmarks.pictures import Pictures
from wholegrain.evaluation.contract import EvaluatedModel
from wholegrain.evaluation.features.encode import Encoded, Progress, distinct_texts
from wholegrain.evaluation.features.feature_store import FeatureStore
from wholegrain.evaluation.result import Figure, NotSupportedError, TaskResult
from wholegrain.evaluation.statistics.intervals import bootstrap_mean
from wholegrain.evaluation.tasks.faithfulness import faithfulness
from wholegrain.evaluation.tasks.retrieval import DIAGONAL, RetrievalOptions, retrieval


def encoded_captions(captions: CaptionSet, store: FeatureStore, progress: Progress | None = None) -> tuple[Encoded, np.ndarray]:
    """Features of the pictures and all captions, and bool ``[N]``: which captions were cut at the model's context.

    A picture whose file is there twice is two candidates, as in the official codes.
    """
    pictures = Pictures(captions.pictures)
    keys = [pictures.key[picture] for picture in captions.pictures]
    distinct_keys = list(dict.fromkeys(keys))
    image = store.images(pictures, distinct_keys, progress)
    if len(distinct_keys) != len(keys):
        place = {key: n for n, key in enumerate(distinct_keys)}
        image = image.select(torch.tensor([place[key] for key in keys]))
    texts = tuple(text for own in captions.captions for text in own)
    distinct, place_N = distinct_texts(texts)
    text, cut = store.texts(distinct, progress)
    owner_N = torch.tensor([b for b, own in enumerate(captions.captions) for _ in own], dtype=torch.int64)
    names = (
        tuple(f"{key}#{b}" if keys.count(key) > 1 else key for b, key in enumerate(keys))
        if len(distinct_keys) != len(keys)
        else tuple(keys)
    )
    ids = tuple(caption_id(t) for t in texts)
    encoded = Encoded(names, image, texts, text.select(place_N), owner_N, ("web",) * len(texts), ids, sum(cut))
    return encoded, np.array(cut)[place_N.numpy()]


def score_captions(
    captions: CaptionSet, model: EvaluatedModel, store: FeatureStore, *, seed: int = 0, shortlist: int = 0, progress: Progress | None = None
) -> list[TaskResult]:
    """Recall in both directions, a caption true of its own picture alone, and ``texts_cut``, the share of captions that were cut.

    Where pictures have several captions, two come with it: ``NAME_faithfulness``, K-Precision of the captions that are ranked first, and
    ``NAME_diagonal``, Holistic CLIP's protocol with the first caption of each picture alone
    (:data:`~wholegrain.evaluation.tasks.retrieval.DIAGONAL`).

    Raises:
        NotSupportedError: when there is a single picture.
    """
    if len(captions.pictures) < 2:
        raise NotSupportedError(f"{captions.name} has a single picture, so there is nothing to choose from.")
    encoded, cut_N = encoded_captions(captions, store, progress)
    found = retrieval(encoded, RetrievalOptions(owner_only=not captions.shared, shortlist=shortlist), model=model, seed=seed)
    share_N = cut_N.astype(np.float64)
    low, high = bootstrap_mean(share_N, encoded.owner_N.numpy(), seed=seed)
    cut = Figure(
        "texts_cut",
        float(share_N.mean()),
        float(low),
        float(high),
        len(share_N),
        note="lost their end at the model's context length",
    )
    protocol = "; ".join((captions.protocol[0].upper() + captions.protocol[1:], *captions.notes, found.protocol))
    results = [replace(found, task=captions.name, protocol=protocol, figures=(*found.figures, cut))]
    if any(len(own) > 1 for own in captions.captions):
        square = retrieval(encoded, replace(DIAGONAL, shortlist=shortlist), model=model, seed=seed)
        head = "; ".join((captions.protocol[0].upper() + captions.protocol[1:], *captions.notes, "Holistic CLIP's diagonal protocol"))
        results.append(replace(square, task=f"{captions.name}_diagonal", protocol=f"{head}: {square.protocol}"))
    if any(len(own) > 1 for own in captions.captions) and all(captions.captions):
        results.append(replace(faithfulness(encoded, model=model, seed=seed), task=f"{captions.name}_faithfulness"))
    return results
