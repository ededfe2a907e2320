"""Any table of pictures with a true and a false text: CSV, TSV, JSONL or JSON.

Columns: ``image`` (or ``filepath``, ``filename``, ``image_path``), ``true`` (or ``caption``), ``false`` (or ``negative_caption``, ``foil``), and, if
wanted, ``kind`` (or ``group``), ``id``. In JSON ``true`` and ``false`` may be lists: every true text must then score above every false one. Paths
are relative to the table, or found by name. Half-truths of one's own are such a table: the short true text, and the same with a wrong detail
added, whose kind belongs in ``kind`` (the published ones are ``half_truths``). Chance is 1 / C(true + false, true), 50% for one of each; ``mean`` is
the average over kinds.
"""

from __future__ import annotations

from pathlib import Path

from wholegrain.errors import UserError
from wholegrain.evaluation.benchmarks.files import Folder, field, read_rows
from wholegrain.evaluation.benchmarks.items import Benchmark, Item, Picture

ENDS = (".csv", ".tsv", ".jsonl", ".json")


def pairs(table: Path | str, images: tuple[Path, ...] = ()) -> Benchmark:
    """Reads a table, or the only table of a folder."""
    path = Path(table)
    if path.is_dir():
        tables = [p for p in sorted(path.iterdir()) if p.suffix in ENDS and p.name != "images.json"]
        if len(tables) != 1:
            raise UserError(f"{path} has {len(tables)} tables ({', '.join(ENDS)}) where one is expected; name the file itself.")
        path = tables[0]
    if not path.is_file():
        raise UserError(f"{path} is not there; give a CSV, TSV, JSONL or JSON file with the columns image, true and false.")
    place = Folder(path.parent, "whoever made the table", images)
    found = []
    for number, row in enumerate(read_rows(path)):
        name = str(field(row, path, "image", "filepath", "filename", "image_path"))
        at = place.picture(name)
        true, false = (_texts(field(row, path, *names)) for names in (("true", "caption"), ("false", "negative_caption", "foil")))
        kind = str(row.get("kind") or row.get("group") or "all")
        found.append((name, at and Item(str(row.get("id") or number), kind, (Picture(at),), true, false)))
    kept, lost = place.kept(found)
    kinds = tuple(dict.fromkeys(item.group for item in kept))
    return Benchmark(
        path.stem,
        kept,
        "every true text must score strictly above every false one",
        {"mean": kinds} if len(kinds) > 1 else {},
        notes=lost,
    )


def _texts(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else (str(value),)
