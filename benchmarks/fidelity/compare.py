"""Feeds released code and our losses the same random numbers, and prints how far values and gradients are apart.

    python benchmarks/fidelity/compare.py --originals FOLDER [--only flair] [--markdown docs/methods/fidelity.md]

FOLDER holds clones, each under its repository's name: ``git clone https://github.com/ExplainableML/flair FOLDER/flair`` and so on
(``--list`` prints the commands). Nothing of them is copied into this repository; the commits read are fixed in ``sources.py``. What is not
there is passed over and named. MGCA and x-clip import ``einops``.

A row that is meant to agree and does not, or the other way round, ends the program with exit code 1.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import sources
import torch
from fine_grained import fine_grained
from negative_images import short_and_long, triplets, units
from negatives import negatives_and_teachers
from noun_phrases import concepts
from originals import MissingError, Original, Originals
from problem import Difference, compare, draw
from rows import Row, branched, contrastive

SIZES, SEEDS = (5, 7, 12), (0, 1, 2, 3)
APART = 1e-4  # losses that differ on purpose differ by more


@dataclass(frozen=True)
class Result:
    """A row, and what came of it: a difference, or a reason why there is none."""

    row: Row
    difference: Difference | None
    missing: str = ""

    @property
    def agrees(self) -> bool:
        """Whether value and every gradient are the same to the row's tolerance."""
        assert self.difference is not None
        d = self.difference
        return all(x is None or x <= self.row.loose for x in (d.value, d.image, d.text, d.scale))

    @property
    def verdict(self) -> str:
        """``as meant``, or what is wrong."""
        if self.difference is None:
            return f"not run: {self.missing}"
        if self.row.same:
            return "agrees" if self.agrees else "WRONG: should agree"
        value = self.difference.value
        return "differs" if value != value or value > APART else "WRONG: should differ"


def run(row: Row, originals: Originals) -> Result:
    """The largest difference over all sizes and seeds."""
    try:
        module = originals.load(row.original)
        worst: Difference | None = None
        for images in SIZES:
            for seed in SEEDS:
                problem = draw(seed, images, row.shape, torch.get_default_dtype())
                worst = compare(lambda p: row.theirs(module, p), row.ours, problem).worse(worst)
        return Result(row, worst)
    except MissingError as problem:
        return Result(row, None, str(problem))


def rows(originals: Originals) -> dict[str, list[Row]]:
    """Every comparison, by the page's headings."""
    return {
        "CLIP, SigLIP, hard negatives": [*contrastive()],
        "A caption's own negatives, teachers": [*negatives_and_teachers(), *triplets()],
        "Several captions, several branches": [*branched(), *short_and_long(), *units()],
        "Patches and tokens": [*fine_grained(originals), *concepts()],
    }


def markdown(groups: dict[str, list[Result]]) -> str:
    """The page."""
    every = [r for results in groups.values() for r in results]
    counts = {verdict: sum(r.verdict == verdict for r in every) for verdict in ("agrees", "differs")}
    version = torch.__version__.partition("+")[0]
    lines = [_HEAD.format(problems=len(SIZES) * len(SEEDS), torch=version, **counts)]
    for heading, results in groups.items():
        lines += [
            f"## {heading}",
            "",
            "| ours | released code | | loss | image | text | scale | remark |",
            "|---|---|---|---|---|---|---|---|",
        ]
        lines += [_line(r) for r in results] + [""]
    lines += ["## What could not be compared", "", "| | why |", "|---|---|"]
    lines += [f"| {name} | {why} |" for name, why in sources.NOT_HAD.items()]
    return "\n".join(lines) + "\n"


def _line(r: Result) -> str:
    figures = [_figure(r.difference and getattr(r.difference, name)) for name in ("value", "image", "text", "scale")]
    verdict = f"**{r.verdict}**" if r.verdict == "differs" else r.verdict
    place = f"{r.row.original.label} `{r.row.function}`"
    return "| " + " | ".join([_code(r.row.name), place, verdict, *figures, r.row.why]) + " |"


_HEAD = """# Fidelity: our losses beside released code

Made by `python benchmarks/fidelity/compare.py --originals FOLDER --markdown docs/methods/fidelity.md`. No code of others is kept here: it is
read out of clones (`--list` prints how to make them) at the commits named.

Each line gives the same random features, not normalised, to both: {problems} problems of 5 to 12 images, of several widths, lengths and
scales, in float64 (torch {torch}). *loss* is the largest absolute difference of the values. *image*, *text* and *scale* are the largest
difference of a gradient by its largest entry: for the features of images (branches, patches), of texts (tokens), and for scale and bias; "-"
where neither has one. Rounding is 1e-15.

{agrees} lines agree, {differs} differ. A line that **differs** does so on purpose: the remark says why, and a line near it, where there is
one, which setting gives theirs.
"""


def _figure(x: float | None) -> str:
    return "-" if x is None else "NaN" if x != x else "0" if x == 0 else f"{x:.0e}" if x < 1e-3 else f"{x:.3f}"


def _code(name: str) -> str:
    return name.replace("|", "\\|")


def clones() -> list[str]:
    """The commands that make FOLDER."""
    found = dict.fromkeys(x.repository for x in vars(sources).values() if isinstance(x, Original))
    return [f"git clone https://github.com/{name} FOLDER/{name.rpartition('/')[2]}" for name in found]


def main() -> int:
    parser = argparse.ArgumentParser(description="Our losses beside released code.")
    parser.add_argument("--originals", type=Path, help="the folder with the clones")
    parser.add_argument("--only", default="", help="rows whose name or repository holds this")
    parser.add_argument("--markdown", type=Path, help="write the page here")
    parser.add_argument("--list", action="store_true", help="print the commands that make the clones")
    given = parser.parse_args()
    if given.list or given.originals is None:
        print("\n".join(clones()))
        return 0
    torch.set_default_dtype(torch.float64)
    warnings.filterwarnings("ignore")
    originals = Originals(given.originals)
    groups: dict[str, list[Result]] = {heading: [] for heading in rows(originals)}
    for heading, found in rows(originals).items():
        for row in found:
            if given.only in row.name or given.only in row.original.repository:
                groups[heading].append(run(row, originals))
                _say(groups[heading][-1])
    if given.markdown:
        given.markdown.write_text(markdown(groups), encoding="utf-8")
    return 1 if any(r.verdict.startswith("WRONG") for results in groups.values() for r in results) else 0


def _say(r: Result) -> None:
    d = r.difference
    figures = "" if d is None else "  ".join(f"{n} {_figure(getattr(d, n))}" for n in ("value", "image", "text", "scale"))
    print(f"{r.verdict:12s} {r.row.name:60s} {r.row.original.label:45s} {figures}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
