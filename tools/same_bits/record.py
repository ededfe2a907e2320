"""Runs the items and writes down the digests of what they wrote."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

from same_bits.digests import of_folder
from same_bits.parts import Item, chosen, items
from same_bits.processes import FailedError, call, forked, start_server, stop
from same_bits.sources import draw_model, draw_sources

LIBRARIES = ("torch", "numpy", "scipy", "pillow", "pyarrow", "open_clip_torch", "timm", "tokenizers", "safetensors")


LIKE, UNLIKE = "as the whole run's", "NOT as the whole run's"


def record(out: Path, only: Sequence[str], jobs: int, keep: Path | None = None) -> None:
    """Runs the items that are asked for, ``jobs`` at a time, and writes their digests to ``out``, after every item.

    What ``out`` already says of the same commit and libraries is not done again, unless files of the commit are changed, so that an
    interrupted record goes on.
    """
    began, made = time.monotonic(), _made()
    kept = _known(out, made)
    with ExitStack() as stack:
        work = keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work.mkdir(parents=True, exist_ok=keep is None)
        wanted = [item.name for item in items(only) if chosen(only, item.name) and item.name not in kept]
        for name, wrote in _run(items(wanted), work.resolve(), jobs):
            if name in wanted:
                kept[name] = wrote
                _write(out, {"made": made, "items": kept})
    bad = [name for name, wrote in kept.items() if "error" in wrote or any(UNLIKE in digest for digest in wrote.values())]
    print(f"{out}: {len(kept)} items, {sum(map(len, kept.values()))} digests, {time.monotonic() - began:.0f} s; not as wanted: {bad or 'none'}")


def _known(out: Path, made: dict[str, str]) -> dict[str, dict[str, str]]:
    found = json.loads(out.read_text()) if out.exists() else {}
    return found["items"] if found.get("made") == made and not made["commit"].endswith("dirty") else {}


def _write(out: Path, value: dict[str, Any]) -> None:
    part = out.with_suffix(".part")
    part.write_text(json.dumps(value, indent=1) + "\n")
    part.replace(out)


def _run(asked: Sequence[Item], work: Path, jobs: int) -> Iterator[tuple[str, dict[str, str]]]:
    draw_sources(work / "sources")
    start_server(work)
    forked(draw_model, work / "sources" / "vit")
    running: dict[str, Future[dict[str, str]]] = {}
    with ThreadPoolExecutor(jobs) as pool:
        for item in asked:  # each stands behind what it needs, so that a thread only waits for what runs or has run
            running[item.name] = pool.submit(_wrote, item, work, {name: running[name] for name in item.needs})
        for number, item in enumerate(asked, 1):
            wrote = running[item.name].result()
            print(f"{number}/{len(asked)} {item.name} {wrote.get('error', '')}", flush=True)
            yield item.name, wrote


def _wrote(item: Item, work: Path, needed: dict[str, Future[dict[str, str]]]) -> dict[str, str]:
    """The digests of what one item wrote, or what it said when it failed."""
    for name, one in needed.items():
        if "error" in one.result():
            return {"error": f"error: {name} failed"}
    folder = work / item.folder
    folder.mkdir()
    try:
        if item.stop_at:
            stop(folder, item.commands[0], folder / item.out, item.stop_at)
        for arguments in item.commands[1 if item.stop_at else 0 :]:
            call(folder, arguments, item.processes)
    except FailedError as error:
        return {"error": re.sub(r"trace-\S+", "trace", str(error).replace(str(work), "WORK"))}
    found = of_folder(folder, item.out)
    return _like(found, needed[item.like].result()) if item.like else found


def _like(found: dict[str, str], whole: dict[str, str]) -> dict[str, str]:
    """What both wrote, each with a word on whether it is the same; checkpoints lie where a run was stopped."""
    both = sorted(found.keys() & whole.keys())
    return {name: f"{found[name]} {LIKE if found[name] == whole[name] else UNLIKE}" for name in both}


def _made() -> dict[str, str]:
    """Of what, and with what."""
    root = Path(__file__).parents[2]
    asked = ("git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty", "--exclude", "*")
    commit = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    libraries = {name: version(name) for name in LIBRARIES}
    return {"commit": commit, "python": platform.python_version(), "processor": _processor(), **libraries}


def _processor() -> str:
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
