"""A model as a function of pictures and texts: vectors, scores, ranks, class names.

Pictures are read, resized and encoded on the path of the evaluation, so the vectors are those that its figures are made of.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Literal, TypeAlias, cast, get_args, overload

import numpy as np
import torch
from torch import Tensor

from wholegrain.data.listing import ListedPicture
from wholegrain.data.pictures import SUFFIXES, Picture, rgb_of
from wholegrain.errors import UserError
from wholegrain.evaluation.contract import EvaluatedModel, PatchModel
from wholegrain.evaluation.features.encode import default_needs, encode_image_batches, encode_texts
from wholegrain.evaluation.named import load_any
from wholegrain.evaluation.scores.similarity import index_vectors, similarity, unit
from wholegrain.evaluation.tasks.templates import templates_of
from wholegrain.evaluation.tasks.zero_shot import scores_with, sentences_of
from wholegrain.features import ImageFeatures
from wholegrain.losses.core.contract import MAX_SCALE
from wholegrain.progress import Show, nowhere, showing
from wholegrain.report.explanation import Explanation, explain
from wholegrain.suggest import closest
from wholegrain.training.distributed.processes import choose_device
from wholegrain.workflows.classified import Classified, check_labels, chosen
from wholegrain.workflows.given_pictures import Broken, GivenPictures, Pictures, as_pictures

Score: TypeAlias = Literal["own", "cosine"]
_CHUNK = 16
"""Batches of pictures that are taken from an iterator at a time."""


class Embedder:
    """A model as a function of pictures and texts.

    Args:
        model: any model that the evaluation takes; it is used in eval mode and put back as it was.
        name: by which it was loaded.

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

    @property
    def scale(self) -> float:
        """What scores are multiplied by before a softmax: 1 for log-odds; CLIP's 100 for a foreign model, which states nothing."""
        if "match" in getattr(getattr(self.model, "head", None), "gives", ()):
            return 1.0
        return float(torch.as_tensor(getattr(self.model, "scale", MAX_SCALE)).detach())

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
            pictures: paths, Pillow pictures or uint8 arrays ``[H, W, 3]``, in any mixture and from any iterable, or one of them. Files and
                Pillow pictures are turned upright by their orientation tag; transparency is dropped.
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

    def similarity(
        self,
        pictures: Pictures,
        texts: str | Iterable[str],
        *,
        score: Score = "own",
        batch_size: int = 64,
        progress: Show | None = None,
    ) -> np.ndarray:
        """Scores of every picture with every text, float32 ``[N, M]``.

        Args:
            score: ``own`` is the model's: a head that scores pairs jointly (FILIP, FLAIR, Llip, PACL, a fusion network's log-odds, whole and
                grain) scores by that, any other by the cosine. ``cosine`` is the cosine of the pooled vectors whatever the head; of a model
                with several branches the mean of theirs.

        Raises:
            UserError: a picture cannot be read, something among the texts is no text, or there is no such score.
        """
        if score not in get_args(Score):
            raise UserError(f"There is no score {score!r}; {closest(score, get_args(Score))}")
        needs, listed = default_needs(self.model), self._texts(texts)
        needs = needs if score == "own" else needs & {"branches"}
        if not listed:
            return np.zeros((sum(1 for _ in as_pictures(pictures)), 0), np.float32)
        text, scorer = encode_texts(self.model, listed, needs), self.model if score == "own" else None
        parts = [_finite(similarity(image, text, scorer)) for _, image in self._images(pictures, needs, batch_size, None, progress)]
        return torch.cat(parts).numpy() if parts else np.zeros((0, len(listed)), np.float32)

    def rank(
        self, query: Picture, pictures: Pictures, k: int = 10, *, score: Score = "own", batch_size: int = 64, progress: Show | None = None
    ) -> list[tuple[str | os.PathLike[str] | int, float]]:
        """The ``k`` pictures that fit best, the best first: (path as it was given, or place from 0 of what has no path; score).

        Args:
            query: a text, scored as by :meth:`similarity`; or a picture, scored by the cosine of the vectors. A string is a text, unless it
                names a picture file that is there.

        Example::

            embedder.rank("a dog on grass", Path("photos").glob("*.jpg"), k=3)
        """
        if k < 1:
            raise UserError(f"k is {k}; it must be at least 1.")
        named: list[str | os.PathLike[str] | int] = []

        def noted() -> Iterator[Picture]:
            for picture in as_pictures(pictures):
                path = picture.path if isinstance(picture, ListedPicture) else picture
                named.append(path if isinstance(path, str | os.PathLike) else len(named))
                yield picture

        if isinstance(query, str) and not (query.lower().endswith(SUFFIXES) and Path(query).is_file()):
            scores_N = self.similarity(noted(), query, score=score, batch_size=batch_size, progress=progress)[:, 0]
        else:
            own_1D = unit(self.embed_images(query, as_tensor=True))
            vectors_ND = unit(self.embed_images(noted(), batch_size=batch_size, as_tensor=True, progress=progress))
            scores_N = (vectors_ND @ own_1D[0]).numpy()
        best = np.argsort(-scores_N, kind="stable")[:k]
        return [(named[n], float(scores_N[n])) for n in best]

    def classify(
        self,
        pictures: Pictures,
        labels: Sequence[str],
        *,
        templates: str | Sequence[str] = ("photo",),
        abstain_below: float | None = None,
        batch_size: int = 64,
        progress: Show | None = None,
    ) -> Classified:
        """The most probable of the labels for each picture, and the probabilities of all.

        A label's score is that of the zero-shot evaluation; the probabilities are the softmax of the scores at the model's temperature (of log-odds
        as they are). They say how the model decides among these labels and no others, and are not calibrated.

        Args:
            labels: two or more, all different.
            templates: sentences with ``{}`` for the label, or names: plain, photo, openai, openai7, a data set of CLIP's paper.
            abstain_below: least probability, 0 to 1; a picture whose best label has less gets ``None``.

        Raises:
            UserError: fewer than two labels, one that comes twice, an unknown template, or a picture that cannot be read.
        """
        batches = self.classify_batches(pictures, labels, templates=templates, batch_size=batch_size, progress=progress)
        parts = [probabilities for _, probabilities in batches]
        probability_NC = np.concatenate(parts) if parts else np.zeros((0, len(labels)), np.float32)
        return Classified(chosen(probability_NC, labels, abstain_below), probability_NC)

    def classify_batches(
        self,
        pictures: Pictures,
        labels: Sequence[str],
        *,
        templates: str | Sequence[str] = ("photo",),
        batch_size: int = 64,
        broken: Broken | None = None,
        progress: Show | None = None,
    ) -> Iterator[tuple[list[int], np.ndarray]]:
        """:meth:`classify` batch by batch: places (from 0) and probabilities ``[b, C]``; ``broken`` as of :meth:`embed_batches`."""
        classes = check_labels(labels)
        sentences = templates_of([templates] if isinstance(templates, str) else templates)
        text = encode_texts(self.model, self._texts(sentences_of(classes, sentences)))
        for places, image in self._images(pictures, default_needs(self.model), batch_size, broken, progress):
            scores_BC = scores_with(self.model, image, text, len(classes), len(sentences))
            yield places, (self.scale * _finite(scores_BC)).softmax(1).numpy()

    def explain(self, picture: Picture, caption: str, read_outs: Sequence[str] = ()) -> Explanation:
        """Where in a picture the model sees each word and each noun phrase of a caption.

        Args:
            read_outs: by what words are read out of the patches: pooled, token, token_cosine, h_v, attention, gradient; by default all that the
                model can be read out by.

        Raises:
            UserError: the model has no patches, the caption no words, there is no such read-out, or the picture cannot be read.

        Example::

            embedder.explain("dogs.jpg", "a brown dog chases a ball").save("why.png")
        """
        return explain(cast(PatchModel, self.model), rgb_of(picture, 0), caption, read_outs)

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
        given = as_pictures(pictures)
        total, batch_size = len(given) if isinstance(given, Sized) else 0, _positive(batch_size)
        source, start = iter(given), 0
        with _shown(progress) as show:
            show("images", 0, total)
            while chunk := list(islice(source, _CHUNK * batch_size)):
                some = GivenPictures(chunk, start, skip=broken is not None)
                for features in encode_image_batches(self.model, some, some.keys, needs, batch=batch_size):
                    places = range(start, start + len(features.pooled_BD))
                    start = places.stop
                    show("images", start, total)
                    kept = some.readable(places, broken)
                    if kept:
                        rows = torch.tensor([place - places.start for place in kept])
                        yield kept, features if len(kept) == len(places) else features.select(rows)


def load(model: str | os.PathLike[str], device: str = "auto") -> Embedder:
    """A model by every name that a command takes for MODEL.

    Args:
        model: ``name:pretrained`` of open_clip, ``hf-hub:…``, a folder, a run, ``small``, a TOML file that pairs two towers, or
            ``file.py:function``; with ``,grain=1`` behind it, it is scored by whole and grain.
        device: such as cpu or cuda:0; ``auto`` takes the GPU if there is one.

    Raises:
        UserError: there is no such model or device.
    """
    return Embedder(load_any(os.fspath(model), choose_device(device)), os.fspath(model))


def _finite(scores: Tensor) -> Tensor:
    """The scores; NaN would put pictures into no order at all."""
    if not bool(torch.isfinite(scores).all()):
        raise UserError("The model gave scores that are not finite; use an earlier checkpoint.")
    return scores


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
