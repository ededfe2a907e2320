"""VisMin (Awal et al., NeurIPS 2024): two pictures that differ in one object, attribute, count or spatial relation, and their captions.

The authors' code (``vismin-bench/metric.py`` of https://github.com/rabiulcste/vismin) scores as Winoground's does, strictly, for each
``category``; chance 25%, 25%, 16.7%; ``mean_4`` is the plain mean over the four. In the published table the captions of about half of the items are
exchanged, so that ``text_0`` may belong to ``image_1``: ``sim_solution.csv`` says which is right, row for row, and without it nothing can be scored.

Files: the Arrow or parquet files of https://huggingface.co/datasets/mair-lab/vismin-bench with the columns ``image_0``, ``image_1``,
``text_0``, ``text_1`` and ``category``, the pictures in them, and ``vismin-bench/solutions/sim_solution.csv`` of the repository, whose columns are
``idx``, ``Text``, ``Image`` and ``category``. 2,084 items: 579, 294, 589 and 622.
"""

from __future__ import annotations

from pathlib import Path

from wholegrain.errors import UserError
from wholegrain.evaluation.benchmarks.files import Folder, Row, field, read_rows
from wholegrain.evaluation.benchmarks.items import Benchmark, Item
from wholegrain.evaluation.benchmarks.picture_tables import picture_tables, several_rows
from wholegrain.evaluation.benchmarks.quads import SCORES, counted

SOURCE = (
    "https://huggingface.co/datasets/mair-lab/vismin-bench, and vismin-bench/solutions/sim_solution.csv of https://github.com/rabiulcste/vismin"
)
TEXTS = ("text_0", "text_1", "category")
PUBLISHED = 2084
RELATIONS = {
    ("T0_I0 > T1_I0 & T1_I1 > T0_I1", "T0_I0 > T0_I1 & T1_I1 > T1_I0"): False,
    ("T1_I0 > T0_I0 & T0_I1 > T1_I1", "T0_I1 > T0_I0 & T1_I0 > T1_I1"): True,
}
"""(Text, Image) of a solution -> whether the captions are exchanged."""


def vismin(folder: Path | str, images: tuple[Path, ...] = ()) -> Benchmark:
    """Reads VisMin's benchmark."""
    place = Folder(folder, SOURCE, images)
    tables = picture_tables(place, "the columns image_0 and image_1")
    solution = place.need("sim_solution.csv", "solutions/sim_solution.csv")
    rows, answers = several_rows(tables, TEXTS, ("image_0", "image_1")), read_rows(solution)
    if len(rows) != len(answers):
        raise UserError(f"{solution} has {len(answers):,} rows and the tables have {len(rows):,}; get both again, whole.")
    items = []
    for number, ((row, pictures), answer) in enumerate(zip(rows, answers, strict=True)):
        kind = field(answer, solution, "category")
        if kind != row["category"]:
            raise UserError(f"{solution}, row {number + 1:,}, is of the category {kind!r} and the table's of {row['category']!r}; get both again.")
        captions = (field(row, tables[0], "text_0"), field(row, tables[0], "text_1"))
        captions = captions[::-1] if _exchanged(answer, solution, number) else captions
        items.append(Item(str(number), kind, pictures, captions))
    kinds = tuple(dict.fromkeys(item.group for item in items))
    return Benchmark("vismin", tuple(items), SCORES, {"mean_4": kinds} if len(kinds) == 4 else {}, notes=counted(len(items), PUBLISHED))


def _exchanged(answer: Row, path: Path, number: int) -> bool:
    relations = (field(answer, path, "Text"), field(answer, path, "Image"))
    if relations not in RELATIONS:
        raise UserError(f"{path}, row {number + 1:,}: {' and '.join(map(repr, relations))} are no relations of this benchmark; get it again.")
    return RELATIONS[relations]
