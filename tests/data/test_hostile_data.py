"""Prepared data that somebody changed: every manifest, index, sidecar, record and note is looked at before it is believed."""

from __future__ import annotations

import io
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tiny_training import make_dataset

from wholegrain.cli.inspect import inspect
from wholegrain.data import prepare as preparing
from wholegrain.data import scan
from wholegrain.data.dataset import BrokenImageError, Dataset
from wholegrain.data.mixture import open_data
from wholegrain.data.prepare import PrepareOptions, prepare
from wholegrain.data.record import Caption, HardPositive, Record, caption_id, content_key
from wholegrain.data.record_json import record_from_json, record_to_json
from wholegrain.data.shards import ShardWriter
from wholegrain.data.sidecars import write_sidecar
from wholegrain.errors import UserError
from wholegrain.structure import StructureError


@pytest.fixture
def folder(tmp_path):
    make_dataset(tmp_path / "d", 10)
    return tmp_path / "d"


def refused(act, said=""):
    with pytest.raises(UserError) as caught:
        act()
    assert said in str(caught.value), str(caught.value)
    assert str(caught.value).isprintable()


def everything(folder):
    """Reads all that is there."""
    dataset = Dataset(folder)
    for split in dataset.splits:
        for record in dataset.records(split):
            dataset.pixels(record.key)
            dataset.negatives.get((record.key, record.captions[0].id))
    return dataset.roles, dataset.twins, dataset.hard_positives, dataset.truths, list(dataset.negatives), dataset.negative_kinds


# ---- manifest ---------------------------------------------------------------------------------------------------------------

VALUES = [None, 5, -1, 2.5, True, "x", [], {}, [[]], {"train": None}, {"train": {"images": "1", "captions": 1}}]


@pytest.mark.parametrize("key", ["schema", "splits", "shards", "roles", "captions_per_image", "duplicates", "broken", "captions", "source"])
@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_manifests_with_other_values(folder, key, value):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, key: value}))
    try:
        everything(folder)
        inspect(folder, sheet=False)
    except UserError as error:
        assert "manifest.json" in str(error)  # noqa: PT017
    manifest.pop(key, None)
    path.write_text(json.dumps(manifest))
    if key in ("schema", "splits"):
        refused(lambda: Dataset(folder), f'no key "{key}"')


@pytest.mark.parametrize("text", ["", "[]", "null", "[" * 100_000, '{"schema": 2}', "\xff", '{"schema": 1, "splits": {}, "shards": {"../x.tar": ""}}'])
def test_manifests_that_are_none(folder, text):
    (folder / "manifest.json").write_bytes(text.encode("latin-1"))
    refused(lambda: Dataset(folder), "manifest.json")
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")
    refused(lambda: Dataset(folder), "is a pipe")


# ---- index ------------------------------------------------------------------------------------------------------------------


def changed(path, **columns):
    """The table with some columns changed: name -> a function of the list of values."""
    table = pq.read_table(path)
    for name, change in columns.items():
        values, kind = change(table[name].to_pylist()), table.schema.field(name).type
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values, kind))
    pq.write_table(table, path)


def first(value):
    return lambda values: [value, *values[1:]]


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("image_offset", -1, "places of image"),
        ("image_bytes", -5, "places of image"),
        ("image_bytes", 2**40, "places of image"),
        ("image_offset", 2**63 - 1, "places of image"),
        ("json_bytes", 2**50, "places of json"),
        ("json_offset", None, "no value in some row"),
        ("shard", "../../secret.tar", "no plain name"),
        ("shard", "/etc/passwd", "no plain name"),
        ("shard", "a\0b.tar", "no plain name"),
        ("shard", "..", "no plain name"),
        ("shard", None, "no value"),
        ("shard", "train-000009.tar", "is missing"),
        ("split", "test", "differ in the images"),
        ("key", "a b", "letters, digits"),
        ("key", "ä" * 10, "letters, digits"),
        ("key", "", "letters, digits"),
        ("key", "k" * 5000, "letters, digits"),
        ("key", None, "no value"),
        ("image_offset", 10**9, "cut short"),
        ("json_offset", 0, "broken"),
        ("json_bytes", 3, "broken"),
    ],
)
def test_indexes_that_say_what_cannot_be(folder, column, value, said):
    changed(folder / "index.parquet", **{column: first(value)})
    refused(lambda: everything(folder), said)


def test_indexes_of_other_forms(folder):
    path = folder / "index.parquet"
    whole, table = path.read_bytes(), pq.read_table(path)
    changed(path, key=lambda values: [values[1], *values[1:]])
    refused(lambda: everything(folder), "a key twice")
    pq.write_table(table.drop_columns(["json_bytes"]), path)
    refused(lambda: everything(folder), "no column 'json_bytes'")
    pq.write_table(table.set_column(5, "image_offset", pa.array([["x"]] * len(table))), path)
    refused(lambda: everything(folder), "index.parquet")
    for damaged in (b"", whole[:-4], whole[:200] + b"\xff" * 200 + whole[400:]):
        path.write_bytes(damaged)
        refused(lambda: everything(folder), "index.parquet")
    path.unlink()
    refused(lambda: everything(folder), "index.parquet")


def test_a_shard_that_is_a_link_elsewhere_or_no_file(folder):
    shard = folder / "shards" / "train-000000.tar"
    moved = folder.parent / "train-000000.tar"
    os.rename(shard, moved)
    shard.symlink_to(moved)
    refused(lambda: everything(folder), "a link that leaves its folder")
    shard.unlink()
    os.mkfifo(shard)
    refused(lambda: everything(folder), "is a pipe")
    shard.unlink()
    os.rename(moved, shard)
    os.rename(folder / "shards", folder.parent / "shards")
    (folder / "shards").symlink_to(folder.parent / "shards")  # what "enrich --out" makes
    everything(folder)


# ---- records ----------------------------------------------------------------------------------------------------------------

RECORD = Record("a" * 20, "a.jpg", (5, 6), "train", None, (Caption("c", "a dog"),), ())


@pytest.mark.parametrize("key", ["key", "image", "size", "split", "label", "captions", "regions", "schema"])
@pytest.mark.parametrize(
    "value",
    [None, 5, "x", [], {}, [1], [[1]], [None], [{}], [{"id": 1, "text": "x"}], [{"id": "x", "text": "x", "more": 1}], [0, 5], [1.5, 2],
     [float("nan"), 1], [{"box": [0, 0, float("inf"), 1], "phrase": "x"}], [{"box": [1, 2], "phrase": "x"}], [{"phrase": "x"}],
     [{"box": [0, 0, 1, 1], "phrase": None}], [{"box": [0, 0, 1, 1], "phrase": "x", "mask": [-1]}], True],
    ids=repr,
)  # fmt: skip
def test_records_with_other_values(key, value):
    fine = {("label", "x"), ("label", None), ("key", "x"), ("image", "x"), ("split", "x"), ("captions", "[]"), ("regions", "[]")}
    values = {**record_to_json(RECORD), key: value}
    if (key, value if isinstance(value, str | None) else repr(value)) in fine:
        record_from_json(json.loads(json.dumps(values)))
        return
    with pytest.raises((StructureError, UserError)):
        record_from_json(json.loads(json.dumps(values)))
    values.pop(key)
    with pytest.raises((StructureError, UserError)):
        record_from_json(values)


def test_a_record_of_another_key_or_nested_without_end(folder):
    index = pq.read_table(folder / "index.parquet").to_pylist()
    one = max(index, key=lambda row: row["json_bytes"])
    other = next(row for row in index if row["shard"] == one["shard"] and row["key"] != one["key"])
    shard = folder / "shards" / one["shard"]
    data = bytearray(shard.read_bytes())
    text = data[other["json_offset"] : other["json_offset"] + other["json_bytes"]]
    data[one["json_offset"] : one["json_offset"] + one["json_bytes"]] = text[: one["json_bytes"]].ljust(one["json_bytes"])
    shard.write_bytes(data)
    with pytest.raises(BrokenImageError, match=f"is the one of {other['key']}"):
        Dataset(folder).original(one["key"])
    data[one["json_offset"] : one["json_offset"] + one["json_bytes"]] = b"[" * one["json_bytes"]
    shard.write_bytes(data)
    with pytest.raises(BrokenImageError, match="is broken"):
        Dataset(folder).original(one["key"])


def test_a_key_is_the_hash_of_its_picture(tmp_path):
    with ShardWriter(tmp_path / "d") as writer:
        with pytest.raises(ValueError, match="is not content_key"):
            writer.add(Record("a" * 20, "a.jpg", (5, 6), captions=(Caption("c", "x"),)), b"picture")
        key = content_key(b"picture")
        writer.add(Record(key, f"{key}.jpg", (5, 6), captions=(Caption("c", "x"),)), b"picture")
    assert Dataset(tmp_path / "d").keys("train") == [key]


# ---- sidecars ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "column", "value"),
    [
        ("negatives", "key", None),
        ("negatives", "key", "a b c"),
        ("negatives", "caption", "ä"),
        ("negatives", "text", None),
        ("negatives", "edits", [{"start": None, "end": 1, "old": "a", "new": "b"}]),
        ("twins", "keys", ["a"]),
        ("twins", "keys", ["a b", "c"]),
        ("twins", "captions", ["a", None]),
        ("twins", "split", None),
        ("hard_positives", "captions", []),
        ("hard_positives", "negative", None),
        ("truths", "key", ""),
        ("captions", "role", None),
    ],
)
def test_sidecars_that_say_what_cannot_be(folder, name, column, value):
    dataset = Dataset(folder)
    key = dataset.keys("train")[0]
    write_sidecar(folder, "hard_positives", [HardPositive("i", "kind", key, ("a", "b"), "c")])
    write_sidecar(folder, "truths", [("c", key)])
    if name == "captions":
        from wholegrain.data.record import GeneratedCaption

        write_sidecar(folder, "captions", [GeneratedCaption(key, "g1", "detail", "x", "s", "m", "p", "1")])
    everything(folder)
    changed(folder / f"{name}.parquet", **{column: first(value)})
    refused(lambda: everything(folder), f"{name}.parquet")


@pytest.mark.parametrize("name", ["negatives", "twins", "hard_positives", "truths", "captions"])
def test_sidecars_that_are_none(folder, name):
    path = folder / f"{name}.parquet"
    for data in (b"", b"PAR1PAR1", b"{}"):
        path.write_bytes(data)
        refused(lambda: everything(folder), f"{name}.parquet")
    pq.write_table(pa.table({"other": [1]}), path)
    refused(lambda: everything(folder), "has no column")
    path.unlink()
    os.mkfifo(path)
    refused(lambda: everything(folder), "is a pipe")
    path.unlink()
    path.symlink_to(path)
    refused(lambda: everything(folder), "leads to itself")


@pytest.mark.parametrize("weight", ["nan", "inf", "0", "-1"])
def test_weights_that_are_none(folder, weight):
    refused(lambda: open_data([f"{folder}:{weight}", f"{folder}:1"]), "number above 0")


# ---- unfinished work --------------------------------------------------------------------------------------------------------


@pytest.fixture
def cut(tmp_path, monkeypatch):
    """A preparation that was stopped before its manifest, the same one done, and how to go on."""
    tokenizer = preparing.clip_tokenizer()
    monkeypatch.setattr(preparing, "clip_tokenizer", lambda: tokenizer)
    monkeypatch.setattr(scan, "CHUNK", 4)
    (tmp_path / "in").mkdir()
    lines = ["image,caption,split"]
    for number in range(12):
        file = io.BytesIO()
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (10, 12, 3), dtype=np.uint8)).save(file, "PNG")
        (tmp_path / "in" / f"{number}.png").write_bytes(file.getvalue())
        lines.append(f"{number}.png,caption {number},{('train', 'val')[number % 4 == 0]}")
    (tmp_path / "in" / "a.csv").write_text("\n".join(lines) + "\n")
    options = PrepareOptions(shard_bytes=6_000, workers=1, progress=False)

    def go_on():
        prepare(tmp_path / "in" / "a.csv", tmp_path / "out", options=options)
        return {str(p.relative_to(tmp_path / "out")): p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}

    prepare(tmp_path / "in" / "a.csv", tmp_path / "whole", options=options)
    monkeypatch.setattr(preparing, "_manifest", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        go_on()
    monkeypatch.undo()
    monkeypatch.setattr(preparing, "clip_tokenizer", lambda: tokenizer)
    monkeypatch.setattr(scan, "CHUNK", 4)
    whole = {str(p.relative_to(tmp_path / "whole")): p.read_bytes() for p in (tmp_path / "whole").rglob("*") if p.is_file()}
    return tmp_path / ".out.unfinished", whole, go_on


DAMAGES = {
    "a scanned row with a null": ("scan/000001.jsonl", lambda data: data.replace(b'"key": "', b'"key": null, "x": "')),
    "a scanned row without a key": ("scan/000000.jsonl", lambda data: data.replace(b'"captions"', b'"caption"')),
    "a scanned chunk that is empty": ("scan/000002.jsonl", lambda data: b""),
    "a scanned chunk of brackets": ("scan/000000.jsonl", lambda data: b"[" * 100_000),
    "a note that is cut": (".unfinished/train-000000.parquet", lambda data: data[:-20]),
    "a note that is none": (".unfinished/train-000001.parquet", lambda data: b"x"),
    "a note of another shard": (".unfinished/zebra-000007.parquet", lambda data: b""),
    "a shard that is cut": ("shards/train-000001.tar", lambda data: data[:1000]),
    "a shard that is gone": ("shards/val-000000.tar", None),
    "the identity is nonsense": ("identity", lambda data: b"\xff\xfe"),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_unfinished_work_that_was_damaged_is_done_again(cut, what):
    work, whole, go_on = cut
    name, change = DAMAGES[what]
    path = work / name
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes() if path.exists() else b""))
    assert go_on() == whole


def test_notes_with_other_values_are_not_believed(cut):
    work, whole, go_on = cut
    changed(work / ".unfinished" / "train-000000.parquet", json_offset=first(2**62), split=first("val"))
    assert go_on() == whole


def test_captions_of_odd_text_are_written_and_read(tmp_path, monkeypatch):
    tokenizer = preparing.clip_tokenizer()
    monkeypatch.setattr(preparing, "clip_tokenizer", lambda: tokenizer)
    file = io.BytesIO()
    Image.new("RGB", (4, 5)).save(file, "PNG")
    (tmp_path / "0.png").write_bytes(file.getvalue())
    row = {"image": "0.png", "caption": "a \ud800 dog", "label": "\udfff", "role": "r\ud800", "regions": [{"box": [0, 0, 2, 2], "phrase": "\ud800"}]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    prepare(tmp_path / "a.jsonl", tmp_path / "out", options=PrepareOptions(progress=False))
    (record,) = Dataset(tmp_path / "out").records("train")
    assert (record.captions[0].text, record.label, record.captions[0].role, record.regions[0].phrase) == ("a ? dog", "?", "r?", "?")
    assert record.captions[0].id == caption_id("a ? dog")
