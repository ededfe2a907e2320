"""The tool that shows a restructuring changed no bit: it names what differs, and a digest is of what a file says."""

import json
import struct

import pytest
from same_bits.compare import compare
from same_bits.digests import of_folder
from same_bits.parts import PARTS, items, recipes

from wholegrain.objectives.recipe import recipe_names

BEFORE = {"weights/clip/1": {"model.safetensors": "1" * 64, "metrics.jsonl": "2" * 64 + " loss 0.5"}, "data/scenes": {"index.parquet": "3"}}


def test_what_differs_and_what_is_missing_is_named():
    other = {"weights/clip/1": {**BEFORE["weights/clip/1"], "metrics.jsonl": "4" * 64 + " loss 0.25"}, "data/new": {}}
    assert compare(BEFORE, json.loads(json.dumps(BEFORE))) == []
    assert compare(BEFORE, other) == [
        "data/new: missing before",
        "data/scenes: missing after",
        "weights/clip/1: metrics.jsonl (22222222 loss 0.5 -> 44444444 loss 0.25)",
    ]
    assert compare(BEFORE, {**BEFORE, "data/scenes": {"error": "error: no"}}) == [
        "data/scenes: error (missing -> error: no), index.parquet (3 -> missing)"
    ]


def tensors(folder, *named, **metadata):
    header, data = {"__metadata__": metadata}, b""
    for name, value in named:
        header[name] = {"dtype": "F32", "shape": [1], "data_offsets": [len(data), len(data) + 4]}
        data += struct.pack("<f", value)
    said = json.dumps(header).encode()
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(said)) + said + data)
    return folder.name


def test_weights_are_the_same_in_any_order_and_not_with_another_bit(tmp_path):
    one = tensors(tmp_path / "one", ("a", 1.0), ("b", 2.0), version="1")
    assert of_folder(tmp_path, one) == of_folder(tmp_path, tensors(tmp_path / "two", ("b", 2.0), ("a", 1.0), version="2"))
    for name, changed in {"bit": (("a", 1.0000001), ("b", 2.0)), "names": (("b", 1.0), ("a", 2.0))}.items():
        assert of_folder(tmp_path, one) != of_folder(tmp_path, tensors(tmp_path / name, *changed))


@pytest.mark.parametrize(("key", "same"), [("images_per_s", True), ("loss", False)])
def test_times_do_not_count_and_losses_do(tmp_path, key, same):
    for number, name in enumerate(("one", "two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text(json.dumps({"step": 0, "loss": 1.0, "images_per_s": 3.0, key: 1.5 + number}) + "\n")
    assert (of_folder(tmp_path, "one") == of_folder(tmp_path, "two")) is same


def test_every_packaged_recipe_is_recorded_and_everything_needed_comes_first():
    assert {*recipe_names(), *(f"scenes/{name.removeprefix('scenes/')}" for name in recipe_names("scenes"))} == set(recipes())
    seen = set()
    for item in items(list(PARTS)):
        assert seen.issuperset(item.needs), item.name
        seen.add(item.name)
    assert seen.issuperset(f"weights/{recipe}/{processes}" for recipe in recipes() for processes in (1, 2))
