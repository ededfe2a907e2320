"""Validation while training: retrieval on the split ``val``, by which the best model is kept."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from wholegrain.data.dataset import Dataset
from wholegrain.evaluation.features.encode import (
    Encoded,
    default_needs,
    distinct_texts,
    encode_keys,
    encode_texts,
    evaluating,
    with_phrases,
)
from wholegrain.evaluation.features.sharing import all_gather, sharing
from wholegrain.evaluation.tasks.retrieval import RetrievalOptions, retrieval
from wholegrain.features import ImageFeatures, TextFeatures
from wholegrain.objectives.schema import Recipe
from wholegrain.towers.base import NOTHING
from wholegrain.towers.model import Model
from wholegrain.training.loading.frozen import FrozenImages, FrozenTexts, encode_images_once, encode_texts_once
from wholegrain.training.pace import Pace

IMAGES = 1000
"""Validation looks at this many images of the split ``val`` at most."""
JOINT_IMAGES, SHORTLIST = 200, 16
"""Of a model that scores pairs jointly: this many images, and candidates of each query, found by the cosine, that are scored."""


def validation(dataset: Dataset, recipe: Recipe, *, cache: Path | None = None) -> Validation | None:
    """Retrieval on ``val`` for ``training.trainer.train``; ``None`` without such a split, or if the recipe trains on it."""
    if "val" not in dataset.splits or not dataset.keys("val") or recipe.data.split == "val":
        return None
    return Validation(dataset, cache)


@dataclass
class Validation:
    """Model -> R@1 of both directions and their mean, over images evenly spread over ``val`` and all their captions.

    By the model's own score: the cosine, or what a head makes of pairs, which then re-ranks a shortlist. What a frozen tower makes of
    them is computed once, so that an evaluation costs no more than the heads.

    Args:
        dataset: with a split ``val``.
        cache: see :func:`wholegrain.training.loading.frozen.encode_images_once`.
        say: is told what is encoded.
    """

    dataset: Dataset
    cache: Path | None = None
    say: Callable[[str], None] = lambda sentence: print(sentence, file=sys.stderr)
    _images: FrozenImages | None = field(default=None, init=False)
    _texts: FrozenTexts | None = field(default=None, init=False)

    def __call__(self, model: Model) -> dict[str, float]:
        return self._measured(model, self._encoded(model))

    def shared(self, model: Model, group: dist.ProcessGroup) -> Callable[[], dict[str, float]]:
        """Encodes together with the other processes of the group; the first one then has what measures."""
        with sharing(group):
            encoded = self._encoded(model)
        return partial(self._measured, model, encoded)

    def _measured(self, model: Model, encoded: Encoded) -> dict[str, float]:
        options = RetrievalOptions(by_role=False, shortlist=0 if model.score is None else SHORTLIST)
        found = retrieval(encoded, options, truths=self.dataset.truths, model=model).metrics
        text, image = (found[f"{way}_retrieval_recall@1_expected"] for way in ("text", "image"))
        return {"recall@1": (text + image) / 2, "text_retrieval_recall@1": text, "image_retrieval_recall@1": image}

    def _encoded(self, model: Model) -> Encoded:
        keys = spread(self.dataset.keys("val"), IMAGES if model.score is None else JOINT_IMAGES)
        captions = [(index, caption) for index, key in enumerate(keys) for caption in self.dataset.record(key).captions]
        texts = tuple(caption.text for _, caption in captions)
        distinct, row_N = distinct_texts(texts)
        needs = default_needs(model)
        image, text = self._image(model, keys, needs), self._text(model, distinct, needs)
        owner_N = torch.tensor([index for index, _ in captions], dtype=torch.int64)
        roles, ids = tuple(caption.role for _, caption in captions), tuple(caption.id for _, caption in captions)
        return Encoded(tuple(keys), image, texts, text.select(row_N), owner_N, roles, ids)

    def _image(self, model: Model, keys: list[str], needs: frozenset[str]) -> ImageFeatures:
        if model.image_frozen and self._images is None:
            self._images = encode_images_once(model, self.dataset, keys, needs, "fp32", 0, self.say, self.cache)
        if not all(all_gather(self._images is not None)):  # a tower that is trained, or too little memory
            return encode_keys(model, self.dataset, keys, needs, progress=Pace(self.say))
        assert self._images is not None
        with evaluating(model):
            return model.project_images(self._images.read(keys, model.device), needs).to_cpu()

    def _text(self, model: Model, texts: list[str], needs: frozenset[str]) -> TextFeatures:
        if model.text_frozen and self._texts is None:
            spoken = {phrase for each in model.phrases_of(texts) for phrase in each} if "phrases" in needs else set[str]()
            self._texts = encode_texts_once(model, [*texts, *sorted(spoken)], needs, "fp32", self.say, self.cache)
        if not all(all_gather(self._texts is not None)):
            return encode_texts(model, texts, needs, progress=Pace(self.say))
        found = self._projected(model, texts, needs)
        if "phrases" not in needs:
            return found
        return with_phrases(model, texts, found, lambda distinct: self._projected(model, distinct, NOTHING).pooled_ND)

    def _projected(self, model: Model, texts: list[str], needs: frozenset[str]) -> TextFeatures:
        """Of texts that are among those of the frozen tower."""
        assert self._texts is not None
        with evaluating(model):
            return model.project_texts(self._texts.read(texts, model.device), needs).to_cpu()


def spread(keys: Sequence[str], count: int) -> list[str]:
    """At most ``count`` of the keys, evenly spread, always the same.

    Example:
        >>> spread(["a", "b", "c", "d"], 2)
        ['a', 'c']
    """
    step = max(1.0, len(keys) / count)
    return [keys[int(index * step)] for index in range(min(len(keys), count))]
