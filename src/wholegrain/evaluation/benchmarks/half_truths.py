"""Half-truths (Kargi et al. 2026, CS-CLIP, arXiv 2602.23906): does a true text lose to the same text with one false detail added?

For each picture a short true text (``anchor``), the same with a false detail (``half_truth``) and with a true one (``full_truth``); a detail is
an entity or a relation (``triplet_type``). As in the authors' code (``scripts/evaluate_half_truth.py``), strictly:

* ``ht``: ``s(anchor) > s(half_truth)``; chance 50%. The shorter text is the true one in every item, so text alone scores 100%: ``blind_shorter``;
* ``cor``: ``s(full_truth) > s(anchor) > s(half_truth)``; chance 1/6, of six orders.

``ht_accuracy`` and ``cor_accuracy`` weigh all items of a table alike, as the authors' overall figures do; the rows are by table and detail.

Files: ``data/coco_qwen.parquet`` (509 items), ``coco_mistral.parquet`` (454) and ``cc3m_qwen.parquet`` (474) of
https://huggingface.co/datasets/kbora/Half-Truths with the columns ``id``, ``image``, ``anchor``, ``half_truth``, ``full_truth`` and ``triplet_type``, the
pictures in them. Those that are in the folder are read; with several the averages are over tables, weighted alike. Half-truths of one's own are a
table for ``pairs``.
"""

from __future__ import annotations

from pathlib import Path

from wholegrain.evaluation.benchmarks.files import Folder, field
from wholegrain.evaluation.benchmarks.items import Benchmark, Item
from wholegrain.evaluation.benchmarks.picture_tables import picture_tables, table_rows
from wholegrain.evaluation.benchmarks.quads import counted

SOURCE = "https://huggingface.co/datasets/kbora/Half-Truths (data/*.parquet; the pictures are in them)"
TEXTS = ("id", "anchor", "half_truth", "full_truth", "triplet_type")
PUBLISHED = {"coco_qwen": 509, "coco_mistral": 454, "cc3m_qwen": 474}


def half_truths(folder: Path | str, images: tuple[Path, ...] = ()) -> Benchmark:
    """Reads the tables of the folder."""
    place = Folder(folder, SOURCE, images)
    items, notes, tables = [], [], []
    for path in picture_tables(place, "the columns anchor and half_truth"):
        rows = table_rows(path, TEXTS, ("image",))
        for row, picture in rows:
            name, kind = str(field(row, path, "id")), field(row, path, "triplet_type")
            anchor, half, full = (field(row, path, text) for text in ("anchor", "half_truth", "full_truth"))
            items.append(Item(name, f"ht_{path.stem}_{kind}", picture, (anchor,), (half,), f"ht_{path.stem}"))
            items.append(Item(name, f"cor_{path.stem}_{kind}", picture, (full, anchor), (half,), f"cor_{path.stem}", ordered=True))
        if rows:
            tables.append(path.stem)
            notes += counted(len(rows), PUBLISHED.get(path.stem, len(rows)), path.name)
    averages = {score: tuple(f"{score}_{table}" for table in tables) for score in ("ht", "cor")}
    protocol = "ht: the true text must score strictly above the same with a false detail; cor: and the one with a true detail above both"
    return Benchmark("half_truths", tuple(items), protocol, averages, micro=False, notes=tuple(notes))
