"""Benchmarks in the layouts that they are published in, a few items each, as files and pictures: what the surface ``benchmarks`` damages."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

Rows: TypeAlias = list[dict[str, object]]
KINDS = ("object", "attribute", "counting", "relation")


def _json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def _csv(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _pictures(folder: Path, names: list[str], picture: Callable[[int], bytes]) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(number))


def _table(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows)
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=2)
        return
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def benchmark_folders(place: Path, picture: Callable[[int], bytes]) -> list[str]:
    """Writes a folder for each benchmark, named as its reader, into ``place``; gives the names."""

    def stored(number: int) -> dict[str, object]:
        return {"bytes": picture(number), "path": f"{number}.png"}

    bivlc = [
        {"image": stored(n), "caption": f"a cup {n}", "negative_caption": f"a sun {n}", "negative_image": stored(n + 9), "type": "add", "subtype": "obj"}
        for n in range(4)
    ]
    _table(place / "bivlc" / "data" / "test-00000-of-00001.parquet", bivlc)
    rows = [
        {"id": n, "image_0": stored(n), "image_1": stored(n + 9), "text_0": f"a {n}", "text_1": f"b {n}", "category": kind}
        for n, kind in enumerate(KINDS)
    ]
    _table(place / "vismin" / "data" / "test" / "data-00000-of-00001.arrow", rows)
    relations = {"Text": "T0_I0 > T1_I0 & T1_I1 > T0_I1", "Image": "T0_I0 > T0_I1 & T1_I1 > T1_I0"}
    _csv(place / "vismin" / "sim_solution.csv", [{"idx": n, **relations, "category": kind} for n, kind in enumerate(KINDS)])
    truths = [
        {"id": f"{n}", "image": stored(n), "anchor": "a cup", "half_truth": f"a cup, {n} dogs", "full_truth": "a red cup", "triplet_type": "entity"}
        for n in range(4)
    ]
    _table(place / "half_truths" / "data" / "coco_qwen.parquet", truths)
    _csv(place / "mmvp_vlm" / "Questions.csv", [{"Question ID": n, "Type": "Color", "Statement": f"cup {n}"} for n in (1, 2, 3, 4)])
    _pictures(place / "mmvp_vlm", [f"MLLM_VLM Images/Color/{n}.jpg" for n in (1, 2, 3, 4)], picture)
    pairs = [{"id": str(n), "image_0": f"{n}_0", "image_1": f"{n}_1", "caption_0": f"a cat {n}", "caption_1": "a dog"} for n in range(3)]
    counterfactuals = place / "coco_counterfactuals" / "data"
    counterfactuals.mkdir(parents=True)
    (counterfactuals / "examples.jsonl").write_text("\n".join(map(json.dumps, pairs)) + "\n")
    _pictures(place / "coco_counterfactuals", [f"images/{n}_{m}.jpg" for n in range(3) for m in (0, 1)], picture)
    _json(place / "spec" / "count" / "image2text.json", [{"query": "1.png", "keys": ["one", "two"], "label": n % 2} for n in range(3)])
    _json(place / "spec" / "count" / "text2image.json", [{"query": "two", "keys": ["1.png", "2.png"], "label": n % 2} for n in range(3)])
    _pictures(place / "spec" / "count", ["1.png", "2.png"], picture)
    group = {"group_index": 0, "True1": "t", "True2": "u", "False1": "f", "False2": "g"}
    sentences = [{"image_id": n, "index": n, "caption_group": [group]} for n in range(3)]
    _json(place / "bla" / "annotations" / "active_passive_captions.json", sentences)
    _pictures(place / "bla" / "images", [f"{n}.jpg" for n in range(3)], picture)
    coco = {
        "images": [{"id": n, "file_name": f"{n}.jpg"} for n in range(3)],
        "annotations": [{"image_id": n, "id": n, "caption": f"a red bus {n}"} for n in range(3)],
    }
    _json(place / "colorfoil" / "captions_val2017.json", coco)
    _pictures(place / "colorfoil" / "val2017", [f"{n}.jpg" for n in range(3)], picture)
    boxes = [{"id": n, "image_id": n, "bbox": [1.0, 2.0, 5.0, 6.0], "category_id": 0, "neg_category_ids": [1, 2]} for n in range(3)]
    named = [{"id": n, "name": f"a jar {n}"} for n in range(3)]
    _json(place / "fg_ovd" / "transparency.json", {"images": coco["images"], "annotations": boxes, "categories": named})
    _pictures(place / "fg_ovd", [f"{n}.jpg" for n in range(3)], picture)
    ranked = [[f"{n}.jpg", {}, [n % 2, 1 - n % 2], [1, 1]] for n in range(4)]
    _json(place / "cola_single_object" / "data" / "COLA_singleobjects_benchmark_GQA.json", {"labels": ["red cup", "blue cup"], "data": ranked})
    _pictures(place / "cola_single_object" / "vg", [f"{n}.jpg" for n in range(4)], picture)
    return sorted(path.name for path in place.iterdir())
