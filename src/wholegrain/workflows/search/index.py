"""An index of pictures: their vectors by one model, kept beside nothing of the user's, and brought up to date instead of made anew.

An index belongs to one model (its weights, preprocessing and tokeniser) and one place. A picture is the same if its size and its time of writing
are; where the time differs, or is so young that a second writing could have the same, the digest of its content decides. What was
embedded is on the disk every few thousand pictures and every half a minute, so that an interrupted index goes on where it was.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wholegrain.data.listing import ListedPicture, Listing
from wholegrain.data.pictures import BrokenPictureError
from wholegrain.data.record import content_key
from wholegrain.errors import UserError
from wholegrain.evaluation.contract import EvaluatedModel
from wholegrain.evaluation.features.encode import default_needs, encode_image_batches
from wholegrain.evaluation.scores.similarity import index_vectors
from wholegrain.evaluation.scores.whole_and_grain import WholeAndGrain
from wholegrain.files import UnreadableError, digest, disk_errors, keepable
from wholegrain.locks import locked
from wholegrain.progress import Show, nowhere
from wholegrain.towers.identity import model_digest
from wholegrain.workflows.search.parts import MOST_ROWS, Part, Row, join_parts, next_path, read_parts, write_part

_READING = "upright"
"""How pictures are read: an index of pictures that were read in another way is another one."""
SAVE_EVERY = 30.0
"""Seconds after which what was embedded is written."""
_YOUNG = 2_000_000_000
"""Nanoseconds: a file read so soon after it was written may have been written again within the same tick of its file system's clock."""


@dataclass(frozen=True)
class Index:
    """Vectors of the pictures of a listing, and what was done to have them.

    Attributes:
        folder: where they are kept.
        pictures: those that have a vector, in the order of the listing.
        vectors_ND: float32, row for row with them; their product with a unit text vector is the model's cosine.
        new, changed, gone: pictures that were embedded for the first time, or again, and those that are no longer there.
        unreadable: (name, reason) of all pictures without a vector, in the listing's order.
        found: those of them that were met for the first time, or changed.
        damaged: files of the index that were damaged, and whose pictures were embedded again.
    """

    folder: Path
    pictures: tuple[ListedPicture, ...]
    vectors_ND: Tensor
    new: int = 0
    changed: int = 0
    gone: int = 0
    unreadable: tuple[tuple[str, str], ...] = ()
    found: tuple[tuple[str, str], ...] = ()
    damaged: int = 0

    @property
    def line(self) -> str:
        """What was done, in words.

        Example:
            >>> Index(Path("i"), (), torch.zeros(0, 2), new=2, gone=1).line
            '0 pictures: 2 new, 1 gone'
        """
        done = [
            f"{count:,} {what}" for count, what in ((self.new, "new"), (self.changed, "changed"), (self.gone, "gone")) if count
        ]
        cannot = f", {len(self.unreadable):,} cannot be read" if self.unreadable else ""
        count = len(self.pictures)
        return f"{count:,} picture{'' if count == 1 else 's'}: {', '.join(done) or 'none new'}{cannot}"


def index_home() -> Path:
    """Where indices lie unless another folder is named: ``search`` in ``$WHOLEGRAIN_CACHE``, or in ``wholegrain`` of the user's cache folder."""
    own, shared = os.environ.get("WHOLEGRAIN_CACHE"), os.environ.get("XDG_CACHE_HOME")
    usual = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    return (Path(own) if own else Path(shared or usual) / "wholegrain") / "search"


def bring_up_to_date(
    model: EvaluatedModel, listing: Listing, home: Path | None = None, *, batch: int = 64, show: Show = nowhere
) -> Index:
    """The index of a listing: what is kept of it, with new and changed pictures embedded and vanished ones dropped.

    Args:
        home: the folder of all indices; :func:`index_home` by default.
        batch: pictures at a time.

    Raises:
        UserError: the folder cannot be written to, or another process is indexing the same pictures by the same model; the model's vectors
            are not finite.
        MachineError: the disk is full.
    """
    alone = model.model if isinstance(model, WholeAndGrain) else model  # the grain changes no vector
    folder = (home or index_home()) / digest([model_digest(alone), listing.place, _READING])[:32]
    keepable(folder)
    show("reading the index", 0, 0)
    store = _Store(folder, listing)
    if store.is_current:
        return store.index()
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, "indexing pictures"):
        store = _Store(folder, listing)  # another process may have done some of it
        store.settle_doubts(show)
        store.drop()
        store.embed(model, batch, show)
    return store.index()


@dataclass
class _Store:
    """The parts of an index against a listing; changed by the process that has the lock."""

    folder: Path
    listing: Listing
    parts: dict[Path, Part] = field(init=False)
    damaged: list[Path] = field(init=False)
    fresh: list[ListedPicture] = field(init=False)
    doubtful: list[ListedPicture] = field(init=False)
    gone: set[str] = field(init=False)
    changed: set[str] = field(init=False)
    _embedded: dict[str, Row] = field(init=False, default_factory=dict[str, Row])

    def __post_init__(self) -> None:
        self.parts, self.damaged = read_parts(self.folder)
        known = self._rows()
        self.fresh, self.doubtful, self.changed = [], [], set()
        for picture in self.listing.pictures:
            row = known.get(picture.name)
            if row is None:
                self.fresh.append(picture)
            elif row.size != picture.size:
                self._is_changed(picture)
            elif row.changed != picture.changed or _young(row) or not row.content:  # the last: it could not be read
                self.doubtful.append(picture)
        self.gone = known.keys() - {picture.name for picture in self.listing.pictures}

    def _rows(self) -> dict[str, Row]:
        return {row.name: row for part in self.parts.values() for row in part.rows}

    def _is_changed(self, picture: ListedPicture) -> None:
        self.changed.add(picture.name)
        self.fresh.append(picture)

    @property
    def is_current(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.fresh or self.doubtful or self.gone or self.damaged)

    def settle_doubts(self, show: Show) -> None:
        """Reads what may have changed, and remembers the stamps of what did not."""
        known, same = self._rows(), dict[str, Row]()
        for done, picture in enumerate(self.doubtful):
            show("looking whether pictures changed", done, len(self.doubtful))
            row, now = known[picture.name], time.time_ns()
            try:
                content = content_key(picture.read())
            except UserError:
                content = ""
            if content != row.content:
                self._is_changed(picture)
            elif row.changed != picture.changed or (_young(row) and now - picture.changed >= _YOUNG):
                same[picture.name] = row._replace(changed=picture.changed, seen=now)
        for path, part in self.parts.items():
            if any(row.name in same for row in part.rows):
                self._write(path, part.with_rows(same))
        self.doubtful = []

    def drop(self) -> None:
        """Takes out what is gone, what is to be embedded again, and what is damaged."""
        for path in self.damaged:
            with disk_errors(self.folder):
                path.unlink(missing_ok=True)
        for path, part in list(self.parts.items()):
            kept = part.without(self.gone | self.changed)
            if kept is not part:
                self._write(path, kept)

    def _write(self, path: Path, part: Part) -> None:
        write_part(path, part)
        self.parts[path] = part
        if not part.rows:
            del self.parts[path]

    def embed(self, model: EvaluatedModel, batch: int, show: Show) -> None:
        """Embeds what is fresh; what is done is kept, whatever ends it."""
        waiting: list[Part] = []
        saved = time.monotonic()
        try:
            for part in embedded(model, self.fresh, batch, show):
                waiting.append(part)
                if sum(len(p.rows) for p in waiting) >= MOST_ROWS or time.monotonic() - saved >= SAVE_EVERY:
                    self._append(waiting)
                    saved = time.monotonic()
        finally:
            self._append(waiting)

    def _append(self, waiting: list[Part]) -> None:
        while waiting:
            path = next_path(self.folder, self.parts)
            there = self.parts.get(path, Part((), torch.zeros(0, 0)))
            room = MOST_ROWS - len(there.rows)
            taken: list[Part] = []
            while waiting and room:
                part = waiting.pop(0)
                taken.append(part.rows_of(0, room))
                if len(part.rows) > room:
                    waiting.insert(0, part.rows_of(room, len(part.rows)))
                room -= len(taken[-1].rows)
            added = join_parts(taken)
            self._write(path, join_parts([there, added]))
            self._embedded |= {row.name: row for row in added.rows}

    def index(self) -> Index:
        """What is there now."""
        place = {row.name: (n, row) for n, row in enumerate(row for part in self.parts.values() for row in part.rows)}
        rows = [(picture, *place[picture.name]) for picture in self.listing.pictures if picture.name in place]
        good = [(picture, n) for picture, n, row in rows if not row.problem]
        whole = join_parts(list(self.parts.values())).vectors_ND
        order = torch.tensor([n for _, n in good], dtype=torch.int64)
        in_order = len(order) == len(whole) and bool((order == torch.arange(len(order))).all())
        new = self._embedded.keys() - self.changed
        return Index(
            self.folder,
            tuple(picture for picture, _ in good),
            whole if in_order else whole[order],
            sum(not row.problem for name, row in self._embedded.items() if name in new),
            len(self._embedded) - len(new),
            len(self.gone),
            (*self.listing.problems, *((row.name, row.problem) for _, _, row in rows if row.problem)),
            tuple((row.name, row.problem) for row in self._embedded.values() if row.problem),
            len(self.damaged),
        )


def _young(row: Row) -> bool:
    return row.changed > 0 and 0 <= row.seen - row.changed < _YOUNG


def embedded(model: EvaluatedModel, pictures: Sequence[ListedPicture], batch: int, show: Show) -> Iterator[Part]:
    """Rows and vectors of pictures, batch by batch; those that cannot be read have their reason.

    Raises:
        UserError: a vector is not finite.
    """
    source = _Source({picture.name: picture for picture in pictures})
    names = list(source.pictures)
    needs = default_needs(model) & {"branches"}
    done = 0
    show("embedding pictures", 0, len(names))
    for image in encode_image_batches(model, source, names, needs, batch=batch):
        vectors_BD = index_vectors(image)
        rows = [source.rows.pop(name) for name in names[done : done + len(vectors_BD)]]
        vectors_BD[torch.tensor([bool(row.problem) for row in rows])] = 0.0
        if not bool(torch.isfinite(vectors_BD).all()):
            raise UserError("the model gives vectors of pictures that are not finite; use an earlier checkpoint")
        done += len(rows)
        show("embedding pictures", done, len(names))
        yield Part(tuple(rows), vectors_BD)


class _Source:
    """Pixels for the encoder. What cannot be read is one black pixel, whose vector is thrown away, so that the rest of its batch goes on."""

    def __init__(self, pictures: dict[str, ListedPicture]) -> None:
        self.pictures = pictures
        self.rows: dict[str, Row] = {}

    def pixels(self, key: str) -> np.ndarray:
        """uint8 RGB ``[H, W, 3]``."""
        picture, now, content, problem = self.pictures[key], time.time_ns(), "", ""
        pixels_HWC = np.zeros((1, 1, 3), np.uint8)
        try:
            data = picture.read()
            content = content_key(data)
            pixels_HWC = picture.decode(data)
        except UnreadableError as error:
            problem = error.problem
        except (UserError, BrokenPictureError) as error:
            problem = str(error) if isinstance(error, UserError) else f"cannot be decoded ({error})"
        self.rows[key] = Row(picture.name, picture.size, picture.changed, now, content, problem)
        return pixels_HWC
