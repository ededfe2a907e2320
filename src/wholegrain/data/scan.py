"""The first reading of a source: every image is decoded, every caption looked at, and the findings kept chunk by chunk on disk.

A chunk's findings are a file ``scan/NNNNNN.jsonl`` that is written aside and renamed, so a scan that was cut short goes on behind
its last whole chunk. Images are decoded by threads, not processes: the decoders let go of Python's lock, no worker has to import
torch, and none is left over when the command is killed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from wholegrain.data.pictures import FORMATS, decode_rgb, picture_format
from wholegrain.data.record import content_key
from wholegrain.data.sources import RawSample, Source
from wholegrain.errors import UserError
from wholegrain.files import disk_errors

CHUNK = 1024

Row = dict[str, Any]
"""What was found of a sample: ``key``, ``end`` (file ending), ``size``, ``captions``, ``split``, ``label``, ``regions``,
``place`` and ``where``; or ``where`` and ``broken`` (the reason); ``empty`` counts captions of spaces alone (left out)."""


def look_at(sample: RawSample) -> Row:
    """Reads and decodes one sample's image."""
    row: Row = {"where": sample.where}
    if sample.problem:
        return {**row, "broken": sample.problem}
    try:
        image = sample.read()
        end = FORMATS[picture_format(image)]
        height, width = decode_rgb(image).shape[:2]
    except FileNotFoundError:
        return {**row, "broken": f"there is no file {sample.image}"}
    except (OSError, ValueError, UserError) as error:
        return {**row, "broken": _reason(error)}
    # Half a surrogate pair, which JSON can hold, is no text: it becomes a question mark.
    captions = [(t.strip().encode("utf-8", "replace").decode(), role, source) for t, role, source in sample.captions]
    kept = [caption for caption in captions if caption[0]]
    row |= {"key": content_key(image), "end": end, "size": [width, height], "captions": kept, "split": sample.split}
    row |= {"label": sample.label, "regions": [[r.box, r.phrase, r.mask] for r in sample.regions], "place": sample.place}
    return row | ({"empty": len(captions) - len(kept)} if len(kept) < len(captions) else {})


def _reason(error: Exception) -> str:
    text = str(error)
    return text.splitlines()[0] if text else type(error).__name__


def scan(source: Source, folder: Path, workers: int, seen: Callable[[list[Row]], None]) -> int:
    """Looks at every sample; ``seen`` is called with the rows of each chunk, in order.

    Returns:
        the number of samples.
    """
    count = 0
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(workers) as pool:
        for number, chunk in enumerate(_chunks(source)):
            path = folder / f"{number:06d}.jsonl"
            rows = read_rows(path) if path.exists() else None
            if rows is None:
                rows = list(pool.map(look_at, chunk))
                part = path.with_suffix(".part")
                with disk_errors(folder):
                    part.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
                    os.replace(part, path)
            count += len(rows)
            seen(rows)
    return count


def _chunks(source: Source) -> Iterator[list[RawSample]]:
    samples = iter(source)
    while chunk := list(islice(samples, CHUNK)):
        yield chunk


def read_rows(path: Path) -> list[Row]:
    """The rows of one chunk."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def all_rows(folder: Path) -> Iterator[Row]:
    """The rows of all chunks, in order, one chunk in memory at a time."""
    for path in sorted(folder.glob("*.jsonl")):
        yield from read_rows(path)


def read_ahead(
    source: Source, rows: Iterator[Row], wanted: Callable[[int, Row], bool], workers: int
) -> Iterator[tuple[int, bytes]]:
    """The places (numbers in the source) of all wanted rows with their images' bytes, in order, reading a window of files ahead.

    Raises:
        UserError: the source is no longer what was scanned.
    """
    chosen = ((place, row, sample) for place, (sample, row) in enumerate(_together(source, rows)) if wanted(place, row))
    with ThreadPoolExecutor(workers) as pool:
        while window := list(islice(chosen, 128)):
            images = pool.map(_read_again, window)
            yield from zip((place for place, _, _ in window), images, strict=True)


def _together(source: Source, rows: Iterator[Row]) -> Iterator[tuple[RawSample, Row]]:
    for sample, row in zip_longest(source, rows):
        if sample is None or row is None or sample.where != row["where"]:
            raise UserError("the source changed while the data were being prepared; run the command again")
        yield sample, row


def _read_again(chosen: tuple[int, Row, RawSample]) -> bytes:
    _, row, sample = chosen
    try:
        image = sample.read()
    except FileNotFoundError:
        image = b""
    if content_key(image) != row["key"]:
        raise UserError(f"{row['where']}: the image changed while the data were being prepared; run the command again")
    return image
