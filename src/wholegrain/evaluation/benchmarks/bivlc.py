"""BiVLC (Miranda et al., NeurIPS 2024 datasets and benchmarks): a COCO picture with its caption, and SugarCrepe's false caption with a
picture that was made of it.

The authors' code (``evaluate_BiVLC`` in ``src/CLIP_fine_tuning/CLIP_utils.py`` of https://github.com/IMirandaM/BiVLC) scores as Winoground's
does, all strict, and prints I2T (here ``text_score``), T2I (``image_score``) and the group score, over all items and for ``type`` replace, swap
and add; chance 25%, 25%, 16.7%. Its four single questions (Ipos_2T, …) are here in ``picks_caption`` and ``picks_picture``, two by two. Known
defect: the false caption's picture is always a made one, the true one's never, so what tells made pictures from photographs helps.

Files: ``data/test-00000-of-00002.parquet``, … of https://huggingface.co/datasets/imirandam/BiVLC with the columns ``image``, ``caption``,
``negative_caption``, ``negative_image``, ``type`` and ``subtype``; the pictures are in them. 2,933 items.
"""

from __future__ import annotations

from pathlib import Path

from wholegrain.evaluation.benchmarks.files import Folder, field
from wholegrain.evaluation.benchmarks.items import Benchmark, Item
from wholegrain.evaluation.benchmarks.picture_tables import picture_tables, table_rows
from wholegrain.evaluation.benchmarks.quads import SCORES, counted

SOURCE = "https://huggingface.co/datasets/imirandam/BiVLC (data/*.parquet; the pictures are in them)"
TEXTS = ("caption", "negative_caption", "type", "subtype")
PUBLISHED = 2933


def bivlc(folder: Path | str, images: tuple[Path, ...] = ()) -> Benchmark:
    """Reads BiVLC."""
    place = Folder(folder, SOURCE, images)
    items = []
    for path in picture_tables(place, "the columns image and negative_image"):
        for row, pictures in table_rows(path, TEXTS, ("image", "negative_image")):
            captions = (field(row, path, "caption"), field(row, path, "negative_caption"))
            kind, part = field(row, path, "type"), f"{row['type']}_{field(row, path, 'subtype')}"
            items.append(Item(str(len(items)), kind, pictures, captions, part=part))
    return Benchmark("bivlc", tuple(items), SCORES, notes=counted(len(items), PUBLISHED))
