"""NegBench (Alhamoud et al., CVPR 2025): negation in multiple choice and in retrieval.

*Choice*: CSV files with ``image_path``, ``caption_0`` to ``caption_3``, ``correct_answer`` (an index) and ``correct_answer_template`` (positive,
negative or hybrid, the groups): right if the true caption scores strictly above the three others (official: argmax); chance 25%. Every file
whose name has ``mcq`` is read. *Retrieval*: CSV files with ``filepath`` and ``captions`` (a list), read by the benchmark
``negbench_retrieval``; the official figures are R@5, plain against negated. Known defect: before March 2025 the official choice code did
not normalise features; its numbers of that time are not comparable. Files: https://github.com/m1k2zoo/negbench (``datasets.md`` has the
Google Drive folder); pictures of COCO val2017, VOC2007 and its synthetic set. Video sets are not read.
"""

from __future__ import annotations

import ast
from pathlib import Path

from wholegrain.errors import UserError
from wholegrain.evaluation.benchmarks.files import Folder, field, read_rows
from wholegrain.evaluation.benchmarks.items import Benchmark, CaptionSet, Item, Picture

SOURCE = "https://github.com/m1k2zoo/negbench (datasets.md links the CSV files and says which pictures they need)"


def negbench(folder: Path | str, images: tuple[Path, ...] = ()) -> Benchmark:
    """Reads the multiple-choice files of the folder."""
    place = Folder(folder, SOURCE, images)
    files = sorted(path for path in place.path.rglob("*.csv") if "mcq" in path.stem.lower())
    if not files:
        raise UserError(f"{place.path} has no CSV file with mcq in its name; get them from {SOURCE}.")
    found = []
    for path in files:
        for number, row in enumerate(read_rows(path)):
            name = field(row, path, "image_path")
            at = place.picture(name)
            captions = [row[f"caption_{n}"] for n in range(len(row)) if row.get(f"caption_{n}")]
            right = int(float(field(row, path, "correct_answer")))
            kind = f"{path.stem}:{row.get('correct_answer_template') or 'all'}"
            false = tuple(text for n, text in enumerate(captions) if n != right)
            found.append((name, at and Item(f"{path.stem}:{number}", kind, (Picture(at),), (captions[right],), false)))
    kept, lost = place.kept(found)
    averages = {path.stem: path.stem for path in files}
    kept = tuple(Item(i.id, i.group, i.pictures, i.true, i.false, i.id.rsplit(":", 1)[0]) for i in kept)
    return Benchmark(
        "negbench", kept, "the true one of four captions must score strictly above the others", averages, micro=False, notes=lost
    )


def negbench_retrieval(folder: Path | str, images: tuple[Path, ...] = ()) -> list[CaptionSet]:
    """Reads the retrieval files of the folder, one task each."""
    place = Folder(folder, SOURCE, images)
    files = sorted(path for path in place.path.rglob("*.csv") if "retrieval" in path.stem.lower())
    if not files:
        raise UserError(f"{place.path} has no CSV file with retrieval in its name; get them from {SOURCE}.")
    sets = []
    for path in files:
        found = []
        for row in read_rows(path):
            name = field(row, path, "filepath", "image_path")
            at = place.picture(name)
            captions = tuple(str(text) for text in ast.literal_eval(field(row, path, "captions")))
            found.append((name, at and (Picture(at), captions)))
        kept, lost = place.kept(found, "pictures")
        title = f"negbench_{path.stem}"
        sets.append(CaptionSet(title, tuple(p for p, _ in kept), tuple(c for _, c in kept), f"captions of {path.name}", lost))
    return sets
