"""The pictures and captions that a visitor's picture or text is held against: some of a data set's, or scenes drawn in memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wholegrain.data.dataset import Dataset
from wholegrain.data.listing import ListedPicture, list_pictures
from wholegrain.data.pictures import HasPixels
from wholegrain.data.remote import address
from wholegrain.data.scenes.captions import say
from wholegrain.data.scenes.draw import draw
from wholegrain.data.scenes.world import World, draw_scene
from wholegrain.errors import UserError
from wholegrain.evaluation.scores.similarity import unit
from wholegrain.progress import Show, nowhere
from wholegrain.workflows.embedder import Embedder
from wholegrain.workflows.search.nearest import nearest

DRAWN = 60
"""Scenes that stand in where no data are named."""
MOST_TEXTS = 5_000
"""Captions that are compared with."""
_SHORTLIST = 4
"""Times as many pictures as are shown go through a joint score."""


@dataclass(frozen=True)
class DrawnPicture:
    """A picture in memory."""

    pixels_HWC: np.ndarray

    def pixels(self) -> np.ndarray:
        """uint8 RGB ``[H, W, 3]``."""
        return self.pixels_HWC


@dataclass(frozen=True)
class Gallery:
    """Pictures in a fixed order, and what is said of each.

    Attributes:
        place: what they are, in words.
        names: for each picture by what it is known.
        pictures: read when they are asked for.
        captions: for each picture its captions; none in a plain folder.
    """

    place: str
    names: tuple[str, ...]
    pictures: tuple[HasPixels, ...]
    captions: tuple[tuple[str, ...], ...]

    @property
    def texts(self) -> list[str]:
        """All captions, each once, the first of every picture first; at most :data:`MOST_TEXTS`."""
        most = max(map(len, self.captions), default=0)
        turns = (said[turn] for turn in range(most) for said in self.captions if turn < len(said))
        return list(dict.fromkeys(turns))[:MOST_TEXTS]

    def spread(self, count: int) -> list[int]:
        """Places of so many pictures, evenly over all; those that cannot be read are left out.

        Raises:
            UserError: none of them can be read; the reason of the last.
        """
        found: list[int] = []
        reason = ""
        for place in _evenly(len(self.pictures), count):
            try:
                self.pictures[place].pixels()
                found.append(place)
            except UserError as error:
                reason = str(error)
        if not found:
            raise UserError(f"None of the {len(self.pictures):,} pictures that were looked at can be read ({reason.rstrip('.')}); give other data.")
        return found


def drawn_gallery(size: int) -> Gallery:
    """:data:`DRAWN` scenes, ``size`` pixels a side, with their captions."""
    world, pictures, captions = World(), list[HasPixels](), list[tuple[str, ...]]()
    for index in range(DRAWN):
        rng = world.rng("explore", index)
        scene = draw_scene(world, rng)
        captions.append(tuple(said.text for said in say(scene, rng) if said.role in ("overview", "main_object", "background", "detail")))
        pictures.append(DrawnPicture(draw(scene, size)))
    return Gallery(f"{DRAWN} scenes drawn for you", tuple(said[0] for said in captions), tuple(pictures), tuple(captions))


def open_gallery(data: str, most: int) -> Gallery:
    """At most ``most`` pictures of a data set (of its test pictures, else the validation's, else the first split's) or of a folder or table.

    Only a prepared data set has captions.

    Raises:
        UserError: there are no pictures.
    """
    if address(data) or (Path(data) / "manifest.json").is_file():
        return _of_dataset(Dataset(data), most)
    listed = list_pictures(data)
    chosen = [listed.pictures[n] for n in _evenly(len(listed), most)]
    place = f"{len(chosen):,} of {len(listed):,} pictures of {data}"
    return Gallery(place, tuple(picture.name for picture in chosen), tuple(chosen), ((),) * len(chosen))


def _of_dataset(dataset: Dataset, most: int) -> Gallery:
    split = next((name for name in ("test", "val") if name in dataset.splits and dataset.keys(name)), dataset.splits[0])
    keys = dataset.keys(split)
    if not keys:
        raise UserError(f"{dataset.folder} holds no pictures; prepare it again, or give another data set.")
    chosen = [keys[n] for n in _evenly(len(keys), most)]
    pictures = tuple(ListedPicture(key, None, 0, 0, partial(dataset.image_bytes, key)) for key in chosen)
    captions = tuple(tuple(caption.text for caption in dataset.record(key).captions) for key in chosen)
    names = tuple(said[0] if said else key for key, said in zip(chosen, captions, strict=True))
    return Gallery(f"{len(chosen):,} of {len(keys):,} pictures of {dataset.name}, split {split}", names, pictures, captions)


def _evenly(count: int, most: int) -> list[int]:
    return np.linspace(0, count - 1, min(count, most)).astype(int).tolist()


@dataclass(frozen=True)
class Near:
    """What a model finds near to something, nearest first.

    Attributes:
        model: its name.
        pictures: (place in the gallery, score).
        captions: (text, cosine).
        cut: the text is longer than the model's context, so that its end is not read.
    """

    model: str
    pictures: tuple[tuple[int, float], ...]
    captions: tuple[tuple[str, float], ...]
    cut: bool = False


class Neighbours:
    """A model's vectors of a gallery, made when they are first asked for and kept in memory."""

    def __init__(self, model: Embedder, gallery: Gallery) -> None:
        self.model, self.gallery, self.texts = model, gallery, gallery.texts
        self._pictures: tuple[list[int], Tensor] | None = None
        self._texts_MD: Tensor | None = None

    def of_picture(self, pixels_HWC: np.ndarray, k: int = 8, show: Show = nowhere) -> Near:
        """The k nearest pictures by the cosine of the vectors, and captions by the cosine of picture and text."""
        (query_D,) = self.model.embed_images(pixels_HWC, as_tensor=True, progress=nowhere)
        places, vectors_ND = self._readable(show)
        rows, cosines = nearest(unit(vectors_ND), unit(query_D), k)
        found = tuple((places[row], cosine) for row, cosine in zip(rows, cosines, strict=True))
        return Near(self.model.name, found, self.captions_near(query_D, k, show))

    def of_text(self, text: str, k: int = 8, show: Show = nowhere) -> Near:
        """The k pictures that fit a text best, by the model's own score, and the captions nearest to it by the cosine of the vectors.

        A model that scores pairs jointly orders the pictures nearest by cosine, some times as many as are shown.
        """
        (query_D,) = self.model.embed_texts(text, as_tensor=True, progress=nowhere)
        joint = getattr(self.model.model, "score", None) is not None
        places, vectors_ND = self._readable(show)
        rows, scores = nearest(vectors_ND, query_D, _SHORTLIST * k if joint else k)
        found = [(places[row], score) for row, score in zip(rows, scores, strict=True)]
        if joint:
            scores = self.model.similarity([self.gallery.pictures[place] for place, _ in found], text, progress=nowhere)[:, 0].tolist()
            found = sorted(((place, score) for (place, _), score in zip(found, scores, strict=True)), key=lambda one: -one[1])[:k]
        return Near(self.model.name, tuple(found), self.captions_near(query_D, k, show), self.model.cut([text])[0])

    def captions_near(self, query_D: Tensor, k: int, show: Show = nowhere) -> tuple[tuple[str, float], ...]:
        """The k captions whose vectors have the greatest product with a query."""
        if not self.texts:
            return ()
        if self._texts_MD is None:
            self._texts_MD = self.model.embed_texts(self.texts, as_tensor=True, progress=show)
        rows, scores = nearest(self._texts_MD, query_D, k)
        return tuple((self.texts[row], score) for row, score in zip(rows, scores, strict=True))

    def _readable(self, show: Show) -> tuple[list[int], Tensor]:
        """Places of the gallery's pictures that can be read, and their vectors, float32, row for row."""
        if self._pictures is None:
            batches = list(self.model.embed_batches(self.gallery.pictures, broken=lambda place, why: None, progress=show))
            if not batches:
                raise UserError(f"None of the pictures can be read ({self.gallery.place}); give other data.")
            self._pictures = [place for places, _ in batches for place in places], torch.cat([vectors_BD for _, vectors_BD in batches])
        return self._pictures
