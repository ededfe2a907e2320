"""WebDataset tar shards: members that share a stem are one sample; captions in ``.txt`` or ``.json``, a class in ``.cls``.

What img2dataset writes, and what ``wholegrain prepare`` writes, read alike; of the latter splits, roles, sources, labels and
regions survive.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from wholegrain.data.pictures import SUFFIXES
from wholegrain.data.sources.columns import Columns, regions_of
from wholegrain.data.sources.sample import Member, RawSample, SourceOptions, stamp
from wholegrain.errors import UserError

_TEXTS = (".txt", ".json", ".cls", ".npy")


class WebDatasetSource:
    """Samples of shards in the order given, in each in the order of its members."""

    def __init__(self, shards: list[Path], options: SourceOptions) -> None:
        self.shards, self.options = shards, options
        if not shards:
            raise UserError(
                "there are no tar shards to read; give a .tar file, a folder of them, or a pattern like name-{000000..000009}.tar"
            )
        for shard in shards:
            if not shard.is_file():
                raise UserError(f"the shard {shard} does not exist; correct the pattern or fetch the shard")

    def __iter__(self) -> Iterator[RawSample]:
        for shard in self.shards:
            for stem, members in groupby(self.members(shard), lambda member: member[0]):
                yield self._sample(shard, stem, {suffix: data for _, suffix, data in members})

    def members(self, shard: Path) -> Iterator[tuple[str, str, bytes | Member]]:
        """(stem, suffix, place or bytes) of all images, texts and arrays; what is compressed comes as bytes."""
        try:
            with tarfile.open(shard, "r:*") as tar:
                packed = not isinstance(tar.fileobj, io.BufferedReader)
                for member in tar:
                    folder, _, name = member.name.rpartition("/")
                    stem, dot, suffix = name.partition(".")
                    stem, suffix = f"{folder}/{stem}".lstrip("/"), (dot + suffix).lower()
                    if member.isreg() and suffix.endswith((*SUFFIXES, *_TEXTS)):
                        inline = packed or suffix in _TEXTS
                        file = tar.extractfile(member) if inline else None
                        yield stem, suffix, file.read() if file else Member(shard, member.offset_data, member.size)
                    tar.members = []  # pyright: ignore (tarfile would keep a description of every member)
        except (tarfile.TarError, EOFError, OSError) as error:
            raise UserError(f"{shard} is not a whole tar file ({error}); fetch it again") from error

    def _sample(self, shard: Path, stem: str, parts: dict[str, bytes | Member]) -> RawSample:
        where = f"{shard}, sample {stem}"
        image = next((data for suffix, data in parts.items() if suffix.endswith(SUFFIXES)), None)
        text = {suffix: data for suffix, data in parts.items() if isinstance(data, bytes)}
        try:
            row = json.loads(text.get(".json", b"{}"))
        except ValueError:
            row = None
        if image is None or not isinstance(row, dict):
            problem = "the sample has no image" if image is None else "its .json is not a JSON object"
            return RawSample(b"", (), self.options.split, where=where, problem=problem)
        return self._described(RawSample(image, (), self.options.split, where=where), shard, row, text)

    def _described(self, bare: RawSample, shard: Path, row: dict[str, Any], text: dict[str, bytes]) -> RawSample:
        if ".cls" in text:
            row = {"label": text[".cls"].decode("utf-8", errors="replace").strip(), **row}
        try:
            columns = Columns.find(list(row), self.options, f"{bare.where}.json", image=False)
        except UserError:
            if self.options.caption_columns:
                raise
            columns = Columns("", (), "", "", "", self.options)
        label = columns.label_of(row)
        captions = columns.texts(row, shard.name, label) if columns.captions or ".txt" not in text else ()
        if ".txt" in text and not captions:
            captions = ((text[".txt"].decode("utf-8", errors="replace").strip(), self.options.role, f"{shard.name}:txt"),)
        split = columns.split_of(row)
        return RawSample(bare.image, captions, split, label, regions_of(row.get("regions"), bare.where), bare.where)

    def fingerprint(self) -> list[str]:
        return stamp(*self.shards)


def expand(pattern: str) -> list[Path]:
    """``name-{000000..000009}.tar`` -> ten paths, zeros kept; ``{a,b}`` and ``*`` work, too."""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if found is None:
        path = Path(pattern)
        return sorted(path.parent.glob(path.name)) if "*" in path.name else [path]
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", found[1])
    if numbers:
        first, last = int(numbers[1]), int(numbers[2])
        parts = [f"{number:0{len(numbers[1])}d}" for number in range(first, last + 1)]
    else:
        parts = found[1].split(",")
    return [path for part in parts for path in expand(pattern[: found.start()] + part + pattern[found.end() :])]
