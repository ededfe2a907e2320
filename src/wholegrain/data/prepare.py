"""From any source to a prepared data set: look at everything once, join what is equal, write shards, then the manifest.

All work happens in ``.NAME.unfinished`` beside the target and is renamed into place as the last step, so the target is either
complete or not there. The same command after a kill goes on behind the last whole chunk of the scan and the last whole shard, and
the outcome has the same bytes as that of an uninterrupted run.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from wholegrain.data.dataset import Manifest
from wholegrain.data.merge import LISTED, Arrivals, Merged, merge, usable
from wholegrain.data.record import SCHEMA, Caption, Record, Region, caption_id
from wholegrain.data.scan import Row, all_rows, read_ahead, scan
from wholegrain.data.shards import SHARD_BYTES, UNFINISHED, ShardWriter
from wholegrain.data.sources import Source, SourceOptions, open_source
from wholegrain.data.statistics import CaptionStatistics, clip_tokenizer, name_duplicates
from wholegrain.errors import UserError
from wholegrain.files import disk_errors, write_json

_EARLY = 5000


@dataclass(frozen=True)
class PrepareOptions:
    """How to prepare.

    Attributes:
        source: what the source may be told.
        max_broken: greatest share of images that may be unusable, 0..1.
        shard_bytes: see :class:`~wholegrain.data.shards.ShardWriter`.
        workers: decoding threads; 0 means one a core.
        overwrite: replace a finished data set that was made from something else.
        progress: show progress on standard error.
    """

    source: SourceOptions = field(default_factory=SourceOptions)
    max_broken: float = 0.1
    shard_bytes: int = SHARD_BYTES
    workers: int = 0
    overwrite: bool = False
    progress: bool = True


def prepare(source: str | Path, out: str | Path, *, options: PrepareOptions | None = None) -> Manifest:
    """Prepares a data set; see :func:`~wholegrain.data.sources.open_source` for what a source can be.

    Returns:
        the manifest, as written to ``out/manifest.json``.

    Raises:
        UserError: the source cannot be read, too many images are broken, or ``out`` holds another data set; nothing stays behind.
        MachineError: the disk is full. What is finished stays beside ``out`` and the same command goes on with it.

    Example::

        manifest = prepare("photos.csv", "data/photos")
        manifest["splits"]["train"]["images"]
    """
    options = options or PrepareOptions()
    target = Path(out)
    opened = open_source(source, options.source)
    identity = _identity(str(source), opened, options)
    finished = _finished(target, identity, options.overwrite)
    if finished is not None:
        return finished
    work = target.absolute().parent / f".{target.absolute().name}.unfinished"
    try:
        with disk_errors(target), _workplace(work, identity):
            if not (work / "manifest.json").exists():
                manifest = _build(opened, work, options, {"source": str(source), "identity": identity})
                write_json(work / "manifest.json", manifest)
            _move(work, target)
    except _BusyError:
        raise
    except UserError:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return json.loads((target / "manifest.json").read_text(encoding="utf-8"))


def _identity(source: str, opened: Source, options: PrepareOptions) -> str:
    """A hash of everything that the outcome depends on."""
    said = {"source": source, "files": opened.fingerprint(), "schema": SCHEMA, "version": version("wholegrain")}
    said |= {"options": asdict(options.source), "shard_bytes": options.shard_bytes, "max_broken": options.max_broken}
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()


def _finished(target: Path, identity: str, overwrite: bool) -> Manifest | None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return None
    try:
        manifest = json.loads((target / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(f"{target} exists and is not a prepared data set; give another folder") from None
    if manifest.get("identity") == identity:
        return manifest
    if not overwrite:
        raise UserError(f"{target} holds a data set of other files or options; give another folder, or --overwrite to replace it")
    return None


@contextmanager
def _workplace(work: Path, identity: str) -> Iterator[None]:
    """The folder of unfinished work, for one process alone; work for another outcome is thrown away."""
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise _BusyError(f"another command is at work in {work}; wait for it, or give another folder") from None
        note = work / "identity"
        if not note.exists() or note.read_text() != identity:
            for name in work.iterdir():
                if name.name != "lock":
                    shutil.rmtree(name) if name.is_dir() else name.unlink()
            note.write_text(identity)
        yield


class _BusyError(UserError):
    """Another process has the work folder, so it must not be removed."""


def _build(source: Source, work: Path, options: PrepareOptions, said: dict[str, Any]) -> Manifest:
    workers = options.workers or len(os.sched_getaffinity(0))
    with ExitStack() as stack:
        # Importing the tokeniser takes seconds, in which the disk and the decoders can work.
        tokenizer = stack.enter_context(ThreadPoolExecutor(1)).submit(clip_tokenizer)
        bar = stack.enter_context(_progress(options.progress))
        arrivals = Arrivals()
        looking = bar.add_task("looking at images", total=None)

        def seen(rows: list[Row]) -> None:
            arrivals.see(rows)
            bar.advance(looking, len(rows))
            _check_broken(arrivals, options.max_broken, early=True)

        total = scan(source, work / "scan", workers, seen)
        bar.update(looking, total=total)
        _check_broken(arrivals, options.max_broken)
        repeated = arrivals.repeated()
        merged = merge(all_rows(work / "scan"), repeated) if repeated else Merged({}, [], [])
        writing = bar.add_task("writing shards", total=total)
        statistics = CaptionStatistics(arrivals.counts["captions"])
        counted = _write(source, work, merged, statistics, options, workers, lambda done: bar.update(writing, completed=done))
        bar.update(writing, completed=total)
        said = {**said, "captions": statistics.lengths(tokenizer.result())}
    return _manifest(said, counted, statistics, arrivals, merged, work)


def _check_broken(arrivals: Arrivals, most: float, early: bool = False) -> None:
    counts = arrivals.counts
    lost, samples = counts["broken"], counts["samples"]
    if early and (samples < _EARLY or lost <= max(0.5, 2 * most) * samples):
        return
    first = f"; the first: {arrivals.broken[0]['where']}: {arrivals.broken[0]['reason']}" if arrivals.broken else ""
    if lost > most * samples:
        raise UserError(
            f"{lost:,} of {samples:,} images cannot be used, more than the {most:.0%} allowed{first}; "
            f"correct the source, or allow them with --max-broken {math.ceil(100 * lost / samples) / 100:g}"
        )
    if lost + counts["uncaptioned"] == samples:
        raise UserError(
            f"the source gives no image with a caption ({samples:,} samples, {lost:,} broken{first}); correct the source"
        )


def _write(
    source: Source,
    work: Path,
    merged: Merged,
    statistics: CaptionStatistics,
    options: PrepareOptions,
    workers: int,
    done: Callable[[int], None],
) -> dict[str, Any]:
    """Writes the shards that are not there yet, and counts over all records."""
    with ShardWriter(work, shard_bytes=options.shard_bytes, manifest=None, resume=True) as writer:
        left = writer.done.copy()
        wanted: dict[int, Record] = {}
        rows = all_rows(work / "scan")

        def choose(place: int, row: Row) -> bool:
            row = merged.rows.get(place, row) or {}
            if not usable(row):
                return False
            record = record_of(row)
            statistics.see(record)
            left[record.split] -= 1
            if left[record.split] >= 0:
                return False
            wanted[place] = record
            return True

        for place, image in read_ahead(source, rows, choose, workers):
            writer.add(wanted.pop(place), image)
            if place % 64 == 0:
                done(place)
        return writer.close()


def record_of(row: Row) -> Record:
    """The record that a scanned row describes."""
    return Record(
        key=row["key"],
        image=row["key"] + row["end"],
        size=tuple(row["size"]),
        split=row["split"],
        label=row["label"],
        captions=tuple(Caption(caption_id(text), text, role, source) for text, role, source in row["captions"]),
        regions=tuple(Region(tuple(box), phrase, tuple(mask)) for box, phrase, mask in row["regions"]),
    )


def _manifest(
    said: dict[str, Any],
    counted: dict[str, Any],
    statistics: CaptionStatistics,
    arrivals: Arrivals,
    merged: Merged,
    work: Path,
) -> Manifest:
    chosen, repeats = statistics.duplicates()
    texts = (text for row in all_rows(work / "scan") for text, _, _ in row.get("captions", ()))
    named = name_duplicates(chosen, texts)
    counts = arrivals.counts
    return {
        "schema": SCHEMA,
        "wholegrain": version("wholegrain"),
        **{name: counted[name] for name in ("splits", "captions_per_image", "roles")},
        **said,
        "duplicates": {
            "captions": {**repeats, "listed": named},
            "images_inside_splits": {"count": len(merged.inside), "listed": merged.inside[:LISTED]},
            "images_across_splits": {"count": len(merged.across), "listed": merged.across[:LISTED]},
        },
        "samples": counts["samples"],
        "broken": {"count": counts["broken"], "listed": arrivals.broken},
        "empty_captions": {"count": counts["empty"], "listed": arrivals.empty},
        "images_without_captions": {"count": counts["uncaptioned"], "listed": arrivals.uncaptioned},
        "shards": counted["shards"],
    }


def _move(work: Path, target: Path) -> None:
    """Renames finished work to its place; a data set that is replaced is gone only when the new one is there."""
    for name in ("scan", UNFINISHED):
        shutil.rmtree(work / name, ignore_errors=True)
    old = work.with_suffix(".old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(work, target)
    for name in ("lock", "identity"):
        (target / name).unlink(missing_ok=True)
    shutil.rmtree(old, ignore_errors=True)


def _progress(show: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=not show, transient=True)
