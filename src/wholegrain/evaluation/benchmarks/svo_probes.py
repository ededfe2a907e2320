"""SVO-Probes (Hendricks & Nematzadeh, Findings of ACL 2021): one sentence, a picture of it and one with another subject, verb or object.

Here, as in later work on two-tower models: right if the true picture scores strictly above the other one; chance 50%; groups by what
differs, ``mean_3`` their plain mean. The paper itself asks a classifier of pairs twice, true or not, with a threshold that a two-tower model
does not have, so its figures are not comparable. Text alone cannot choose, the sentence being the same. Files: ``svo_probes.csv`` of
https://github.com/google-deepmind/svo_probes, pictures by its addresses as ``IMAGE_ID.jpg``; many addresses are gone.
"""

from __future__ import annotations

from pathlib import Path

from wholegrain.evaluation.benchmarks.files import PICTURES, Folder, field, read_rows
from wholegrain.evaluation.benchmarks.items import Benchmark, Item, Picture

SOURCE = "https://github.com/google-deepmind/svo_probes (svo_probes.csv; each picture from its address, saved as IMAGE_ID.jpg)"
KINDS = ("subj_neg", "verb_neg", "obj_neg")


def svo_probes(folder: Path | str, images: tuple[Path, ...] = ()) -> Benchmark:
    """Reads SVO-Probes."""
    place = Folder(folder, SOURCE, images)
    path = place.need("svo_probes.csv")
    found = []
    for number, row in enumerate(read_rows(path)):
        kind = next((kind for kind in KINDS if str(row.get(kind, "")).lower() == "true"), "other")
        ids = [str(field(row, path, f"{side}_image_id")) for side in ("pos", "neg")]
        at = [next((p for end in PICTURES if (p := place.picture(name + end)) is not None), None) for name in ids]
        missing = next((name for name, here in zip(ids, at, strict=True) if here is None), None)
        pictures = tuple(Picture(here) for here in at if here is not None)
        found.append(
            (f"{missing or ids[0]}.jpg", None if missing else Item(str(number), kind, pictures, (field(row, path, "sentence"),)))
        )
    kept, lost = place.kept(found)
    return Benchmark(
        "svo_probes", kept, "the picture of the sentence must score strictly above the other one", {"mean_3": KINDS}, notes=lost
    )
