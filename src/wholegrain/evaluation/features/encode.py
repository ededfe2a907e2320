"""Features of the images and captions of a data set: each distinct text encoded once, each image once.

Texts are encoded in batches sorted by length, so that a short caption never pays for a long one's padding. Everything runs in
inference mode with the model in eval mode (and put back as it was, so a training run may call this). Features come back as
float32 on the CPU. Several processes may share the work (:mod:`wholegrain.evaluation.features.sharing`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from wholegrain.errors import UserError
from wholegrain.evaluation.contract import EvaluatedData, EvaluatedModel, PixelSource
from wholegrain.evaluation.features.sharing import gather_in_order, rank_shard
from wholegrain.evaluation.result import NotSupportedError
from wholegrain.features import ImageFeatures, TextFeatures, join
from wholegrain.suggest import closest

Found = TypeVar("Found")
NO_CAPTIONS = "The split has no captions to encode; choose another one with --split."
Progress = Callable[[str, int, int], None]
"""Called with what is being encoded, how much is done, how much there is."""


@dataclass(frozen=True)
class Encoded:
    """Features of B images and of their N captions, all roles, in the order of ``keys``.

    Attributes:
        keys: ``[B]`` record keys.
        image: features of the images.
        texts: ``[N]`` the captions; the same text under two images is listed twice.
        text: features of the captions, row for row.
        owner_N: int64, the image (0..B-1) that each caption belongs to.
        role_N, caption_ids: ``[N]`` role names and caption ids.
        cut: how many distinct texts were longer than the model's context.
    """

    keys: tuple[str, ...]
    image: ImageFeatures
    texts: tuple[str, ...]
    text: TextFeatures
    owner_N: Tensor
    role_N: tuple[str, ...]
    caption_ids: tuple[str, ...]
    cut: int = 0

    def only_texts(self, index: Tensor) -> Encoded:
        """The same images with the captions at ``index`` (int64)."""
        places = index.tolist()
        lists = {name: tuple(getattr(self, name)[n] for n in places) for name in ("texts", "role_N", "caption_ids")}
        return replace(self, text=self.text.select(index), owner_N=self.owner_N[index], **lists)

    def only_images(self, index: Tensor) -> Encoded:
        """The images at ``index`` (int64, no repeats) with their captions."""
        new_place = torch.full((len(self.keys),), -1, dtype=torch.int64)
        new_place[index] = torch.arange(len(index))
        moved = new_place[self.owner_N]
        part = self.only_texts((moved >= 0).nonzero().squeeze(1))
        keys = tuple(self.keys[b] for b in index.tolist())
        return replace(part, keys=keys, image=self.image.select(index), owner_N=moved[moved >= 0])


def split_keys(dataset: EvaluatedData, split: str) -> Sequence[str]:
    """The keys of a split; a :class:`UserError` names the splits that there are."""
    if split not in dataset.splits:
        raise UserError(f"The data set has no split {split!r}; {closest(split, dataset.splits)}")
    keys = dataset.keys(split)
    if not keys:
        raise UserError(f"The split {split!r} of the data set is empty; choose another one with --split.")
    return keys


def default_needs(model: object) -> frozenset[str]:
    """What scoring alone needs: the branches of a multi-branch model, and what a joint scorer names in ``score_needs``."""
    branches = getattr(getattr(model, "head", model), "branches", None)
    many = {"branches"} if isinstance(branches, int) and branches > 1 else set()
    return frozenset(many) | frozenset(getattr(model, "score_needs", ()))


def encode_keys(
    model: EvaluatedModel,
    dataset: PixelSource,
    keys: Sequence[str],
    needs: frozenset[str] | None = None,
    *,
    batch: int = 64,
    known: Encoded | None = None,
    progress: Progress | None = None,
) -> ImageFeatures:
    """Features of the images of ``keys``, in that order; a key that comes twice is encoded once, one that ``known`` holds not at
    all."""
    have = {key: b for b, key in enumerate(known.keys)} if known is not None else {}
    fresh = [key for key in dict.fromkeys(keys) if key not in have]
    parts = [known.image] if known is not None else []
    parts += encode_image_batches(model, dataset, fresh, needs, batch=batch, progress=progress)
    if not parts:
        raise UserError("There is no image to encode; check the split and the data set.")
    place = have | {key: len(have) + n for n, key in enumerate(fresh)}
    together = parts[0] if len(parts) == 1 else join(parts)
    return together if list(place) == list(keys) else together.select(torch.tensor([place[key] for key in keys]))


def encode_image_batches(
    model: EvaluatedModel,
    dataset: PixelSource,
    keys: Sequence[str],
    needs: frozenset[str] | None = None,
    *,
    batch: int = 64,
    progress: Progress | None = None,
) -> Iterator[ImageFeatures]:
    """Features batch by batch, for what is too large to keep (patches); the next batch is decoded while this one is encoded."""
    needs = default_needs(model) if needs is None else needs

    def encode(_: slice, pixels_BCHW: Tensor) -> ImageFeatures:
        with evaluating(model):
            found = model.encode_images(pixels_BCHW, needs)
        return found.to_cpu()

    yield from each_image_batch(model, dataset, keys, encode, batch=batch, progress=progress)


def each_image_batch(
    model: EvaluatedModel,
    dataset: PixelSource,
    keys: Sequence[str],
    function: Callable[[slice, Tensor], Found],
    *,
    batch: int = 64,
    progress: Progress | None = None,
) -> Iterator[Found]:
    """What ``function(places of keys, pixels_BCHW on the model's device)`` gives for each batch, in order; the next batch is decoded while
    it runs. Of several processes each does its share, and all get everything: what is found must be small, and on the CPU."""
    device = device_of(model)

    def pixels(key: str) -> Tensor:
        return torch.as_tensor(np.asarray(model.preprocess.image(dataset.pixels(key))))

    batches = [slice(start, min(start + batch, len(keys))) for start in range(0, len(keys), batch)]
    mine = rank_shard(batches)

    def results() -> Iterator[Found]:
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            ahead = [pool.submit(pixels, key) for key in keys[mine[0]]] if mine else []
            for number, places in enumerate(mine):
                waiting = ahead
                ahead = [pool.submit(pixels, key) for key in keys[mine[number + 1]]] if number + 1 < len(mine) else []
                yield function(places, torch.stack([future.result() for future in waiting]).to(device))

    for places, found in zip(batches, gather_in_order(results(), len(batches)), strict=True):
        if progress is not None:
            progress("images", places.stop, len(keys))
        yield found


def encode_patches(model: EvaluatedModel, dataset: PixelSource, keys: Sequence[str], *, batch: int = 64) -> Iterator[ImageFeatures]:
    """:func:`encode_image_batches` with patches and their grid.

    Raises:
        NotSupportedError: when the model gives none, or refuses (ResNets that end in attention pooling have none).
    """
    try:
        for image in encode_image_batches(model, dataset, keys, frozenset({"patches"}), batch=batch):
            if image.patches_BPD is None or image.grid is None:
                raise NotSupportedError("The model gives no patch vectors; choose a model with a Vision Transformer.")
            yield image
    except UserError as error:
        raise NotSupportedError(str(error)) from error


def encode_texts(
    model: EvaluatedModel,
    texts: Sequence[str],
    needs: frozenset[str] | None = None,
    *,
    batch: int = 256,
    known: Encoded | None = None,
    progress: Progress | None = None,
) -> TextFeatures:
    """Features of ``texts``, in that order; identical ones are encoded once, those that ``known`` holds not at all."""
    needs = default_needs(model) if needs is None else needs
    have = {text: n for n, text in enumerate(known.texts)} if known is not None else {}
    fresh = [text for text in dict.fromkeys(texts) if text not in have]
    parts = [known.text] if known is not None else []
    if fresh:
        parts.append(encode_distinct(model, fresh, needs, batch=batch, progress=progress)[0])
    if not parts:
        raise UserError("There is no text to encode; check the split and the data set.")
    start = len(known.texts) if known is not None else 0
    place = have | {text: start + n for n, text in enumerate(fresh)}
    return join(parts).select(torch.tensor([place[text] for text in texts]))


def distinct_texts(texts: Sequence[str]) -> tuple[list[str], Tensor]:
    """The distinct texts in order of appearance, and for each text its place among them (int64 ``[N]``)."""
    place: dict[str, int] = {}
    place_N = torch.tensor([place.setdefault(t, len(place)) for t in texts], dtype=torch.int64)
    return list(place), place_N


def encode_distinct(
    model: EvaluatedModel, texts: Sequence[str], needs: frozenset[str], *, batch: int, progress: Progress | None = None
) -> tuple[TextFeatures, Tensor]:
    """Features of distinct ``texts``, in that order, and bool ``[N]``: which of them were cut at the model's context."""
    if not texts:
        raise NotSupportedError(NO_CAPTIONS)
    if "phrases" in needs:
        found, cut_N = encode_distinct(model, texts, needs - {"phrases"}, batch=batch, progress=progress)

        def vectors(distinct: list[str]) -> Tensor:
            return encode_distinct(model, distinct, frozenset(), batch=batch, progress=progress)[0].pooled_ND

        return with_phrases(cast(ReadsPhrases, model), texts, found, vectors), cut_N
    order = sorted(
        range(len(texts)), key=lambda n: len(texts[n])
    )  # characters stand in for tokens: near enough to save the padding
    device, batches = device_of(model), [order[start : start + batch] for start in range(0, len(order), batch)]

    def encoded() -> Iterator[tuple[TextFeatures, Tensor]]:
        for places in rank_shard(batches):
            tokens = model.tokenizer.encode([texts[n] for n in places])
            with evaluating(model):
                found = model.encode_texts(tokens.tokens_NL.to(device), tokens.length_N.to(device), needs).to_cpu()
            yield found, torch.as_tensor(tokens.cut_N).bool()

    parts, cut = [], []
    for found, longer_N in gather_in_order(encoded(), len(batches)):
        parts.append(found)
        cut.append(longer_N)
        if progress is not None:
            progress("texts", min(len(texts), len(parts) * batch), len(texts))
    back = torch.empty(len(order), dtype=torch.int64)
    back[torch.tensor(order)] = torch.arange(len(order))
    return join(parts).select(back), torch.cat(cut)[back]


class ReadsPhrases(Protocol):
    """A model among whose needs are phrases."""

    def phrases_of(self, texts: Sequence[str], /) -> Sequence[Sequence[str]]: ...


def with_phrases(
    model: ReadsPhrases, texts: Sequence[str], text: TextFeatures, vectors: Callable[[list[str]], Tensor]
) -> TextFeatures:
    """Features of ``texts`` with their noun phrases by ``model.phrases_of``; ``vectors`` encodes the distinct ones, ``[Q, D]``."""
    pooled_ND, phrases_N = text.pooled_ND, model.phrases_of(texts)
    distinct, place_Q = distinct_texts([phrase for phrases in phrases_N for phrase in phrases])
    most = max(map(len, phrases_N), default=0)
    vectors_NKD, weight_NK = pooled_ND.new_zeros(len(texts), most, pooled_ND.shape[1]), pooled_ND.new_zeros(len(texts), most)
    if distinct:
        count_N = torch.tensor([len(phrases) for phrases in phrases_N])
        mask_NK = torch.arange(most) < count_N[:, None]
        vectors_NKD[mask_NK] = vectors(distinct)[place_Q]
        weight_NK[mask_NK] = (1 / count_N.clamp_min(1)).repeat_interleave(count_N)
    return replace(text, phrases_NKD=vectors_NKD, phrase_weight_NK=weight_NK)


@contextmanager
def evaluating(model: object) -> Iterator[None]:
    """Inference mode and eval mode; afterwards the model is in the mode in which it was."""
    with eval_mode(model), torch.inference_mode():
        yield


@contextmanager
def eval_mode(model: Any) -> Iterator[None]:
    """Eval mode; afterwards the model is in the mode in which it was."""
    was_training = bool(getattr(model, "training", False))
    if was_training:
        model.eval()
    try:
        yield
    finally:
        if was_training:
            model.train()


def device_of(model: object) -> torch.device:
    """Where the model's parameters are; the CPU for a model without any."""
    parameters = getattr(model, "parameters", None)
    first = next(iter(parameters()), None) if parameters is not None else None
    return first.device if first is not None else torch.device("cpu")
