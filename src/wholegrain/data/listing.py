"""Pictures without captions: every picture of a folder, a prepared data set or a table, by name, read when it is asked for."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from wholegrain.data.dataset import Dataset
from wholegrain.data.pictures import MOST_BYTES, SUFFIXES, BrokenPictureError, decode_rgb, upright_rgb
from wholegrain.data.remote import address
from wholegrain.data.sources import RawSample, SourceOptions, open_source
from wholegrain.data.sources.sample import Member
from wholegrain.errors import UserError
from wholegrain.files import UnreadableError, read_bytes, shown

_ADVICE = "replace it or take it out"


@dataclass(frozen=True)
class ListedPicture:
    """A picture, and where its file's bytes come from.

    Attributes:
        name: by which the user knows it, told apart from all others of its listing: its path in a folder (bytes that are no UTF-8 as
            ``os.fsdecode`` gives them), the path that a table states, its key in a prepared data set.
        path: its own file; ``None`` inside a shard.
        size, changed: bytes of its file, and when that was written, in nanoseconds; both 0 where ``name`` already stands for the content.
        read: gives the file's bytes; raises :class:`UserError`.
    """

    name: str
    path: Path | None
    size: int
    changed: int
    read: Callable[[], bytes] = field(repr=False, compare=False)

    def pixels(self) -> np.ndarray:
        """The decoded picture: uint8 RGB ``[H, W, 3]``.

        Raises:
            UserError: it cannot be read or decoded; :class:`~wholegrain.files.UnreadableError`, whose ``problem`` is the reason alone.
        """
        try:
            return self.decode(self.read())
        except BrokenPictureError as error:
            raise UnreadableError(self.name, f"cannot be decoded ({error})", _ADVICE) from None

    def decode(self, image: bytes) -> np.ndarray:
        """Its bytes as uint8 RGB ``[H, W, 3]``: a file upright, a picture of a shard as training and evaluation see it, without its orientation tag."""
        return decode_rgb(image) if self.path is None else upright_rgb(image)


@dataclass(frozen=True)
class Listing:
    """Pictures in a fixed order.

    Attributes:
        place: what they are pictures of: an absolute path, or an address.
        pictures: each name once.
        passed_over: files that are no pictures of a format that is read, by ending (``""`` for none); hidden ones are not counted.
        problems: (name, reason) of what was named but is not there, or may not be read.
    """

    place: str
    pictures: tuple[ListedPicture, ...]
    passed_over: Counter[str] = field(default_factory=Counter[str])
    problems: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def passed_over_line(self) -> str:
        """What was passed over, in words; empty if nothing was.

        Example:
            >>> Listing("/photos", (), Counter({".heic": 2, ".txt": 1})).passed_over_line
            '3 files that are no pictures of a known kind were passed over (2 .heic, 1 .txt)'
        """
        if not self.passed_over:
            return ""
        count = sum(self.passed_over.values())
        kinds = [f"{many:,} {shown(end) or 'without an ending'}" for end, many in self.passed_over.most_common(5)]
        files = "file that is no picture of a known kind was" if count == 1 else "files that are no pictures of a known kind were"
        return f"{count:,} {files} passed over ({', '.join(kinds)}{', …' if len(self.passed_over) > 5 else ''})"


def list_pictures(spec: str | Path, options: SourceOptions = SourceOptions()) -> Listing:
    """The pictures of a folder with all folders in it, of a prepared data set, or of whatever ``prepare`` reads; captions are not needed.

    A folder's pictures come by their endings, sorted by path; hidden files and folders are passed over in silence, links to folders are not
    followed. Nothing is opened but the tables that name pictures.

    Args:
        spec: a folder, a prepared data set (also by its address), a picture, a table (``.csv``, ``.tsv``, ``.jsonl``, ``.parquet``) with a
            column of files, or WebDataset shards.
        options: for tables: columns with unusual names, and the folder that paths are relative to.

    Raises:
        UserError: there is nothing there, or no picture in it.

    Example::

        for picture in list_pictures("photos").pictures:
            print(picture.name, picture.pixels().shape)
    """
    path = Path(spec)
    if address(spec) or (path / "manifest.json").is_file():
        return _prepared(Dataset(spec))
    if path.is_dir():
        found = _folder(path)
        return found if found.pictures or not _has_data(path) else _source(spec, options)
    if path.suffix.lower() in SUFFIXES:
        size, changed = _stamp(path)
        return Listing(str(path.absolute()), (_file(path, str(spec), size, changed),))
    return _source(spec, options)


def pictures_in(folder: Path | str) -> list[Path]:
    """The picture files of a folder and of all below it, by :func:`list_pictures`, in the order of their paths; hidden ones are left out.

    Raises:
        UserError: the folder is not there, cannot be read, or holds none.
    """
    if not Path(folder).is_dir():
        raise UserError(f"{shown(folder)} is {'not a folder' if Path(folder).exists() else 'not there'}; give a folder of pictures.")
    return [Path(folder, picture.name) for picture in _folder(Path(folder)).pictures]


def _file(path: Path, name: str, size: int, changed: int) -> ListedPicture:
    return ListedPicture(name, path, size, changed, partial(read_bytes, path, _ADVICE, most=MOST_BYTES))


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        problem = "does not exist" if missing else f"cannot be read ({getattr(error, 'strerror', None) or error})"
        raise UnreadableError(path, problem, "check the path", missing=missing) from None
    if not stat.S_ISREG(found.st_mode):
        raise UnreadableError(path, "is not a file", "check the path")
    return found.st_size, found.st_mtime_ns


def _folder(folder: Path) -> Listing:
    pictures: list[ListedPicture] = []
    problems: list[tuple[str, str]] = []
    passed_over: Counter[str] = Counter()

    def refused(error: OSError) -> None:
        if os.fspath(error.filename) == os.fspath(folder):
            raise UserError(
                f"the folder {shown(folder)} cannot be read ({error.strerror}); make it readable, or give another one"
            )
        problems.append((os.path.relpath(error.filename, folder), f"the folder cannot be read ({error.strerror})"))

    for place, folders, files in os.walk(folder, onerror=refused):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.startswith("."):
                continue
            if not name.lower().endswith(SUFFIXES):
                passed_over[os.path.splitext(name)[1].lower()] += 1
                continue
            path = Path(place, name)
            within = os.path.relpath(path, folder)
            try:
                pictures.append(_file(path, within, *_stamp(path)))
            except UnreadableError as error:
                problems.append((within, error.problem))
    pictures.sort(key=lambda picture: picture.name)
    found = Listing(os.path.realpath(folder), tuple(pictures), passed_over, tuple(sorted(problems)))
    if not pictures and not _has_data(folder):
        more = found.passed_over_line or f"{len(problems):,} could not be read" if passed_over or problems else "it is empty"
        raise UserError(f"{shown(folder)} holds no pictures ({', '.join(SUFFIXES)}), {more}; give another folder")
    return found


def _has_data(folder: Path) -> bool:
    """Whether :func:`open_source` would find shards or tables in a folder without pictures."""
    return any(next(folder.glob(pattern), None) for pattern in ("*.tar", "*.parquet"))


def _prepared(dataset: Dataset) -> Listing:
    pictures = [
        ListedPicture(key, None, 0, 0, partial(dataset.image_bytes, key))
        for split in dataset.splits
        for key in dataset.keys(split)
    ]  # a key is a hash of the picture's file
    place = dataset.remote.url if dataset.remote is not None else os.path.realpath(dataset.folder)
    if not pictures:
        raise UserError(f"{shown(place)} holds no pictures; prepare it again, or give another data set")
    return Listing(place, tuple(pictures))


def _source(spec: str | Path, options: SourceOptions) -> Listing:
    pictures: dict[str, ListedPicture] = {}
    problems: list[tuple[str, str]] = []
    root = options.image_root or Path(spec).parent
    for name, sample in _named(open_source(spec, options.without_captions()), root):
        if name in pictures:
            continue
        try:
            size, changed = _stamp_of(sample)
        except UnreadableError as error:
            problems.append((name, error.problem))
        else:
            path = sample.image if isinstance(sample.image, Path) else None
            pictures[name] = ListedPicture(name, path, size, changed, sample.read)
    problems = list(dict.fromkeys(problems))
    if not pictures:
        first = f" (first: {shown(problems[0][0])} {problems[0][1]})" if problems else ""
        raise UserError(f"{shown(spec)} names no pictures that could be read{first}; give another source")
    return Listing(os.path.realpath(spec), tuple(pictures.values()), problems=tuple(problems))


def _named(samples: Iterable[RawSample], root: Path) -> Iterator[tuple[str, RawSample]]:
    for sample in samples:
        if isinstance(sample.image, Path):
            yield os.path.relpath(sample.image, root) if sample.image.is_relative_to(root) else str(sample.image), sample
        else:
            yield sample.where, sample


def _stamp_of(sample: RawSample) -> tuple[int, int]:
    if sample.problem:
        raise UnreadableError(sample.where, sample.problem, _ADVICE)
    if isinstance(sample.image, Path):
        return _stamp(sample.image)
    if isinstance(sample.image, Member):
        return sample.image.size, os.stat(sample.image.path).st_mtime_ns
    raise UserError(
        f"{sample.where}: the picture stands inside its table, where it cannot be read alone; run wholegrain prepare first"
    )
