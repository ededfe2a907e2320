"""VSR (Liu et al., TACL 2023): is this spatial statement true of this picture?

One picture, one statement, a label; there is no false partner. The official figure is the accuracy of a trained classifier, and a two-tower
model has no threshold; any threshold chosen on the test set would be too good. So the figure here is ``auc``: the chance that a true
(picture, statement) pair scores above a false one, a tie counting one half; chance 50%. ``relation_auc`` takes only pairs of the same relation
(statements with another preposition differ in more than truth) and is their mean over relations with both labels, weighted alike.
``blind_shorter_auc`` asks the same of the shorter text. Files: ``test.jsonl`` (of ``data/splits/zeroshot`` or ``random``) of
https://github.com/cambridgeltl/visual-spatial-reasoning; pictures of COCO 2017 (``image`` names them).
"""

from __future__ import annotations

from pathlib import Path

from wholegrain.evaluation.benchmarks.files import Folder, field, read_rows
from wholegrain.evaluation.benchmarks.items import Picture, Statement, Statements

SOURCE = "https://github.com/cambridgeltl/visual-spatial-reasoning (data/splits/zeroshot/test.jsonl; pictures of COCO 2017)"


def vsr(folder: Path | str, images: tuple[Path, ...] = ()) -> Statements:
    """Reads VSR's ``test.jsonl``."""
    place = Folder(folder, SOURCE, images)
    path = place.need("test.jsonl")
    found = []
    for number, row in enumerate(read_rows(path)):
        name = field(row, path, "image")
        at = place.picture(name)
        relation, text, label = (field(row, path, key) for key in ("relation", "caption", "label"))
        found.append((name, at and Statement(str(number), relation, Picture(at), text, bool(int(label)))))
    kept, lost = place.kept(found)
    return Statements("vsr", kept, "auc: the chance that a true statement scores above a false one", lost)
