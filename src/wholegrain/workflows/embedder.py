"""A model as a function of pictures and texts: vectors, scores, ranks, class names.

Pictures are read, resized and encoded on the path of the evaluation, so the vectors are those that its figures are made of.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, cast, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wholegrain.data.pictures import Picture, rgb_of
from wholegrain.errors import UserError
from wholegrain.evaluation.contract import EvaluatedModel
from wholegrain.evaluation.features.encode import default_needs, encode_image_batches, encode_texts
from wholegrain.evaluation.named import load_any
from wholegrain.evaluation.scores.similarity import index_vectors, unit
from wholegrain.features import ImageFeatures
from wholegrain.progress import Show, nowhere, showing
from wholegrain.training.distributed.processes import choose_device

Pictures: TypeAlias = Picture | Iterable[Picture]
"""One picture, or any number of them, of mixed kinds."""
Broken: TypeAlias = Callable[[int, str], None]
"""Told of a picture that cannot be read: its place (from 0), and one sentence."""
Score: TypeAlias = Literal["own", "cosine"]
_CHUNK = 16
"""Batches of pictures that are taken from an iterator at a time."""


class Classified(NamedTuple):
    """What pictures are taken for.

    Attributes:
        labels: ``[N]``; ``None`` where no label is as probable as was asked for.
        probabilities: float32 ``[N, C]``, rows sum to 1, columns in the order of the labels that were given.
    """

    labels: list[str | None]
    probabilities: np.ndarray


class Embedder:
    """A model as a function of pictures and texts.

    Args:
        model: any model that the evaluation takes; it is used in eval mode and put back as it was.
        name: what it is called in messages.

    Example::

        embedder = load("ViT-B-32:openai")
        pictures = embedder.embed_images(["cat.jpg", "dog.jpg"])   # float32 [2, 512]
        texts = embedder.embed_texts(["a cat", "a dog"])            # float32 [2, 512]
        pictures @ texts.T                                          # cosines
    """

    def __init__(self, model: EvaluatedModel, name: str = "") -> None:
        self.model, self.name = model, name

    @property
    def width(self) -> int:
        """D, of pictures and texts."""
        known = getattr(self.model, "width", None)
        return known if isinstance(known, int) else encode_texts(self.model, ["a"], frozenset()).pooled_ND.shape[1]

    @overload
    def embed_images(
        self, pictures: Pictures, *, batch_size: int = ..., normalize: bool = ..., as_tensor: Literal[False] = ..., progress: Show | None = ...
    ) -> np.ndarray: ...
    @overload
    def embed_images(
        self, pictures: Pictures, *, batch_size: int = ..., normalize: bool = ..., as_tensor: Literal[True], progress: Show | None = ...
    ) -> Tensor: ...
    def embed_images(
        self,
        pictures: Pictures,
        *,
        batch_size: int = 64,
        normalize: bool = True,
        as_tensor: bool = False,
        progress: Show | None = None,
    ) -> np.ndarray | Tensor:
        """Vectors of pictures, float32 ``[N, D]`` on the CPU, in their order.

        Args:
            pictures: paths, Pillow pictures or uint8 arrays ``[H, W, 3]``, in any mixture and from any iterable, or one of them. As in prepared
                data, orientation tags are not applied and transparency is dropped.
            batch_size: pictures per step; it changes nothing beyond rounding.
            normalize: unit vectors; of a model with several branches the mean of their unit vectors, which is shorter where they disagree.
                Either way the product with a unit text vector is the model's cosine. Without it the vectors are as the model gives them.
            as_tensor: a tensor in the place of an array.
            progress: called with what is being done, how many are done, and of how many; by default a bar on a terminal, and nothing elsewhere.

        Raises:
            UserError: a picture cannot be read, with its path or place.

        Example::

            embedder.embed_images(["cat.jpg", Image.open("dog.png")]).shape   # (2, 512)
        """
        parts = [vectors for _, vectors in self.embed_batches(pictures, batch_size=batch_size, normalize=normalize, progress=progress)]
        vectors_ND = torch.cat(parts) if parts else torch.zeros(0, self.width)
        return vectors_ND if as_tensor else vectors_ND.numpy()

    def embed_batches(
        self,
        pictures: Pictures,
        *,
        batch_size: int = 64,
        normalize: bool = True,
        broken: Broken | None = None,
        progress: Show | None = None,
    ) -> Iterator[tuple[list[int], Tensor]]:
        """:meth:`embed_images` batch by batch, for more pictures than fit into memory: places (from 0) and vectors ``[b, D]``.

        Args:
            broken: told of each picture that cannot be read, which is then left out; without it the first one ends everything.
        """
        needs = default_needs(self.model) & {"branches"}
        for places, image in self._images(pictures, needs, batch_size, broken, progress):
            yield places, index_vectors(image) if normalize else image.pooled_BD

    @overload
    def embed_texts(
        self, texts: str | Iterable[str], *, batch_size: int = ..., normalize: bool = ..., as_tensor: Literal[False] = ..., progress: Show | None = ...
    ) -> np.ndarray: ...
    @overload
    def embed_texts(
        self, texts: str | Iterable[str], *, batch_size: int = ..., normalize: bool = ..., as_tensor: Literal[True], progress: Show | None = ...
    ) -> Tensor: ...
    def embed_texts(
        self,
        texts: str | Iterable[str],
        *,
        batch_size: int = 256,
        normalize: bool = True,
        as_tensor: bool = False,
        progress: Show | None = None,
    ) -> np.ndarray | Tensor:
        """Vectors of texts, float32 ``[N, D]`` on the CPU, in their order; arguments as of :meth:`embed_images`.

        A text that is longer than the model's context is cut there, with a warning.

        Raises:
            UserError: something among them is no text.
        """
        listed = self._texts(texts)
        if not listed:
            vectors_ND = torch.zeros(0, self.width)
        else:
            with _shown(progress) as show:
                pooled_ND = encode_texts(self.model, listed, frozenset(), batch=_positive(batch_size), progress=show).pooled_ND
            vectors_ND = unit(pooled_ND) if normalize else pooled_ND.float()
        return vectors_ND if as_tensor else vectors_ND.numpy()

    def cut(self, texts: Sequence[str]) -> list[bool]:
        """For each text whether it is longer than the model's context, so that its end is not read."""
        return torch.as_tensor(self.model.tokenizer.encode(list(texts)).cut_N).bool().tolist() if texts else []

    def _texts(self, texts: str | Iterable[str]) -> list[str]:
        """As a list, checked, with a warning of those that are too long."""
        listed = [texts] if isinstance(texts, str) else list(texts)
        odd = next((n for n, text in enumerate(listed) if not isinstance(text, str)), None)
        if odd is not None:
            raise UserError(f"Text {odd} (from 0) is of type {type(listed[odd]).__name__}; give strings.")
        longer = sum(self.cut(listed))
        if longer:
            warnings.warn(f"{longer:,} of {len(listed):,} texts are longer than the model's context and were cut there.", stacklevel=3)
        return listed

    def _images(
        self, pictures: Pictures, needs: frozenset[str], batch_size: int, broken: Broken | None, progress: Show | None
    ) -> Iterator[tuple[list[int], ImageFeatures]]:
        """Features batch by batch with the places of their pictures, those that cannot be read left out."""
        given = _listed(pictures)
        total, batch_size = len(given) if isinstance(given, Sized) else 0, _positive(batch_size)
        source, start = iter(given), 0
        with _shown(progress) as show:
            show("images", 0, total)
            while chunk := list(islice(source, _CHUNK * batch_size)):
                some = _Some(chunk, start, skip=broken is not None)
                for features in encode_image_batches(self.model, some, some.keys, needs, batch=batch_size):
                    places = range(start, start + len(features.pooled_BD))
                    start = places.stop
                    show("images", start, total)
                    kept = some.readable(places, broken)
                    if kept:
                        rows = torch.tensor([place - places.start for place in kept])
                        yield kept, features if len(kept) == len(places) else features.select(rows)


class _Some:
    """A few pictures as the encoder wants them; with ``skip``, one that cannot be read is black, and kept in mind."""

    def __init__(self, pictures: Sequence[Picture], start: int, *, skip: bool) -> None:
        self.keys = [str(start + n) for n in range(len(pictures))]
        self._picture, self._skip = dict(zip(self.keys, pictures, strict=True)), skip
        self._unread: dict[int, str] = {}

    def pixels(self, key: str) -> np.ndarray:
        """As the encoder asks for them, in threads of its own."""
        try:
            return rgb_of(self._picture[key], int(key))
        except UserError as error:
            if not self._skip:
                raise
            self._unread[int(key)] = str(error)
            return np.zeros((8, 8, 3), np.uint8)

    def readable(self, places: Iterable[int], broken: Broken | None) -> list[int]:
        """Those that were read; ``broken`` is told of the others."""
        kept = []
        for place in places:
            if place not in self._unread:
                kept.append(place)
            elif broken is not None:
                broken(place, self._unread[place])
        return kept


def load(model: str, device: str = "auto") -> Embedder:
    """A model by every name that a command takes for MODEL.

    Args:
        model: ``name:pretrained`` of open_clip, ``hf-hub:…``, a folder, a run, ``small``, a TOML file that pairs two towers, or
            ``file.py:function``; with ``,grain=1`` behind it, it is scored by whole and grain.
        device: such as cpu or cuda:0; ``auto`` takes the GPU if there is one.

    Raises:
        UserError: there is no such model or device.
    """
    place = choose_device(None if device == "auto" else device)
    loaded: Any = load_any(os.fspath(model))
    return Embedder(loaded.to(place) if hasattr(loaded, "to") else loaded, str(model))


def _listed(pictures: Pictures) -> Iterable[Picture]:
    """One picture as a list of one; a folder is refused, for its names would be lost."""
    if isinstance(pictures, str | os.PathLike) and Path(pictures).is_dir():
        raise UserError(f"{os.fspath(pictures)} is a folder; give its pictures: pictures_in({os.fspath(pictures)!r}).")
    if isinstance(pictures, str | os.PathLike | Image.Image) or (isinstance(pictures, np.ndarray) and pictures.ndim == 3):
        return [cast(Picture, pictures)]
    if not isinstance(pictures, Iterable):
        raise UserError(f"Pictures are of type {type(pictures).__name__}; give paths, Pillow pictures or uint8 arrays [height, width, 3].")
    return pictures


def _positive(batch_size: int) -> int:
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; it must be at least 1.")
    return batch_size


@contextmanager
def _shown(progress: Show | None) -> Iterator[Show]:
    """What the caller gave; else a bar on a terminal, and nothing elsewhere."""
    if progress is not None:
        yield progress
    elif sys.stderr is not None and sys.stderr.isatty():
        with showing() as show:
            yield show
    else:
        yield nowhere
