"""BLA (Chen et al., EMNLP 2023): two true and two false sentences for a picture, in active or passive voice, coordinated, or with relative clauses.

As in the authors' code for CLIP (``evaluation_models/clip`` of https://github.com/shin-ee-chen/BLA: ``rank_captions``, ``get_accuracy``) the four sentences are
ranked, and ``half_accuracy`` is the share of them that stand in their half, the true ones in the first two places and the false ones in the last:
0, 1/2 or 1; chance 50%. A tie is wrong here (theirs: as topk happens to order). ``accuracy`` is stricter and ours: both true sentences above both false
ones; chance 1/6. As in their code the first group of a picture's sentences counts, and pictures without one are left out. ``mean_3`` is the plain mean
over the three tasks.

Files: ``annotations/active_passive_captions.json``, ``coordination_captions.json`` and ``relative_clause_captions.json`` (lists of ``image_id`` and
``caption_group``, groups of ``True1``, ``True2``, ``False1``, ``False2``) and ``images/ID.jpg`` of the archive that the README links.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from wholegrain.errors import UserError
from wholegrain.evaluation.benchmarks.files import Folder, Row, field, read_json
from wholegrain.evaluation.benchmarks.items import Benchmark, Item, Picture

SOURCE = "https://github.com/shin-ee-chen/BLA (its README links BLA_benchmark.zip, with annotations and images)"
TASKS = ("active_passive", "coordination", "relative_clause")


def bla(folder: Path | str, images: tuple[Path, ...] = ()) -> Benchmark:
    """Reads those of the three tasks that are in the folder."""
    place = Folder(folder, SOURCE, images)
    files = {task: _file(place, task) for task in TASKS}
    if not any(files.values()):
        raise UserError(f"{place.path} has none of annotations/TASK_captions.json for {', '.join(TASKS)}; get them from {SOURCE}.")
    missing = [task for task, path in files.items() if path is None]
    kept, lost = place.kept(pair for task, path in files.items() if path is not None for pair in _items(place, task, path))
    notes = (f"not there: {', '.join(missing)}",) if missing else ()
    protocol = "half_accuracy: the share of the four sentences that are ranked in their half, the true ones first; accuracy: all four are"
    return Benchmark("bla", kept, protocol, {"mean_3": TASKS}, notes=(*notes, *lost))


def _file(place: Folder, task: str) -> Path | None:
    name = f"{task}_captions.json"
    return place.find(name, f"annotations/{name}", f"BLA_Benchmark/annotations/{name}", f"BLA_benchmark/annotations/{name}")


def _items(place: Folder, task: str, path: Path) -> Iterator[tuple[str, Item | None]]:
    for number, row in enumerate(read_json(path, list[Row])):
        if not row.get("caption_group"):
            continue
        name, group = f"{field(row, path, 'image_id')}.jpg", row["caption_group"][0]
        true, false = (tuple(field(group, path, f"{kind}{n}") for n in (1, 2)) for kind in ("True", "False"))
        at = place.picture(name)
        yield name, at and Item(str(number), task, (Picture(at),), true, false)
