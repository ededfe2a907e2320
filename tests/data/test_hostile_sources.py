"""Sources that are damaged, strange or made to do harm: one sentence, no hang, nothing left behind."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import socket
import struct
import tarfile
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from wholegrain.data import prepare as preparing
from wholegrain.data.dataset import Dataset
from wholegrain.data.prepare import PrepareOptions, prepare
from wholegrain.data.sources import SourceOptions, open_source, webdataset
from wholegrain.data.sources.webdataset import expand
from wholegrain.errors import UserError
from wholegrain.evaluation.benchmarks.class_images import class_set


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    tokenizer = preparing.clip_tokenizer()
    monkeypatch.setattr(preparing, "clip_tokenizer", lambda: tokenizer)


def png(seed=0):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(4):
        (tmp_path / "in" / f"{number}.png").write_bytes(png(number))
    return tmp_path / "in"


def made(source, out, /, **options):
    prepare(source, out, options=PrepareOptions(**{"max_broken": 0.9, "split_by": "none", "progress": False, **options}))
    return Dataset(out)


def refused(source, out, said, /, **options):
    """One sentence, and nothing beside the source."""
    before = sorted(out.parent.iterdir())
    began = time.process_time()
    with pytest.raises(UserError) as caught:
        made(source, out, **options)
    assert time.process_time() - began < 20
    assert said in str(caught.value), str(caught.value)
    assert str(caught.value).isprintable()
    assert sorted(out.parent.iterdir()) == before


def reasons(dataset):
    return [item["reason"] for item in dataset.manifest["broken"]["listed"]]


# ---- tables -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"image,caption\n", "no image with a caption"),
        ("image,caption\n0.png,ein Hünd\n".encode("latin-1"), "is not UTF-8 text"),
        ("image,caption\n0.png,a dog\n".encode("utf-16"), "is not UTF-8 text"),
        ("image,caption\n0.png,a dog\n".encode("utf-16-le"), "as UTF-16 has"),
        (b"image,caption,caption\n0.png,a,b\n", "several columns 'caption'"),
        (b'image,caption\n0.png,"it never ends\n' + b"x,y\n" * 4_500_000, "check its quotes"),
        (b"image,caption\n0.png," + b"x" * (17 * 2**20) + b"\n", "longer than"),
        (b"image,caption,split\n0.png,a dog,a/b\n", "the split name 'a/b'"),
        (b"image,caption,split\n0.png,a dog," + b"s" * 300 + b"\n", "at most 100 letters"),
        (b"image,caption,split\n0.png,a dog,../../x\n", "cannot be part of a file name"),
    ],
)
def test_tables_that_cannot_be_read(folder, text, said):
    (folder / "a.csv").write_bytes(text)
    refused(folder / "a.csv", folder.parent / "out", said)


def test_rows_with_too_many_cells_are_listed_and_others_kept(folder):
    (folder / "a.csv").write_text("image,caption\n0.png,a dog, a cat and more\n1.png,one\n2.png\n3.png,three,,\n")
    dataset = made(folder / "a.csv", folder.parent / "out")
    assert reasons(dataset) == ["the row has 3 cells, the header 2; put quotes around texts with commas"]
    assert dataset.manifest["images_without_captions"]["count"] == 1
    assert {c.text for record in dataset.records("train") for c in record.captions} == {"one", "three"}


def test_long_captions_other_scripts_and_equal_captions(folder):
    texts = ["x" * 2**20, "一只狗 🐶 كلب", "a dog", "a dog"]
    lines = [json.dumps({"image": f"{n}.png", "caption": text}) for n, text in enumerate(texts)]
    (folder / "a.jsonl").write_text("\n".join(lines))
    began = time.process_time()
    dataset = made(folder / "a.jsonl", folder.parent / "out")
    assert time.process_time() - began < 20
    assert sorted(c.text for record in dataset.records("train") for c in record.captions) == sorted(texts)


@pytest.mark.parametrize(
    "name", ["fifo", "loop", "sock", "a\0b", "n" * 300, "\ud800", "folder", "none.png", "/dev/zero", "\n", "." * 5000]
)
def test_images_that_are_no_files_are_listed(folder, name):
    os.mkfifo(folder / "fifo")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(folder / "sock"))
    rows = [{"image": "0.png", "caption": "a dog"}, {"image": name, "caption": "a cat"}]
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    if name.startswith("/"):
        refused(folder / "a.jsonl", folder.parent / "out", "leaves the folder")
        return
    dataset = made(folder / "a.jsonl", folder.parent / "out")
    assert len(dataset) == 1
    assert dataset.manifest["broken"]["count"] == 1


@pytest.mark.parametrize("make", ["fifo", "loop", "folder", "device", "name"])
def test_a_source_that_is_no_file(folder, make):
    path = folder / "a.csv"
    if make == "fifo":
        os.mkfifo(path)
    elif make == "loop":
        path.symlink_to(path)
    elif make == "device":
        path.symlink_to("/dev/zero")
    elif make == "name":
        path = folder / "a\0.csv"
    else:
        path.symlink_to(folder)
        os.mkfifo(folder / "b.png")
    for suffix in (".csv", ".jsonl", ".parquet", ".tar"):
        odd = path.with_suffix(suffix)
        if suffix != ".csv" and make != "name":
            os.rename(path.with_suffix(".csv"), odd) if make == "fifo" else odd.symlink_to(path)
        refused(odd, folder.parent / "out", "" if make in ("folder", "name", "loop") else "not a file")
        if make == "fifo":
            os.rename(odd, path)


VALUES = [None, 5, 2.5, True, [], {}, [1], {"text": 3}, [[[[["deep"]]]]], {"a": {"b": {}}}, "\ud800", "\0", 10**400, [{"text": {}}]]


@pytest.mark.parametrize("field", ["image", "caption", "split", "label", "role", "regions"])
@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_json_values_of_other_kinds(folder, field, value):
    rows = [{"image": f"{n}.png", "caption": f"a dog {n}", "split": "train", "label": "dog", "role": "web"} for n in range(3)]
    rows[1][field] = value
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n[" + "[" * 100_000 + "\nnull\n\xff\n")
    try:
        dataset = made(folder / "a.jsonl", folder.parent / "out")
    except UserError as error:
        assert str(error).isprintable()  # noqa: PT017
        assert field in ("regions", "split")
        return
    assert 2 <= len(dataset) <= 3
    assert dataset.manifest["broken"]["count"] >= 3


@pytest.mark.parametrize("column", ["image", "caption", "split", "label"])
@pytest.mark.parametrize("kind", [pa.int32(), pa.list_(pa.float32()), pa.struct([("x", pa.bool_())]), pa.bool_(), pa.binary()])
def test_parquet_columns_of_other_kinds(folder, column, kind):
    values = {"image": [png(0), png(1)], "caption": ["a", "b"], "split": ["train", "train"], "label": ["x", "y"]}
    given = {pa.int32(): [1, 2], pa.list_(pa.float32()): [[0.5], []], pa.bool_(): [True, False], pa.binary(): [b"\xff", b""]}
    columns = {name: pa.array(its) for name, its in values.items()}
    columns[column] = pa.array(given.get(kind, [{"x": True}, None]), kind)
    pq.write_table(pa.table(columns), folder / "a.parquet")
    try:
        made(folder / "a.parquet", folder.parent / "out")
    except UserError as error:
        assert str(error).isprintable()  # noqa: PT017


def test_damaged_parquet_files(folder):
    pq.write_table(pa.table({"image": [png(n) for n in range(400)], "caption": ["a dog"] * 400}), folder / "a.parquet")
    whole = (folder / "a.parquet").read_bytes()
    for damaged in (b"", b"PAR1", whole[:-9], whole[: len(whole) // 2], bytes(len(whole)), whole[:40] + b"\xff" * 400 + whole[440:]):
        (folder / "a.parquet").write_bytes(damaged)
        refused(folder / "a.parquet", folder.parent / "out", "a.parquet")


# ---- absolute paths ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_absolute_paths_under_one_folder(folder, capsys, kind):
    (folder / "deep").mkdir()
    os.rename(folder / "3.png", folder / "deep" / "3.png")
    names = [str(folder / "0.png"), str(folder / "deep" / "3.png")]
    (folder.parent / "lists").mkdir()
    path = folder.parent / "lists" / f"a.{kind}"
    if kind == "csv":
        path.write_text("image,caption\n" + "".join(f"{name},a dog\n" for name in names))
    elif kind == "jsonl":
        path.write_text("".join(json.dumps({"image": name, "caption": "a dog"}) + "\n" for name in names))
    else:
        pq.write_table(pa.table({"image": names, "caption": ["a dog", "a cat"]}), path)
    prepare(path, folder.parent / "out", options=PrepareOptions(split_by="none"))
    assert f"pictures are taken from {folder}" in capsys.readouterr().err
    assert Dataset(folder.parent / "out").manifest["pictures"] == str(folder)
    assert len(Dataset(folder.parent / "out")) == 2
    told = SourceOptions(image_root=folder)
    assert len(made(path, folder.parent / "told", source=told)) == 2
    refused(path, folder.parent / "no", "leaves the folder", source=SourceOptions(image_root=folder / "deep"))
    refused(path, folder.parent / "no", "is not a folder", source=SourceOptions(image_root=folder / "none"))


def test_absolute_paths_without_a_common_folder_and_links_that_leave_it(folder):
    table = folder / "a.csv"
    table.write_text(f"image,caption\n{folder}/0.png,a dog\n/etc/hostname,a cat\n")
    refused(table, folder.parent / "out", "no folder in common but /")
    (folder.parent / "secret.png").write_bytes(png(9))
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    table.write_text(f"image,caption\n{folder}/0.png,a dog\n{folder}/link.png,a cat\n")
    refused(table, folder.parent / "out", "leaves the folder")
    table.write_text(f"image,caption\n0.png,a dog\n{folder.parent}/secret.png,a cat\n")  # the first one is relative
    refused(table, folder.parent / "out", "--image-root")


# ---- folders ----------------------------------------------------------------------------------------------------------------


def test_a_folder_of_odd_files(folder):
    for number in range(4):
        (folder / f"{number}.txt").write_bytes(b"a dog\n\nb\xffc\n")
    os.mkfifo(folder / "fifo.png")
    os.mkfifo(folder / "5.txt")
    (folder / "5.png").write_bytes(png(5))
    (folder / "loop").symlink_to(folder)
    (folder / "self.png").symlink_to(folder / "self.png")
    (folder / "dir.png").mkdir()
    strange = os.fsencode(folder) + b"/\xff\xfe.png"
    with open(strange, "wb") as file:
        file.write(png(6))
    with open(strange[:-4] + b".txt", "w") as file:
        file.write("strange name")
    dataset = made(folder, folder.parent / "out")
    said = sorted(reasons(dataset))
    assert any("is a pipe" in reason for reason in said)
    assert "5.txt is a pipe, not a file" in said
    assert "strange name" in {c.text for record in dataset.records("train") for c in record.captions}
    assert len(dataset) == 5


def test_nothing_stays_of_a_place_that_was_made_for_nothing(folder):
    (folder / "a.csv").write_text("image,caption\nnone.png,a dog\n")
    with pytest.raises(UserError, match="cannot be used"):
        made(folder / "a.csv", folder.parent / "deep" / "er" / "out", max_broken=0.1)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["in"]


@pytest.mark.parametrize("place", ["/dev/x", "/proc/x/y", "/sys/kernel/x", "/dev/../proc/self/x", "a\0b", "n" * 300])
def test_places_where_nothing_can_be_kept(folder, place):
    (folder / "a.csv").write_text("image,caption\n0.png,a dog\n")
    with pytest.raises(UserError, match="choose another"):
        made(folder / "a.csv", place)


# ---- tars -------------------------------------------------------------------------------------------------------------------


def header(name="a.png", size=0, kind=b"0", raw_size=None):
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT)[:512])
    block[124:136] = raw_size if raw_size is not None else b"%011o\0" % size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data):
    return data + bytes(-len(data) % 512)


def pax(**records):
    data = b""
    for key, value in records.items():
        body = b" %s=%s\n" % (key.replace("__", ".").encode(), value)
        length = len(body) + 1
        while len(b"%d" % length) + len(body) != length:
            length += 1
        data += b"%d" % length + body
    return header("x", len(data), b"x") + padded(data)


BODY = padded(b"x" * 600)
TARS = {
    "size beyond the file": (header(size=10**9) + BODY, "claims 1,000,000,000 bytes"),
    "size of many terabytes": (header(raw_size=b"\x80" + b"\0" * 3 + struct.pack(">Q", 2**60)) + BODY, "bytes, where"),
    "negative size": (header(raw_size=b"\xff" * 12) + BODY, "claims -1 bytes"),
    "negative size of a link": (header(raw_size=b"\xff" * 11 + b"\0", kind=b"2") + BODY, "bytes, where"),
    "sparse": (header(size=600, kind=b"S") + BODY, "sparse"),
    "sparse by pax": (pax(GNU__sparse__realsize=b"9" * 15) + header(size=600) + BODY, "sparse"),
    "pax beyond the file": (header("x", 2**30, b"x") + BODY, "bytes, where"),
    "pax without length": (header("x", 600, b"x") + BODY + header(size=1) + BODY, "damaged extended header"),
    "pax with a size": (pax(size=b"99999999999") + header(size=600) + BODY, "claims 99,999,999,999 bytes"),
    "pax with no size": (pax(size=b"-1") + header(size=600) + BODY, "has the size"),
    "pax with a word for a size": (pax(size=b"1e9") + header(size=600) + BODY, "has the size"),
    "a chain of long names": ((header("x", 600, b"L") + BODY) * 50 + header(size=600) + BODY, "without end"),
    "a long name of megabytes": (header("x", 2**21, b"L") + b"n" * 2**21 + header(size=600) + BODY, "without end"),
    "no tar": (b"<html>" * 1000, "not a whole tar"),
    "nothing": (b"", "empty"),
    "cut": (header(size=600) + BODY + header(size=600)[:100], "not a whole tar"),
    "a text of many megabytes": (header("a.txt", 17 * 2**20) + bytes(17 * 2**20), "too many"),
}


@pytest.mark.parametrize("what", TARS)
def test_tars_made_to_do_harm(tmp_path, what):
    data, said = TARS[what]
    for name, pack in (("a.tar", bytes), ("a.tar.gz", gzip.compress)):
        (tmp_path / name).write_bytes(pack(data))
        began = time.process_time()
        with pytest.raises(UserError, match=r"a\.tar") as caught:
            list(open_source(tmp_path / name))
        assert said in str(caught.value) or (name.endswith("gz") and "whole tar" in str(caught.value)), str(caught.value)
        assert time.process_time() - began < 5


def test_a_bomb_is_refused_by_its_ratio(tmp_path):
    size = 300 * 2**20
    with gzip.open(tmp_path / "a.tar.gz", "wb") as file:
        file.write(header("a.bin", size))
        for _ in range(300):
            file.write(bytes(2**20))
    with pytest.raises(UserError, match="claims 314,572,800 bytes, where"):
        list(open_source(tmp_path / "a.tar.gz"))


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_whole_tars_of_every_kind_are_read(tmp_path, pack, form):
    made, long = io.BytesIO(), "d/" * 40 + "ö" * 45
    with tarfile.open(fileobj=made, mode="w", format=form) as tar:
        for name, data in (("a.png", png(1)), ("a.txt", b"a dog"), (f"{long}.png", png(2)), (f"{long}.txt", b"a cat")):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1.5
            if form != tarfile.USTAR_FORMAT or name.startswith("a"):
                tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("l.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        tar.addfile(tarfile.TarInfo("folder/")) if form == tarfile.GNU_FORMAT else None
    name = {bytes: "a.tar", gzip.compress: "a.tar.gz"}.get(pack, "b.tar")
    (tmp_path / name).write_bytes(pack(made.getvalue()))
    samples = list(open_source(tmp_path / name))
    assert [sample.read() for sample in samples] == [png(1), png(2)][: 1 if form == tarfile.USTAR_FORMAT else 2]
    assert samples[0].captions[0][0] == "a dog"


def test_patterns_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(webdataset, "_MOST_SHARDS", 1000)
    for pattern in ("s-{0..999999999999}.tar", "s-{0..9999}{0..9999}{0..9999}.tar"):
        with pytest.raises(UserError, match="more than 1,000 shards"):
            expand(str(tmp_path / pattern))


@pytest.mark.parametrize("count", ["999999999999", "-1", "0", "x", "1" * 200, "", "2"])
def test_shards_of_a_benchmark_that_are_not_there(tmp_path, count):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "nshards.txt").write_text(count)
    (tmp_path / "test" / "0.tar").write_bytes(bytes(1024))
    (tmp_path / "classnames.txt").write_text("cat\ndog\n")
    with pytest.raises(UserError, match=r"nshards\.txt"):
        class_set("cars")(tmp_path)


HUGE = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1152921504606846976,), }" + b" " * 40 + b"\n"


@pytest.mark.parametrize("label", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00v\x00" + HUGE, b"PK\x03\x04"])
def test_classes_of_a_benchmark_that_are_no_numbers(tmp_path, label):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "nshards.txt").write_text("1")
    data = header("a.npy", len(label)) + padded(label) + header("a.png", len(png())) + padded(png())
    (tmp_path / "test" / "0.tar").write_bytes(data)
    (tmp_path / "classnames.txt").write_text("cat\ndog\n")
    with pytest.raises(UserError, match="its class cannot be read"):
        class_set("cars")(tmp_path)
