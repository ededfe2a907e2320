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
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from wholegrain.data.manifest import Manifest, read_manifest
from wholegrain.data.merge import LISTED, Arrivals, Merged, merge, usable
from wholegrain.data.record import SCHEMA, Caption, Record, Region, caption_id
from wholegrain.data.scan import Row, all_rows, read_ahead, scan
from wholegrain.data.shards import SHARD_BYTES, ShardWriter
from wholegrain.data.sources import Source, SourceOptions, open_source
from wholegrain.data.sources.sample import InsideFolder
from wholegrain.data.split import NONE, USUAL, Split, shares_of, split_by_key
from wholegrain.data.statistics import CaptionStatistics, clip_tokenizer, name_duplicates
from wholegrain.errors import UserError
from wholegrain.files import disk_errors, keepable, read_text, rename_folder, replaced, shown, write_json, write_text

_EARLY = 5000
_NOTE = "identity"
_PARTS = ("manifest.json", "index.parquet", "shards")


@dataclass(frozen=True)
class PrepareOptions:
    """How to prepare.

    Attributes:
        source: what the source may be told.
        split_by: shares of train, val and test, such as ``90/5/5``, or ``none``, where the source states no split
            (:mod:`~wholegrain.data.split`); empty is ``90/5/5``, unless the source does state splits.
        max_broken: greatest share of images that may be unusable, 0..1.
        shard_bytes: see :class:`~wholegrain.data.shards.ShardWriter`.
        workers: decoding threads; 0 means one a core.
        overwrite: replace a finished data set that was made from something else.
        progress: show progress on standard error.
    """

    source: SourceOptions = field(default_factory=SourceOptions)
    split_by: str = ""
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
    keepable(target)
    if options.split_by:
        shares_of(options.split_by)
    opened = open_source(source, options.source)
    identity = _identity(str(source), opened, options)
    finished = _finished(target, identity, options.overwrite)
    if finished is not None:
        shutil.rmtree(replaced(target), ignore_errors=True)  # a kill may have left it
        return finished
    work = target.absolute().parent / f".{target.absolute().name}.unfinished"
    missing = [folder for folder in work.parents if not folder.exists()]
    try:
        with disk_errors(target), _workplace(work, identity):
            if not (work / "manifest.json").exists():
                manifest = _build(opened, work, options, {"source": shown(source), "identity": identity, **_pictures(opened, options)})
                write_json(work / "manifest.json", manifest)
            _clear(work, kept=_PARTS)
            rename_folder(work, target)
    except _BusyError:
        raise
    except UserError:
        shutil.rmtree(work, ignore_errors=True)
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()
        raise
    return read_manifest(target)


def _pictures(source: Source, options: PrepareOptions) -> dict[str, str]:
    """Says where pictures are taken from, if nobody told."""
    inside = getattr(source, "inside", None)
    folder = inside.description if isinstance(inside, InsideFolder) else ""
    if folder and options.progress:
        print(f"pictures are taken from {folder}", file=sys.stderr)
    return {"pictures": folder} if folder else {}


def _identity(source: str, opened: Source, options: PrepareOptions) -> str:
    """A hash of everything that the outcome depends on."""
    facts = {"source": source, "files": opened.fingerprint(), "schema": SCHEMA, "version": version("wholegrain")}
    chosen = asdict(options.source)
    del chosen["captions_needed"]  # always, here
    facts |= {"options": chosen, "split_by": options.split_by, "shard_bytes": options.shard_bytes, "max_broken": options.max_broken}
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def _finished(target: Path, identity: str, overwrite: bool) -> Manifest | None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return None
    try:
        manifest = read_manifest(target)
    except UserError:
        raise UserError(f"{shown(target)} exists and is not a prepared data set; give another folder") from None
    if manifest.get("identity") == identity:
        return manifest
    if not overwrite:
        raise UserError(f"{target} holds a data set of other files or options; give another folder, or --overwrite to replace it")
    return None


@contextmanager
def _workplace(work: Path, identity: str) -> Iterator[None]:
    """The folder of unfinished work, for one process alone; work for another outcome is thrown away."""
    work.mkdir(parents=True, exist_ok=True)
    lock = os.open(work, os.O_RDONLY)  # the folder itself: a file in it would have to go before the last rename
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _BusyError(f"another command is at work in {work}; wait for it, or give another folder") from None
        except OSError:
            pass  # a file system without locks
        if not (work.exists() and os.path.samestat(os.fstat(lock), work.stat())):  # renamed by its owner in this moment
            raise _BusyError(f"another command has just finished what was in {work}; run the command again")
        if _identity_of(work) != identity:
            _clear(work)
            write_text(work / _NOTE, identity)
        yield
    finally:
        os.close(lock)


def _identity_of(work: Path) -> str:
    """Of the outcome that is in the making there; empty if nothing says so. The note goes when the manifest is there."""
    with suppress(UserError):
        return read_text(work / _NOTE, "prepare again")
    with suppress(UserError):
        return read_manifest(work).get("identity", "")
    return ""


def _clear(folder: Path, kept: Collection[str] = ()) -> None:
    """Removes what is in a folder, the note first: without it nothing there counts."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name != _NOTE):
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


class _BusyError(UserError):
    """Another process has the work folder, so it must not be removed."""


def _build(source: Source, work: Path, options: PrepareOptions, facts: Mapping[str, object]) -> Manifest:
    with ExitStack() as stack:
        # Importing the tokeniser takes seconds, in which the disk and the decoders can work.
        tokenizer = stack.enter_context(ThreadPoolExecutor(1)).submit(clip_tokenizer)
        bar = stack.enter_context(_progress(options.progress))
        arrivals = Arrivals()
        looking = bar.add_task("looking at images", total=None)

        def seen(rows: list[Row]) -> None:
            arrivals.add(rows)
            bar.advance(looking, len(rows))
            _check_stated(arrivals, options)
            _check_broken(arrivals, options.max_broken, early=True)

        total = scan(source, work / "scan", _workers(options), seen)
        bar.update(looking, total=total)
        _check_broken(arrivals, options.max_broken)
        repeated = arrivals.repeated()
        split = _split(arrivals, options)
        merged = merge(_rows(work, split), repeated) if repeated else Merged({}, [], [])
        writing = bar.add_task("writing shards", total=total)
        statistics = CaptionStatistics(arrivals.counts["captions"])
        rows = _rows(work, split)
        counted = _write(source, work, rows, merged, statistics, options, lambda done: bar.update(writing, completed=done))
        bar.update(writing, completed=total)
        facts = {**facts, "split_by": split.description, "captions": statistics.lengths(tokenizer.result())}
    return _manifest(facts, counted, statistics, arrivals, merged, work)


def _workers(options: PrepareOptions) -> int:
    return options.workers or len(os.sched_getaffinity(0))


def _check_stated(arrivals: Arrivals, options: PrepareOptions) -> None:
    if options.split_by not in ("", NONE) and arrivals.stated:
        names = ", ".join(sorted(arrivals.stated)[:5])
        raise UserError(f"--split-by {options.split_by} is for sources that state no split, and this one has {names}; leave it out")


def _split(arrivals: Arrivals, options: PrepareOptions) -> Split:
    if arrivals.stated:
        return Split(f"--split {options.source.split}" if arrivals.stated == {options.source.split} else "as the source states")
    return split_by_key(arrivals.photos(), options.split_by or USUAL)


def _rows(work: Path, split: Split) -> Iterator[Row]:
    """The findings, each record with its split."""
    for row in all_rows(work / "scan"):
        yield {**row, "split": split.of(row["key"], row["split"])} if "key" in row else row


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
    rows: Iterator[Row],
    merged: Merged,
    statistics: CaptionStatistics,
    options: PrepareOptions,
    done: Callable[[int], None],
) -> dict[str, object]:
    """Writes the shards that are not there yet, and counts over all records."""
    with ShardWriter(work, shard_bytes=options.shard_bytes, manifest=None, resume=True) as writer:
        left = writer.done.copy()
        wanted: dict[int, Record] = {}

        def choose(place: int, row: Row) -> bool:
            row = merged.rows.get(place, row) or {}
            if not usable(row):
                return False
            record = record_of(row)
            statistics.add(record)
            left[record.split] -= 1
            if left[record.split] >= 0:
                return False
            wanted[place] = record
            return True

        for place, image in read_ahead(source, rows, choose, _workers(options)):
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
    facts: Mapping[str, object],
    counted: Mapping[str, object],
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
        **facts,
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


def _progress(show: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=not show, transient=True)
