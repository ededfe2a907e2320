"""Classification sets: a folder for each class, or CLIP_benchmark's WebDataset shards. Nothing is prepared first.

===============================================  ===============================================================================
layout                                           read as
===============================================  ===============================================================================
``test/nshards.txt``, ``test/0.tar`` …,          CLIP_benchmark's: pictures with ``.cls`` (a number) or, where ``dataset_type.txt`` says
``classnames.txt``                               ``multilabel``, ``.npy`` (0 and 1 for each class); ``train/`` likewise;
                                                 ``zeroshot_classification_templates.txt`` if the set has no sentences of its own here
``test/CLASS/…``, ``val/CLASS/…``, ``CLASS/…``   the class is the folder; its words are the folder's name with spaces for ``_``, or those in
                                                 ``classnames.json`` (folder -> words); ``train/CLASS/…`` likewise
===============================================  ===============================================================================

ImageNet and what grew from it (``imagenet``, ``imagenetv2``, ``imagenet_sketch``, ``imagenet_a``, ``imagenet_r``): folders are WordNet ids (in V2
the classes' numbers, which sort as numbers, not as text), the words are CLIP's, and the published classes compete, 1,000 or 200, also
where only some of them have pictures. ``objectnet``: the 113 classes of ObjectNet that ImageNet has, by the files in its folder
``mappings``, in ObjectNet's words.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from wholegrain.data.pictures import SUFFIXES
from wholegrain.data.sources.sample import Member, SourceOptions
from wholegrain.data.sources.webdataset import WebDatasetSource
from wholegrain.errors import UserError
from wholegrain.evaluation.benchmarks.class_table import CLASS_TASKS, ClassTask
from wholegrain.evaluation.benchmarks.files import AGAIN, read_json
from wholegrain.evaluation.benchmarks.items import LabelledSet, Picture
from wholegrain.evaluation.tasks import imagenet
from wholegrain.evaluation.tasks.templates import templates_of
from wholegrain.files import read_text

Labels = tuple[tuple[int, ...], ...]
Part = tuple[tuple[Picture, ...], Labels]
TEST, TRAIN = ("test", "val", "validation"), ("train", "training")
NOWHERE: Part = ((), ())


def class_set(name: str) -> Callable[..., LabelledSet]:
    """A reader of the classification set ``name`` (:data:`~wholegrain.evaluation.benchmarks.class_table.CLASS_TASKS`); ``classes`` reads any."""
    task = CLASS_TASKS.get(name, ClassTask("photo"))

    def read(
        folder: Path | str, images: tuple[Path, ...] = (), *, templates: Sequence[str] = (), metric: str = "", split: str = ""
    ) -> LabelledSet:
        place = Path(folder)
        if not place.is_dir():
            raise UserError(f"{place} is not a folder; get the set from {task.source}, and point to its folder.")
        title = place.resolve().name if name == "classes" else name
        own: tuple[str, ...] = ()
        if (found := _part_folder(place, (split,) if split else TEST, "nshards.txt")) is not None:
            classes = _lines(place / "classnames.txt")
            own = tuple(line.replace("{c}", "{}") for line in _lines(place / "zeroshot_classification_templates.txt"))
            if not classes:
                raise UserError(f"{place} has no classnames.txt, a class a line; get it from {task.source}.")
            test = _shards(found)
            train = _shards(there) if (there := _part_folder(place, TRAIN, "nshards.txt")) is not None else NOWHERE
            kind = "CLIP_benchmark's shards"
        else:
            classes, test, train = _folders(place, task, split)
            kind = "a folder for each class"
        chosen = tuple(templates) or ((task.prompts,) if name != "classes" or not own else own)
        notes = _check(title, task, classes, test, place)
        sentences = templates_of(chosen)
        prompted = f"{len(sentences)} sentences for each class" if len(sentences) > 1 else f"the sentence {''.join(sentences)!r}"
        several = any(len(label) != 1 for label in test[1])
        usual = task.metric if task.metric.startswith("mean_average_precision") == several else "acc1"
        quoted = metric or ("mean_average_precision" if several and usual == "acc1" else usual)
        protocol = f"{len(test[0]):,} pictures of {title} ({kind}), {len(classes):,} classes compete, {prompted}"
        return LabelledSet(title, *test, tuple(classes), sentences, quoted, protocol, notes, train)

    return read


def _check(title: str, task: ClassTask, classes: Sequence[str], test: Part, place: Path) -> tuple[str, ...]:
    if not test[0] or len(classes) < 2:
        raise UserError(
            f"{place} holds {len(test[0])} pictures of {len(classes)} classes; it should have test/CLASS/…, CLASS/… or CLIP_benchmark's "
            f"shards, of two classes or more, from {task.source}."
        )
    outside = max(max(label, default=0) for label in test[1])
    if outside >= len(classes):
        raise UserError(
            f"A picture of {place} has the class {outside}, but there are only {len(classes)} names; get classnames.txt again."
        )
    short = task.size and len(test[0]) != task.size
    other = task.classes and len(classes) != task.classes
    return (
        *([f"the published set has {task.size:,} pictures, so do not compare with its figures"] if short else []),
        *([f"the published set has {task.classes:,} classes, so do not compare with its figures"] if other else []),
    )


def _part_folder(place: Path, names: Sequence[str], holds: str = "") -> Path | None:
    return next((place / name for name in names if (place / name / holds).exists() and (place / name).is_dir()), None)


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in read_text(path, AGAIN).splitlines() if line.strip()] if path.is_file() else []


def _shards(folder: Path) -> Part:
    """All pictures of ``0.tar`` … of a part, with their classes."""
    try:
        count = int(read_text(folder / "nshards.txt", "get the set again", most=100))
        there = sum(1 for _ in folder.glob("*.tar"))
        if not 0 < count <= there:
            raise UserError(f"{folder / 'nshards.txt'} says {count} tar files, and there are {there}; get the set again.")
    except ValueError as error:
        raise UserError(f"{folder / 'nshards.txt'} is no number; it should say how many tar files there are.") from error
    source = WebDatasetSource([folder / f"{n}.tar" for n in range(count)], SourceOptions())
    pictures, labels = [], []
    for shard in source.shards:
        for stem, members in groupby(source.members(shard), lambda member: member[0]):
            parts = {suffix: data for _, suffix, data in members}
            image = next((data for suffix, data in parts.items() if suffix.endswith(SUFFIXES)), None)
            label = _label(parts, f"{shard}, sample {stem}")
            if not isinstance(image, Member):
                why = "has no picture" if image is None else "is compressed"
                raise UserError(f"{shard}, sample {stem}, {why}; a plain tar with .webp, .png or .jpg is expected: get it again.")
            pictures.append(Picture(image.path, span=(image.offset, image.size)))
            labels.append(label)
    return tuple(pictures), tuple(labels)


def _label(parts: dict[str, bytes | Member], where: str) -> tuple[int, ...]:
    one, several = parts.get(".cls"), parts.get(".npy")
    try:
        if isinstance(one, bytes):
            return (int(one),)
        if isinstance(several, bytes):
            return tuple(np.flatnonzero(np.lib.format.read_array(io.BytesIO(several), allow_pickle=False)).tolist())
    except (ValueError, EOFError, OSError, MemoryError, SyntaxError, TypeError, OverflowError) as error:
        raise UserError(f"{where}: its class cannot be read ({error}); get the shard again.") from error
    raise UserError(f"{where} has no .cls, the number of its class; is this a set for classification?")


def _folders(place: Path, task: ClassTask, split: str) -> tuple[list[str], Part, Part]:
    """Words of the classes, the test part and the train part of class folders."""
    if task.part == "objectnet":
        return _objectnet(place, task)
    test = _part_folder(place, (split,) if split else TEST) or place
    train = _part_folder(place, TRAIN) if test != place else None
    folders = {folder.name for part in (test, train) if part is not None for folder in part.iterdir() if folder.is_dir()}
    folders -= {name for name in folders if name.startswith(".")}
    if test != place:
        order = sorted(folders)
    else:
        order = sorted(name for name in folders if any(True for _ in _files(place / name)))
    if task.part in ("all", "a", "r"):
        ids = imagenet.wnids("" if task.part == "all" else task.part)
        if not set(order) & set(ids):
            raise UserError(f"{place} has no folder named by a WordNet id such as {ids[0]}; get the set from {task.source}.")
        order, words = list(ids), [imagenet.names()[name] for name in ids]
    elif task.part == "places":
        if not all(name.isdigit() and int(name) < task.classes for name in order):
            raise UserError(f"{place} should have folders 0 to {task.classes - 1}; get the set from {task.source}.")
        order, words = [str(n) for n in range(task.classes)], list(imagenet.names().values())
    else:
        names_of = read_json(place / "classnames.json", dict[str, str]) if (place / "classnames.json").is_file() else {}
        words = [str(names_of.get(name, name.replace("_", " "))) for name in order]
    numbers = {name: n for n, name in enumerate(order)}
    return words, _pictures(test, numbers), _pictures(train, numbers) if train is not None else NOWHERE


def _objectnet(place: Path, task: ClassTask) -> tuple[list[str], Part, Part]:
    found = {
        name: next(iter(sorted(place.rglob(name))), None)
        for name in ("folder_to_objectnet_label.json", "objectnet_to_imagenet_1k.json")
    }
    missing = [name for name, path in found.items() if path is None]
    images = next((path for path in (place / "images", place / "objectnet-1.0" / "images", place) if path.is_dir()), place)
    if missing:
        raise UserError(f"{place} has no {missing[0]} (in its folder mappings); get the set from {task.source}.")
    words, known = (read_json(path, dict[str, str]) for path in found.values() if path is not None)
    kept = sorted(folder for folder, word in words.items() if word in known)
    numbers = {folder: n for n, folder in enumerate(kept)}
    return [words[folder].lower() for folder in kept], _pictures(images, numbers), NOWHERE


def _pictures(folder: Path, numbers: dict[str, int]) -> Part:
    found = [(Picture(path), (n,)) for name, n in numbers.items() if (folder / name).is_dir() for path in _files(folder / name)]
    return tuple(picture for picture, _ in found), tuple(label for _, label in found)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES)
