"""WebDataset tar shards: members that share a stem are one sample; captions in ``.txt`` or ``.json``, a class in ``.cls``.

What img2dataset writes, and what ``wholegrain prepare`` writes, read alike; of the latter splits, roles, sources, labels and
regions survive.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby, islice
from pathlib import Path

from wholegrain.data.pictures import MOST_BYTES, SUFFIXES
from wholegrain.data.sources.columns import Columns, WrongValueError, regions_of
from wholegrain.data.sources.sample import MOST_TEXT, Member, RawSample, SourceOptions, stamp
from wholegrain.data.sources.tar import members
from wholegrain.errors import UserError
from wholegrain.files import open_file, parse_json, shown
from wholegrain.structure import StructureError

_TEXTS = (".txt", ".json", ".cls", ".npy")
_MOST_SHARDS = 10**6
"""That a pattern may name."""


class WebDatasetSource:
    """Samples of shards in the order given, in each in the order of its members."""

    def __init__(self, shards: list[Path], options: SourceOptions) -> None:
        self.shards, self.options = shards, options
        if not shards:
            raise UserError(
                "there are no tar shards to read; give a .tar file, a folder of them, or a pattern like name-{000000..000009}.tar"
            )
        for shard in shards:
            os.close(open_file(shard, "correct the pattern or fetch the shard"))

    def __iter__(self) -> Iterator[RawSample]:
        for shard in self.shards:
            for stem, parts in groupby(self.members(shard), lambda part: part[0]):
                yield self._sample(shard, stem, {suffix: data for _, suffix, data in parts})

    def members(self, shard: Path) -> Iterator[tuple[str, str, bytes | Member]]:
        """(stem, suffix, place or bytes) of all images, texts and arrays; what is compressed comes as bytes."""
        for member, packed in members(shard):
            folder, _, name = member.name.rpartition("/")
            stem, dot, suffix = name.partition(".")
            stem, suffix = f"{folder}/{stem}".lstrip("/"), (dot + suffix).lower()
            if suffix.endswith((*SUFFIXES, *_TEXTS)):
                inline = packed or suffix in _TEXTS
                if inline and member.size > (MOST_TEXT if suffix in _TEXTS else MOST_BYTES):
                    raise UserError(f"{shown(shard)}, member {shown(member.name)!r} has {member.size:,} bytes, too many; pack it anew")
                yield stem, suffix, member.read() if inline else Member(shard, member.offset, member.size)

    def _sample(self, shard: Path, stem: str, parts: dict[str, bytes | Member]) -> RawSample:
        where = f"{shown(shard)}, sample {shown(stem)}"
        image = next((data for suffix, data in parts.items() if suffix.endswith(SUFFIXES)), None)
        text = {suffix: data for suffix, data in parts.items() if isinstance(data, bytes)}
        try:
            if image is None:
                raise WrongValueError("the sample has no image")
            try:
                row = parse_json(text.get(".json", b"{}"), dict)
            except StructureError:
                raise WrongValueError("its .json is not a JSON object") from None
            return self._described(image, where, shard, row, text)
        except WrongValueError as problem:
            return RawSample(b"", (), "", where=where, problem=str(problem))

    def _described(
        self, image: bytes | Member, where: str, shard: Path, row: Mapping[str, object], text: dict[str, bytes]
    ) -> RawSample:
        if ".cls" in text:
            row = {"label": text[".cls"].decode("utf-8", errors="replace").strip(), **row}
        try:
            columns = Columns.find(list(row), self.options, f"{where}.json", image=False)
        except UserError:
            if self.options.caption_columns:
                raise
            columns = Columns("", (), "", "", "", self.options)
        label = columns.label_of(row)
        captions = columns.texts(row, shard.name, label) if columns.captions or ".txt" not in text else ()
        if ".txt" in text and not captions:
            captions = ((text[".txt"].decode("utf-8", errors="replace").strip(), self.options.role, f"{shard.name}:txt"),)
        return RawSample(image, captions, columns.split_of(row), label, regions_of(row.get("regions"), where), where)

    def fingerprint(self) -> list[str]:
        return stamp(*self.shards)


def expand(pattern: str) -> list[Path]:
    """``name-{000000..000009}.tar`` -> ten paths, zeros kept; ``{a,b}`` and ``*`` work, too.

    Raises:
        UserError: it names more than a million.
    """
    found = list(islice(_expanded(pattern), _MOST_SHARDS + 1))
    if len(found) > _MOST_SHARDS:
        raise UserError(f"the pattern {shown(pattern)} names more than {_MOST_SHARDS:,} shards; correct its numbers")
    return found


def _expanded(pattern: str) -> Iterator[Path]:
    found = re.search(r"\{([^{}]*)\}", pattern)
    if found is None:
        path = Path(pattern)
        yield from sorted(path.parent.glob(path.name)) if "*" in path.name else [path]
        return
    numbers = re.fullmatch(r"(\d{1,18})\.\.(\d{1,18})", found[1])
    parts: Iterable[str] = found[1].split(",")
    if numbers:
        parts = (f"{number:0{len(numbers[1])}d}" for number in range(int(numbers[1]), int(numbers[2]) + 1))
    for part in parts:
        yield from _expanded(pattern[: found.start()] + part + pattern[found.end() :])
