"""A folder of images: captions in text files of the same stem, or class names as names of sub-folders."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from wholegrain.data.pictures import SUFFIXES, refuse_folder
from wholegrain.data.sources.sample import MOST_TEXT, InsideFolder, RawSample, SourceOptions
from wholegrain.errors import UserError
from wholegrain.files import UnreadableError, read_bytes, shown

SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test"}


class FolderSource:
    """Images in the order of their paths.

    If any image has a text file of the same stem, each line of it that is not empty is a caption; otherwise the sub-folder's name
    is the label and, as the only thing known of the image, its caption with the role ``label``. Top folders named train, val,
    test (and the like) are splits.
    """

    def __init__(self, path: Path, options: SourceOptions) -> None:
        self.path, self.options = path, options
        names = sorted(
            os.path.relpath(os.path.join(folder, name), path)
            for folder, folders, files in os.walk(path, onerror=refuse_folder)
            for name in files
            if not name.startswith(".")
        )
        self.images = [name for name in names if name.lower().endswith(SUFFIXES)]
        self.texts = {name[:-4] for name in names if name.endswith(".txt")}
        if not self.images:
            raise UserError(
                f"{shown(path)} holds no images ({', '.join(SUFFIXES)}), tables or shards that could be read; give another source"
            )
        self.captioned = any(os.path.splitext(name)[0] in self.texts for name in self.images)
        if not self.captioned and not any(self._label(name)[1] for name in self.images):
            raise UserError(
                f"{shown(path)} says nothing of its images; put captions into text files beside them (photo.jpg, photo.txt), "
                "or the images into one sub-folder a class"
            )
        self.inside = InsideFolder(path)

    def _label(self, name: str) -> tuple[str, str]:
        """(split, label) from the folders of a relative path."""
        folders = list(Path(name).parts[:-1])
        split = SPLITS.get(folders[0].lower()) if folders else None
        rest = folders[1:] if split else folders
        return split or self.options.split, rest[0] if rest else ""

    def __iter__(self) -> Iterator[RawSample]:
        for name in self.images:
            where = shown(self.path / name)
            split, label = self._label(name)
            stem = os.path.splitext(name)[0]
            image = self.inside(name, str(self.path))
            if not self.captioned:
                captions = ((label.replace("_", " "), "label", "folder name"),) if label else ()
                yield RawSample(image, captions, split, label or None, where=where)
            elif stem not in self.texts:
                yield RawSample(image, (), split, where=where, problem=f"there is no {shown(os.path.basename(stem))}.txt beside it")
            else:
                try:
                    data = read_bytes(self.inside(stem + ".txt", str(self.path)), "correct it", most=MOST_TEXT)
                except UnreadableError as error:
                    problem = f"{shown(os.path.basename(stem))}.txt {error.problem}"
                    yield RawSample(image, (), split, where=where, problem=problem)
                    continue
                text = data.decode("utf-8-sig", errors="replace")
                captions = tuple((line, self.options.role, "text file") for line in text.splitlines() if line.strip())
                yield RawSample(image, captions, split, where=where)

    def fingerprint(self) -> list[str]:
        return [hashlib.sha256(os.fsencode("\n".join((*self.images, *sorted(self.texts))))).hexdigest()]
