"""``wholegrain doctor``: what ruins runs, found before the first step."""

from __future__ import annotations

import math
import shlex
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

if TYPE_CHECKING:
    from rich.console import Console

    from wholegrain.doctor.finding import Finding


def doctor(
    data: tyro.conf.Positional[str],
    recipe: tyro.conf.Positional[str] = "",
    *,
    model: str = "small",
    device: str | None = None,
    workers: int | None = None,
    out: Path = Path("runs"),
    caption_column: str = "",
    caption_columns: str = "",
    image_column: str = "",
    split_column: str = "",
    image_root: Path | None = None,
    json_out: Path | None = None,
    every: bool = False,
    overrides: tuple[str, ...] = (),
) -> int:
    """Looks for what would ruin a run: wrong captions, dead pictures, tests that were trained on, a recipe that cannot learn.

    wholegrain doctor data/photos ce_clip --model ViT-B-32:openai --optimiser.batch 512

    Takes two minutes at most. Ends with 0 if nothing would ruin the run, and with 2 if something would.

    Args:
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
    from rich.console import Console

    from wholegrain.files import disk_errors, write_json
    from wholegrain.progress import showing

    console, began = Console(markup=False, highlight=False, soft_wrap=True), time.monotonic()
    if json_out is not None:
        with disk_errors(json_out):
            json_out.parent.mkdir(parents=True, exist_ok=True)
    with showing() as show:
        show("starting")
        from wholegrain.cli.prepare import column_roles
        from wholegrain.cli.train import workers_by_default
        from wholegrain.data.sources import SourceOptions
        from wholegrain.doctor.doctor import RunOptions, examine

        columns = ((caption_column, ""),) if caption_column else column_roles(caption_columns)
        source = SourceOptions(image_column, columns, split_column, image_root=image_root)
        run = RunOptions(model, overrides, device, workers_by_default() if workers is None else workers, out)

        def log(sentence: str) -> None:
            show.clear()
            print(sentence, file=sys.stderr)

        findings = []
        for finding in examine(data, recipe, run, source=source, log=log, show=show):
            findings.append(finding)
            if finding.level != "fine" or every:
                show.clear()
                _print(console, finding)
    counts = {level: sum(finding.level == level for finding in findings) for level in _STYLE}
    verdict = "something would ruin the run" if counts["stop"] else "look at these first" if counts["look"] else "nothing found"
    console.print(
        f"{counts['stop']} to stop for, {counts['look']} to look at, {counts['fine']} fine, in {time.monotonic() - began:.0f} s: {verdict}."
    )
    if json_out is not None:
        with disk_errors(json_out):
            write_json(json_out, [_plain(finding) for finding in findings])
        console.print(f"written: {json_out}")
    console.print(f"next: {_next(data, recipe, model, overrides, bool(counts['stop']))}")
    return 2 if counts["stop"] else 0


def _print(console: Console, finding: Finding) -> None:
    console.print(f"{finding.level.upper():5} {finding.check}: {finding.said}", style=_STYLE[finding.level])
    if finding.do:
        console.print(f"      -> {finding.do}")


def _next(data: str, recipe: str, model: str, overrides: tuple[str, ...], stopped: bool) -> str:
    """What to do after this."""
    if stopped:
        return "mend what would ruin the run, then run the same command again"
    if "://" not in data and not (Path(data) / "manifest.json").is_file():
        return shlex.join(["wholegrain", "prepare", data, "data/" + (Path(data).stem or "mine")])
    if not recipe:
        return shlex.join(["wholegrain", "doctor", data, "clip"])
    return shlex.join(["wholegrain", "train", recipe, "--data", data, "--model", model, *overrides])


def _plain(finding: Finding) -> dict[str, Any]:
    """For JSON, which has no infinite numbers: they are texts there."""
    numbers = {name: str(n) if isinstance(n, float) and not math.isfinite(n) else n for name, n in finding.numbers.items()}
    return asdict(finding) | {"numbers": numbers}


_STYLE = {"stop": "bold red", "look": "yellow", "fine": "dim"}
