"""The first reading of a source: every image is decoded, every caption looked at, and the findings kept chunk by chunk on disk.

A chunk's findings are a file ``scan/NNNNNN.jsonl``, whose first line has the SHA-256 of the rest, and which is written aside and renamed. So
a scan that was cut short goes on behind its last whole chunk, and a chunk that was damaged since is looked at again. Images are decoded by
threads, not processes: the decoders let go of Python's lock, no worker has to import torch, and none is left over when the command is killed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, zip_longest
from pathlib import Path

from wholegrain.data.pictures import FORMATS, decode_rgb, picture_format
from wholegrain.data.record import content_key
from wholegrain.data.shards import SPLIT_NAME
from wholegrain.data.sources import RawSample, Source
from wholegrain.data.sources.sample import utf8
from wholegrain.errors import UserError
from wholegrain.files import UnreadableError, disk_errors, memory_bytes, read_text, shown, write_text
from wholegrain.structure import JsonTable

CHUNK = 1024

Row = JsonTable
"""What was found of a sample: ``key``, ``end`` (file ending), ``size``, ``captions``, ``split`` (empty if none is stated), ``label``, ``regions``,
``place`` and ``where``; or ``where`` and ``broken`` (the reason); ``empty`` counts captions of spaces alone (left out)."""


def look_at(sample: RawSample) -> Row:
    """Reads and decodes one sample's image."""
    row: Row = {"where": utf8(sample.where)}
    if sample.problem:
        return {**row, "broken": sample.problem}
    try:
        image = sample.read()
        end = FORMATS[picture_format(image)]
        height, width = decode_rgb(image).shape[:2]
    except UnreadableError as error:
        return {**row, "broken": f"there is no file {sample.place}" if error.missing else f"the file {error.problem}"}
    except (OSError, ValueError, UserError) as error:
        return {**row, "broken": utf8(_reason(error))}
    captions = [(utf8(text.strip()), utf8(role), utf8(source)) for text, role, source in sample.captions]
    kept = [caption for caption in captions if caption[0]]
    row |= {"key": content_key(image), "end": end, "size": [width, height], "captions": kept, "split": _split(sample)}
    row |= {"label": sample.label and utf8(sample.label), "regions": [[r.box, utf8(r.phrase), r.mask] for r in sample.regions]}
    row |= {"place": utf8(sample.place)}
    return row | ({"empty": len(captions) - len(kept)} if len(kept) < len(captions) else {})


def _split(sample: RawSample) -> str:
    if sample.split and not SPLIT_NAME.fullmatch(sample.split):
        raise UserError(
            f"{utf8(sample.where)}: the split name {shown(sample.split)!r} cannot be part of a file name; use at most 100 letters, digits, "
            "'_', '-' and '.'"
        )
    return sample.split


def _reason(error: Exception) -> str:
    text = str(error)
    return text.splitlines()[0] if text else type(error).__name__


def scan(source: Source, folder: Path, workers: int, on_rows: Callable[[list[Row]], None]) -> int:
    """Looks at every sample; ``on_rows`` is called with the rows of each chunk, in order.

    Returns:
        the number of samples.
    """
    count = 0
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(workers) as pool:
        for number, chunk in enumerate(_chunks(source)):
            path = folder / f"{number:06d}.jsonl"
            rows = read_rows(path)
            if rows is None or len(rows) != len(chunk):
                rows = list(pool.map(look_at, chunk))
                text = "".join(json.dumps(row) + "\n" for row in rows)
                with disk_errors(folder):
                    write_text(path, f"{_digest(text)}\n{text}")
            count += len(rows)
            on_rows(rows)
    return count


def _chunks(source: Source) -> Iterator[list[RawSample]]:
    samples = iter(source)
    while chunk := list(islice(samples, CHUNK)):
        yield chunk


def read_rows(path: Path) -> list[Row] | None:
    """The rows of one chunk; ``None`` if they are not there as they were written."""
    try:
        digest, _, text = read_text(path, "run the command again", most=memory_bytes()).partition("\n")
    except UserError:
        return None
    return [json.loads(line) for line in text.splitlines()] if digest == _digest(text) else None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def all_rows(folder: Path) -> Iterator[Row]:
    """The rows of all chunks, in order, one chunk in memory at a time."""
    for path in sorted(folder.glob("*.jsonl")):
        rows = read_rows(path)
        if rows is None:
            raise UserError(f"{shown(path)} was changed while the data were being prepared; run the command again")
        yield from rows


def read_ahead(
    source: Source, rows: Iterator[Row], chosen_row: Callable[[int, Row], bool], workers: int
) -> Iterator[tuple[int, bytes]]:
    """The places (numbers in the source) of all wanted rows with their images' bytes, in order, reading a window of files ahead.

    Raises:
        UserError: the source is no longer what was scanned.
    """
    chosen = ((place, row, sample) for place, (sample, row) in enumerate(_together(source, rows)) if chosen_row(place, row))
    with ThreadPoolExecutor(workers) as pool:
        while window := list(islice(chosen, 128)):
            images = pool.map(_read_again, window)
            yield from zip((place for place, _, _ in window), images, strict=True)


def _together(source: Source, rows: Iterator[Row]) -> Iterator[tuple[RawSample, Row]]:
    for sample, row in zip_longest(source, rows):
        if sample is None or row is None or utf8(sample.where) != row["where"]:
            raise UserError("the source changed while the data were being prepared; run the command again")
        yield sample, row


def _read_again(chosen: tuple[int, Row, RawSample]) -> bytes:
    _, row, sample = chosen
    try:
        image = sample.read()
    except UnreadableError:
        image = b""
    if content_key(image) != row["key"]:
        raise UserError(f"{row['where']}: the image changed while the data were being prepared; run the command again")
    return image
