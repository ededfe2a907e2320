"""``wholegrain doctor``: what ruins runs, found before the first step."""

from __future__ import annotations

import math
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

if TYPE_CHECKING:
    from rich.console import Console

    from wholegrain.doctor.finding import Finding


@dataclass(frozen=True)
class DoctorArguments:
    """The words and options of ``wholegrain doctor``.

    Attributes:
        data: a prepared data set, or a table, folder or shards as "wholegrain prepare" takes them.
        recipe: a packaged recipe or a TOML file; without one only the data are looked at.
        model: where training would start, as in "train".
        device: such as cpu or cuda:0; by default CUDA where there is one.
        workers: processes that would load data; by default as in "train".
        out: the folder where runs would be saved.
        caption_column: column or field with the caption, of a source that is not prepared.
        caption_columns: several caption columns with their roles, as in raw=web,long=detail.
        image_column: column or field with the image.
        split_column: column or field with the split.
        image_root: folder that image paths are relative to.
        json_out: write the findings with all their numbers to this JSON file.
        every: show what is fine, too.
    """

    data: tyro.conf.Positional[str]
    recipe: tyro.conf.Positional[str] = ""
    model: str = "small"
    device: str | None = None
    workers: int | None = None
    out: Path = Path("runs")
    caption_column: str = ""
    caption_columns: str = ""
    image_column: str = ""
    split_column: str = ""
    image_root: Path | None = None
    json_out: Path | None = None
    every: bool = False
    overrides: tuple[str, ...] = ()


def doctor(args: DoctorArguments) -> int:
    """Looks for what would ruin a run: wrong captions, dead pictures, tests that were trained on, a recipe that cannot learn.

    wholegrain doctor data/photos ce_clip --model ViT-B-32:openai --optimiser.batch 512

    Takes two minutes at most. Ends with 0 if nothing would ruin the run, and with 2 if something would.
    """
    from rich.console import Console

    from wholegrain.files import disk_errors, write_json

    console, began = Console(markup=False, highlight=False, soft_wrap=True), time.monotonic()
    if args.json_out is not None:
        with disk_errors(args.json_out):
            args.json_out.parent.mkdir(parents=True, exist_ok=True)
    findings = []
    for finding in _findings(args):
        findings.append(finding)
        if finding.level != "fine" or args.every:
            _print(console, finding)
    counts = {level: sum(finding.level == level for finding in findings) for level in _STYLE}
    verdict = "something would ruin the run" if counts["stop"] else "look at these first" if counts["look"] else "nothing found"
    console.print(
        f"{counts['stop']} to stop for, {counts['look']} to look at, {counts['fine']} fine, in {time.monotonic() - began:.0f} s: {verdict}."
    )
    if args.json_out is not None:
        with disk_errors(args.json_out):
            write_json(args.json_out, [_plain(finding) for finding in findings])
        console.print(f"written: {args.json_out}")
    console.print(f"next: {_next(args, bool(counts['stop']))}")
    return 2 if counts["stop"] else 0


def _findings(args: DoctorArguments) -> Iterator[Finding]:
    """One after the other, with progress between them."""
    from wholegrain.progress import showing

    with showing() as show:
        show("starting")
        from wholegrain.data.sources import SourceOptions
        from wholegrain.doctor.doctor import RunOptions, examine
        from wholegrain.workflows.commands.prepare import column_roles
        from wholegrain.workflows.commands.train import workers_by_default

        columns = ((args.caption_column, ""),) if args.caption_column else column_roles(args.caption_columns)
        source = SourceOptions(args.image_column, columns, args.split_column, image_root=args.image_root)
        workers = workers_by_default() if args.workers is None else args.workers
        run = RunOptions(args.model, args.overrides, args.device, workers, args.out)

        def log(sentence: str) -> None:
            show.clear()
            print(sentence, file=sys.stderr)

        for finding in examine(args.data, args.recipe, run, source=source, log=log, show=show):
            show.clear()
            yield finding


def _print(console: Console, finding: Finding) -> None:
    console.print(f"{finding.level.upper():5} {finding.check}: {finding.said}", style=_STYLE[finding.level])
    if finding.do:
        console.print(f"      -> {finding.do}")


def _next(args: DoctorArguments, stopped: bool) -> str:
    """What to do after this."""
    if stopped:
        return "mend what would ruin the run, then run the same command again"
    if "://" not in args.data and not (Path(args.data) / "manifest.json").is_file():
        return shlex.join(["wholegrain", "prepare", args.data, "data/" + (Path(args.data).stem or "mine")])
    if not args.recipe:
        return shlex.join(["wholegrain", "doctor", args.data, "clip"])
    return shlex.join(["wholegrain", "train", args.recipe, "--data", args.data, "--model", args.model, *args.overrides])


def _plain(finding: Finding) -> dict[str, object]:
    """For JSON, which has no infinite numbers: they are texts there."""
    numbers = {name: str(n) if isinstance(n, float) and not math.isfinite(n) else n for name, n in finding.numbers.items()}
    return {**asdict(finding), "numbers": numbers}


_STYLE = {"stop": "bold red", "look": "yellow", "fine": "dim"}
