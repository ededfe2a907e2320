import errno
import io
import json
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
from PIL import Image

from wholegrain.data import scan
from wholegrain.data.dataset import Dataset
from wholegrain.data.prepare import PrepareOptions, prepare
from wholegrain.data.record import content_key
from wholegrain.data.shards import ShardWriter
from wholegrain.data.sources import SourceOptions
from wholegrain.errors import MachineError, UserError

QUIET = PrepareOptions(progress=False)


def image(seed, kind="JPEG"):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (10, 12, 3), dtype=np.uint8)).save(file, kind)
    return file.getvalue()


def make(folder, rows):
    """rows: (name, bytes or None, caption, split)."""
    folder.mkdir(exist_ok=True)
    lines = ["image,caption,split"]
    for name, data, caption, split in rows:
        if data is not None:
            (folder / name).write_bytes(data)
        lines.append(f"{name},{caption},{split}")
    (folder / "a.csv").write_text("\n".join(lines) + "\n")
    return folder / "a.csv"


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_originals_are_kept_and_described(tmp_path):
    source = make(tmp_path / "in", [("a.jpg", image(1), "one", "train"), ("b.jpg", image(2, "PNG"), "two words", "test")])
    manifest = prepare(source, tmp_path / "out", options=QUIET)
    dataset = Dataset(tmp_path / "out")
    assert dataset.manifest == manifest
    (key,) = dataset.keys("train")
    assert (key, dataset.image_bytes(key)) == (content_key(image(1)), image(1))
    record = dataset.record(dataset.keys("test")[0])
    assert record.image.endswith(".png")  # named by what it is, not by what it was called
    assert (record.size, record.captions[0].text, record.captions[0].source) == ((12, 10), "two words", "a.csv:caption")
    assert manifest["splits"] == {"test": {"images": 1, "captions": 1}, "train": {"images": 1, "captions": 1}}
    assert manifest["captions"]["words"] == {"1": 1, "2": 1}
    assert (manifest["captions"]["tokens"]["max"], manifest["captions"]["tokens"]["cut"]) == (4, 0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["index.parquet", "manifest.json", "shards"]


def test_cut_captions_are_counted(tmp_path):
    source = make(tmp_path / "in", [("a.jpg", image(1), "cat " * 76, "train"), ("b.jpg", image(2), "cat " * 75, "train")])
    tokens = prepare(source, tmp_path / "out", options=QUIET)["captions"]["tokens"]
    assert (tokens["measured"], tokens["cut"], tokens["cut_share"]) == (2, 1, 0.5)


def test_equal_images_are_joined_in_a_split_and_kept_out_of_training(tmp_path):
    same, other = image(1), image(2)
    rows = [
        ("a.jpg", same, "one", "train"),
        ("x.jpg", other, "x", "train"),
        ("b.jpg", same, "two", "train"),
        ("c.jpg", same, "one", "train"),
        ("y.jpg", other, "y", "test"),
        ("z.jpg", image(3), "y", "val"),
        ("a.jpg", None, "three", "train"),
    ]
    manifest = prepare(make(tmp_path / "in", rows), tmp_path / "out", options=QUIET)
    dataset = Dataset(tmp_path / "out")
    assert dataset.keys("train") == [content_key(same)]
    assert [c.text for c in dataset.record(content_key(same)).captions] == ["one", "two", "three"]
    assert [c.text for c in dataset.record(content_key(other)).captions] == ["y"]
    found = manifest["duplicates"]
    (inside,) = found["images_inside_splits"]["listed"]
    assert [os.path.basename(p) for p in inside["where"]] == ["a.jpg", "b.jpg", "c.jpg"]
    (across,) = found["images_across_splits"]["listed"]
    assert (across["key"], across["kept"]) == (content_key(other), "test")
    assert across["left_out"][0]["where"].endswith("line 3")
    assert found["captions"]["across_splits"] == 1
    assert found["captions"]["listed"] == [{"text": "y", "images": {"test": 1, "val": 1}}]


def test_rows_of_one_photo_apart_are_no_duplicates(tmp_path):
    rows = [("a.jpg", image(1), "one", "train"), ("b.jpg", image(2), "b", "train"), ("a.jpg", None, "two", "train")]
    manifest = prepare(make(tmp_path / "in", rows), tmp_path / "out", options=QUIET)
    assert manifest["duplicates"]["images_inside_splits"]["count"] == 0
    assert manifest["captions_per_image"] == {"1": 1, "2": 1}


def test_faults_are_listed_and_skipped(tmp_path):
    cut = image(5)[:400]
    rows = [(f"{n}.jpg", image(n), f"c{n}", "train") for n in range(20)]
    rows += [("cut.jpg", cut, "x", "train"), ("no.jpg", None, "x", "train"), ("text.jpg", b"hello", "x", "train")]
    rows += [("silent.jpg", image(77), "  ", "train"), ("0.jpg", None, "", "train")]
    source = make(tmp_path / "in", rows)
    manifest = prepare(source, tmp_path / "out", options=PrepareOptions(max_broken=0.2, progress=False))
    broken = {item["where"].rsplit(" ", 1)[1]: item["reason"] for item in manifest["broken"]["listed"]}
    assert manifest["broken"]["count"] == 3
    assert "truncated" in broken["22"].lower()
    assert "no file" in broken["23"]
    assert "not an image" in broken["24"]
    assert manifest["empty_captions"]["count"] == 2
    assert manifest["images_without_captions"]["listed"][0].endswith("line 25")
    assert manifest["splits"]["train"] == {"images": 20, "captions": 20}


def test_too_many_broken_images_stop_it_and_leave_nothing(tmp_path):
    rows = [(f"{n}.jpg", image(n) if n > 2 else b"junk", "c", "train") for n in range(20)]
    source = make(tmp_path / "in", rows)
    with pytest.raises(
        UserError, match=r"3 of 20 images .* more than the 10% allowed; the first: .*line 2: not an image.*--max-broken"
    ):
        prepare(source, tmp_path / "out", options=QUIET)
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_nothing_usable_stops_it_whatever_is_allowed(tmp_path):
    source = make(tmp_path / "in", [("a.jpg", b"junk", "c", "train")])
    with pytest.raises(UserError, match="no image with a caption"):
        prepare(source, tmp_path / "out", options=PrepareOptions(max_broken=1.0, progress=False))


def test_a_path_that_leaves_stops_it_and_leaves_nothing(tmp_path):
    source = make(tmp_path / "in", [("a.jpg", image(1), "c", "train"), ("../../x.jpg", None, "c", "train")])
    with pytest.raises(UserError, match="leaves the folder"):
        prepare(source, tmp_path / "out", options=QUIET)
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_a_finished_data_set_is_kept(tmp_path):
    source = make(tmp_path / "in", [("a.jpg", image(1), "one", "train")])
    prepare(source, tmp_path / "out", options=QUIET)
    times = [p.stat().st_mtime_ns for p in sorted((tmp_path / "out").rglob("*"))]
    prepare(source, tmp_path / "out", options=QUIET)
    assert [p.stat().st_mtime_ns for p in sorted((tmp_path / "out").rglob("*"))] == times
    other = PrepareOptions(SourceOptions(role="detail"), progress=False)
    with pytest.raises(UserError, match="--overwrite"):
        prepare(source, tmp_path / "out", options=other)
    assert Dataset(tmp_path / "out").manifest["roles"] == {"web": 1}
    prepare(source, tmp_path / "out", options=PrepareOptions(SourceOptions(role="detail"), overwrite=True, progress=False))
    assert Dataset(tmp_path / "out").manifest["roles"] == {"detail": 1}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]


def test_a_folder_of_something_else_is_refused(tmp_path):
    source = make(tmp_path / "in", [("a.jpg", image(1), "one", "train")])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not a prepared data set"):
        prepare(source, tmp_path / "out", options=PrepareOptions(overwrite=True, progress=False))
    assert (tmp_path / "out" / "thesis.tex").exists()


def test_an_unwritable_target(tmp_path):
    source = make(tmp_path / "in", [("a.jpg", image(1), "one", "train")])
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        prepare(source, tmp_path / "file" / "out", options=QUIET)


def test_a_full_disk_stops_it_and_the_same_call_goes_on(tmp_path, monkeypatch):
    source = make(tmp_path / "in", [(f"{n}.jpg", image(n), f"c{n}", "train") for n in range(30)])
    options = PrepareOptions(shard_bytes=10_240, progress=False)
    prepare(source, tmp_path / "whole", options=options)
    real, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MachineError, match="full; free some space"):
        prepare(source, tmp_path / "out", options=options)
    assert not (tmp_path / "out").exists()
    looked = []
    monkeypatch.setattr(scan, "look_at", looked.append)
    prepare(source, tmp_path / "out", options=options)
    assert looked == []  # the scan was not repeated
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_two_at_once_are_refused(tmp_path, monkeypatch):
    source = make(tmp_path / "in", [("a.jpg", image(1), "one", "train")])
    inner = []

    def second(*_):
        with pytest.raises(UserError, match="another command is at work") as caught:
            prepare(source, tmp_path / "out", options=QUIET)
        inner.append(caught)
        return real(*_)

    real = scan.look_at
    monkeypatch.setattr(scan, "look_at", second)
    prepare(source, tmp_path / "out", options=PrepareOptions(workers=1, progress=False))
    assert len(inner) == 1
    assert Dataset(tmp_path / "out").keys("train")


def slowly(source, out, options):
    """What the child does: the same, with time to kill it."""
    look, add = scan.look_at, ShardWriter.add

    def slow_look(sample):
        time.sleep(0.005)
        return look(sample)

    def slow_add(self, record, image):
        time.sleep(0.005)
        add(self, record, image)

    scan.look_at, ShardWriter.add = slow_look, slow_add
    prepare(source, out, options=options)


@pytest.mark.parametrize("marker", ["scan/000002.jsonl", "shards/train-000002.tar"])
def test_a_killed_command_goes_on_and_ends_alike(tmp_path, monkeypatch, marker):
    monkeypatch.setattr(scan, "CHUNK", 16)
    rows = [(f"{n}.jpg", image(n % 70), f"c{n}", ["train", "val"][n % 3 == 0]) for n in range(80)]
    source = make(tmp_path / "in", rows)
    options = PrepareOptions(shard_bytes=20_480, workers=1, progress=False)
    prepare(source, tmp_path / "whole", options=options)
    child = multiprocessing.get_context("fork").Process(target=slowly, args=(source, tmp_path / "out", options))
    child.start()
    work = tmp_path / ".out.unfinished"
    deadline = time.monotonic() + 60
    while not (work / marker).exists() and child.is_alive() and time.monotonic() < deadline:
        time.sleep(0.002)
    child.kill()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert work.exists()
    assert not (tmp_path / "out").exists()
    prepare(source, tmp_path / "out", options=options)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert not work.exists()


def test_an_image_that_changes_meanwhile_is_named(tmp_path, monkeypatch):
    source = make(tmp_path / "in", [("a.jpg", image(1), "one", "train")])
    real = scan.look_at

    def look(sample):
        row = real(sample)
        (tmp_path / "in" / "a.jpg").write_bytes(image(2))
        return row

    monkeypatch.setattr(scan, "look_at", look)
    with pytest.raises(UserError, match="line 2: the image changed"):
        prepare(source, tmp_path / "out", options=QUIET)


def test_a_prepared_set_prepared_again_says_the_same(tmp_path):
    rows = [(f"{n}.jpg", image(n), f"c{n}", ["train", "test"][n % 2]) for n in range(6)]
    prepare(make(tmp_path / "in", rows), tmp_path / "one", options=QUIET)
    prepare(tmp_path / "one", tmp_path / "two", options=QUIET)
    first, second = Dataset(tmp_path / "one"), Dataset(tmp_path / "two")
    assert first.content_hash == second.content_hash
    assert json.loads((tmp_path / "two" / "manifest.json").read_text())["shards"] == first.manifest["shards"]
