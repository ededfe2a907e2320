"""MMVP-VLM (Tong et al., CVPR 2024): pairs of pictures that CLIP sees as near the same, and a statement for each.

As in the authors' code (``scripts/evaluate_vlm.py`` of https://github.com/tsb0601/MMVP), a statement stands behind "a photo of ", and a pair is right if
both statements pick their own of the two pictures (here ``image_score``, chance 25%). ``mean_9`` is the plain mean over the nine patterns, the figure
that is quoted. The authors take the second picture where both are equally near, here a tie is wrong; they name the patterns by their order in the
file, here the file's own names stand. The picture's choice among the two statements (``text_score``) and the group score are not theirs.

Files: ``Questions.csv`` (``Question ID``, ``Type``, ``Statement``; two rows a pair) and ``MLLM_VLM Images/TYPE/ID.jpg`` of
https://huggingface.co/datasets/MMVP/MMVP_VLM. 135 pairs, 15 of each pattern.
"""

from __future__ import annotations

from pathlib import Path

from wholegrain.errors import UserError
from wholegrain.evaluation.benchmarks.files import Folder, field, read_rows
from wholegrain.evaluation.benchmarks.items import Benchmark, Item
from wholegrain.evaluation.benchmarks.quads import SCORES, counted, quad

SOURCE = "https://huggingface.co/datasets/MMVP/MMVP_VLM (Questions.csv and MLLM_VLM Images)"
IMAGES = "MLLM_VLM Images"
TEMPLATE = "a photo of {}"
PUBLISHED = 135


def mmvp_vlm(folder: Path | str, images: tuple[Path, ...] = ()) -> Benchmark:
    """Reads MMVP-VLM."""
    place = Folder(folder, SOURCE, images)
    path = place.need("Questions.csv")
    rows = read_rows(path)
    if len(rows) % 2:
        raise UserError(f"{path} has {len(rows)} rows, and two make a pair; get it again, whole.")
    found: list[tuple[str, Item | None]] = []
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        kind = field(first, path, "Type")  # the authors look for both pictures in the first row's folder
        ids = [int(field(row, path, "Question ID")) for row in (first, second)]
        captions = tuple(TEMPLATE.format(field(row, path, "Statement")) for row in (first, second))
        names = [f"{IMAGES}/{kind}/{number}.jpg" for number in ids]
        found.append(quad(place, str(ids[0]), kind, names, captions))
    kept, lost = place.kept(found)
    kinds = tuple(dict.fromkeys(item.group for item in kept))
    protocol = f"{SCORES}; the benchmark's own figure is image_score, each statement behind \"a photo of\""
    averages = {"mean_9": kinds} if len(kinds) == 9 else {}
    return Benchmark("mmvp_vlm", kept, protocol, averages, notes=(*counted(len(kept), PUBLISHED), *lost))
