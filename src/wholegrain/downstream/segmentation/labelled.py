"""Pictures with a class for every pixel: scenes, whose facts say what lies where, and folders of pictures and id masks.

A picture's labels are places in one list of classes: countable things and others first, the background (pixels that are none of the classes)
behind the last, where there is one, and -1 where nothing is known, which neither training nor measuring counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from wholegrain.data.dataset import Dataset
from wholegrain.data.scenes.draw import masks
from wholegrain.data.scenes.known import known_scenes, world_of
from wholegrain.data.scenes.world import Scene, World
from wholegrain.data.split import split_by_key
from wholegrain.errors import UserError
from wholegrain.evaluation.dense.folder import ClassSet, Masked, class_set, segmented
from wholegrain.evaluation.dense.segmentation import true_places
from wholegrain.files import shown

IGNORED = -1
_KEPT = 4096  # square label maps in memory


@dataclass(frozen=True)
class LabelledPicture:
    """A picture to train or to measure on."""

    key: str


class LabelledPictures(Protocol):
    """Pictures by key, with their labels; what :class:`~wholegrain.downstream.task.PictureData` asks for and more.

    Attributes:
        classes: their names, and the ids that :meth:`masked` gives.
    """

    @property
    def classes(self) -> ClassSet: ...
    @property
    def content_hash(self) -> str: ...
    def keys(self, split: str, /) -> list[str]:
        """Of one split, sorted. Raises :class:`UserError`: there is no such split."""
        ...

    def pixels(self, key: str, /) -> np.ndarray: ...
    def masked(self, key: str, /) -> Masked:
        """The picture with its class ids."""
        ...


def labelled_pictures(data: Path) -> LabelledPictures:
    """Of a data set of scenes, or of a folder of pictures and masks in any layout that ``wholegrain dense`` reads.

    Raises:
        UserError: it is neither.
    """
    if not (data / "manifest.json").exists():
        return FolderPictures(data)
    dataset = Dataset(data)
    world = world_of(dataset)
    if world is None:
        raise UserError(
            f"{shown(data)} is a prepared data set without a class for every pixel; give scenes (wholegrain scenes), or a folder of images/, "
            "masks/ (PNG of class ids) and classes.json."
        )
    return ScenePictures(dataset, world)


def class_names(classes: ClassSet) -> tuple[str, ...]:
    """In the order of labels: the background last, where there is one."""
    return (*classes.names, *(("background",) if classes.background is not None else ()))


class ScenePictures:
    """The pictures of a data set of scenes. Classes are the nouns of its world, and the background.

    Regions of the records hold only things that are alone of their noun; so the scenes are drawn again from the numbers in the manifest, which
    gives the same bytes, and with them every thing's exact mask.
    """

    def __init__(self, dataset: Dataset, world: World) -> None:
        self.dataset, self.world = dataset, world
        nouns, numbers = self.world.nouns, tuple(range(1, 1 + len(self.world.nouns)))
        self.classes = ClassSet(nouns, tuple((noun,) for noun in nouns), numbers, (True,) * len(nouns), background=0)
        self._of_noun = dict(zip(nouns, numbers, strict=True))

    @property
    def content_hash(self) -> str:
        return self.dataset.content_hash

    @cached_property
    def _scenes(self) -> dict[str, dict[str, Scene]]:
        return {}

    def keys(self, split: str) -> list[str]:
        if split not in self.dataset.splits:
            raise UserError(f"{shown(self.dataset.folder)} has no split {split!r}; it has {', '.join(self.dataset.splits)}.")
        if split not in self._scenes:
            self._scenes[split] = known_scenes(self.dataset, split)
        return [key for key in self.dataset.keys(split) if key in self._scenes[split]]

    def pixels(self, key: str) -> np.ndarray:
        return self.dataset.pixels(key)

    def masked(self, key: str) -> MaskedScene:
        scene = next(scenes[key] for scenes in self._scenes.values() if key in scenes)
        return MaskedScene(key, self.dataset, scene, self._of_noun, self.world.size)


@dataclass(frozen=True)
class MaskedScene:
    """One scene: ids are the places of nouns in the world's list, counted from 1; 0 is the background."""

    name: str
    dataset: Dataset
    scene: Scene
    of_noun: dict[str, int]
    size: int

    def pixels(self) -> np.ndarray:
        return self.dataset.pixels(self.name)

    def labels(self) -> np.ndarray:
        ids = np.zeros((self.size, self.size), dtype=np.int64)
        for thing, mask in zip(self.scene.things, masks(self.scene, self.size), strict=True):
            ids[mask] = self.of_noun[thing.noun]
        return ids


class FolderPictures:
    """A folder of pictures with id masks (:mod:`wholegrain.evaluation.dense.folder`).

    A split is a folder below the pictures (``images/train2017/…`` is ``train2017``). Pictures that lie in no such folder are shared out as
    ``wholegrain prepare`` does: 90% ``train``, 5% ``val``, 5% ``test``, by the hash of their names.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.found = {one.name: one for one in segmented(folder)}
        self.classes = class_set(folder)

    @property
    def content_hash(self) -> str:
        return self._content_hash

    @cached_property
    def _content_hash(self) -> str:
        """A hash of names, of the bytes of masks, of classes, and of the sizes of the pictures' files."""
        made = hashlib.sha256(repr(self.classes).encode())
        for name, one in sorted(self.found.items()):
            made.update(f"{name}\0{one.picture.stat().st_size}\0".encode())
            made.update(hashlib.sha256(one.mask.read_bytes()).digest())
        return made.hexdigest()

    @cached_property
    def _splits(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        loose = {name: hashlib.sha256(name.encode()).hexdigest() for name in self.found if "/" not in name}
        shares = split_by_key(np.array([int(key[:16], 16) for key in loose.values()] or [0], dtype=np.uint64))
        for name in sorted(self.found):
            split = shares.of(loose[name], "") if name in loose else name.split("/")[0]
            found.setdefault(split, []).append(name)
        return found

    def keys(self, split: str) -> list[str]:
        if split not in self._splits:
            raise UserError(
                f"{shown(self.folder)} has no pictures with masks in the split {split!r}; it has {', '.join(self._splits)}: choose with --split and "
                "--train-split."
            )
        return self._splits[split]

    def pixels(self, key: str) -> np.ndarray:
        return self.found[key].pixels()

    def masked(self, key: str) -> Masked:
        return self.found[key]


class LabelMaps:
    """Labels of pictures: at their own size, and squared, as the model sees a picture whole.

    Args:
        pictures: with their classes.
        side: of the square, in pixels.
    """

    def __init__(self, pictures: LabelledPictures, side: int) -> None:
        self.pictures, self.side = pictures, side
        self.square = lru_cache(maxsize=_KEPT)(self._square)

    def full(self, key: str) -> np.ndarray:
        """int64 ``[H, W]``.

        Raises:
            UserError: the mask holds an id that is none of the classes, or is not of the picture's size.
        """
        return labels_of_picture(self.pictures, key)

    def _square(self, key: str) -> np.ndarray:
        """int16 ``[S, S]``: the nearest pixel's label."""
        labels = Image.fromarray(self.full(key).astype(np.int32))
        return np.asarray(labels.resize((self.side, self.side), Image.Resampling.NEAREST)).astype(np.int16)


def labels_of_picture(pictures: LabelledPictures, key: str) -> np.ndarray:
    """int64 ``[H, W]``: places in :func:`class_names`, -1 where nothing is known. Raises as :meth:`LabelMaps.full`."""
    masked, classes = pictures.masked(key), pictures.classes
    ids = masked.labels()
    known = {*classes.ids, *classes.ignore, *([] if classes.background is None else [classes.background])}
    odd = sorted(set(np.unique(ids).tolist()) - known)
    if odd:
        raise UserError(f"The mask of the picture {key} holds the id {odd[0]}, which classes.json does not name; add it there, or correct the mask.")
    size = masked.pixels().shape[:2]
    if ids.shape != size:
        raise UserError(
            f"The mask of the picture {key} is {ids.shape[1]} x {ids.shape[0]} pixels and the picture {size[1]} x {size[0]}; "
            "replace one, so that they are the same."
        )
    return true_places(masked, classes)


def examples(pictures: LabelledPictures, split: str) -> Sequence[LabelledPicture]:
    """The pictures of a split."""
    return [LabelledPicture(key) for key in pictures.keys(split)]
