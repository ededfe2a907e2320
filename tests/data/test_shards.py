import errno
import io
import json
import tarfile

import pyarrow.parquet as pq
import pytest

from wholegrain.data.dataset import Dataset
from wholegrain.data.record import Caption, Record, Region, caption_id, content_key
from wholegrain.data.record_json import record_from_json, record_to_json
from wholegrain.data.shards import ShardWriter, read_member
from wholegrain.errors import MachineError, UserError


def record_and_bytes(number, split="train", text=None):
    image = b"picture %d " % number * (20 + number)
    text = text or f"caption {number} ä"
    key = content_key(image)
    captions = (Caption(caption_id(text), text, "detail", "me"), Caption(caption_id("two"), "two"))
    regions = (Region((0.5, 1.0, 3.0, 4.25), "a cup", (3, 2, 7)), Region((0, 0, 1, 1), "a spoon")) if number % 2 else ()
    return Record(key, f"{key}.bin", (number + 1, 7), split, "cup" if number % 3 else None, captions, regions), image


def write(folder, pairs, **options):
    with ShardWriter(folder, **options) as writer:
        for record, image in pairs:
            writer.add(record, image)


PAIRS = [record_and_bytes(n, "train" if n % 3 else "test") for n in range(12)]


def test_records_survive_json():
    for record, _ in PAIRS:
        assert record_from_json(json.loads(json.dumps(record_to_json(record)))) == record
    with pytest.raises(UserError, match="schema is 99"):
        record_from_json({**record_to_json(PAIRS[0][0]), "schema": 99})


def test_index_points_at_every_member_and_tar_reads_the_same(tmp_path):
    write(tmp_path / "d", PAIRS, shard_bytes=6000)
    rows = pq.read_table(tmp_path / "d" / "index.parquet").to_pylist()
    assert len(rows) == len(PAIRS)
    assert len({row["shard"] for row in rows}) > 3
    images = {record.key: image for record, image in PAIRS}
    for row in rows:
        shard = tmp_path / "d" / "shards" / row["shard"]
        assert read_member(shard, row["image_offset"], row["image_bytes"]) == images[row["key"]]
        record = record_from_json(json.loads(read_member(shard, row["json_offset"], row["json_bytes"])))
        assert (record.key, record.split, record.size) == (row["key"], row["split"], (row["width"], row["height"]))
        with tarfile.open(shard) as tar:
            assert tar.extractfile(record.image).read() == images[row["key"]]
            assert all((m.mtime, m.uid, m.gid, m.uname) == (0, 0, 0, "") for m in tar.getmembers())
    for shard in (tmp_path / "d" / "shards").iterdir():
        assert shard.stat().st_size % tarfile.RECORDSIZE == 0


def test_the_same_records_give_the_same_bytes(tmp_path):
    for name in "ab":
        write(tmp_path / name, PAIRS, shard_bytes=6000, manifest={"source": "me"})
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) > 5
    for path in files:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()


def test_manifest_counts(tmp_path):
    write(tmp_path / "d", PAIRS, manifest={"source": "me"})
    manifest = json.loads((tmp_path / "d" / "manifest.json").read_text())
    assert manifest["splits"] == {"test": {"images": 4, "captions": 8}, "train": {"images": 8, "captions": 16}}
    assert manifest["captions_per_image"] == {"2": 12}
    assert manifest["roles"] == {"detail": 12, "web": 12}
    assert manifest["source"] == "me"


def test_a_writer_that_was_cut_short_goes_on_and_ends_alike(tmp_path):
    write(tmp_path / "whole", PAIRS, shard_bytes=6000)
    broken = ShardWriter(tmp_path / "cut", shard_bytes=6000)
    for record, image in PAIRS[:8]:
        broken.add(record, image)
    del broken  # no close: as after a kill
    writer = ShardWriter(tmp_path / "cut", shard_bytes=6000, resume=True)
    assert 0 < sum(writer.done.values()) < 8
    left = writer.done.copy()
    for record, image in PAIRS:
        left[record.split] -= 1
        if left[record.split] < 0:
            writer.add(record, image)
    writer.close()
    whole = {p.name: p.read_bytes() for p in (tmp_path / "whole").rglob("*") if p.is_file()}
    assert {p.name: p.read_bytes() for p in (tmp_path / "cut").rglob("*") if p.is_file()} == whole


def test_a_key_comes_once(tmp_path):
    with pytest.raises(ValueError, match="added twice"):
        write(tmp_path / "d", [PAIRS[0], PAIRS[0]])
    assert not (tmp_path / "d" / "manifest.json").exists()
    assert not list((tmp_path / "d").rglob("*.part"))


def test_a_split_name_must_fit_into_a_file_name(tmp_path):
    with pytest.raises(UserError, match="file name"):
        write(tmp_path / "d", [record_and_bytes(1, "../up")])
    assert not (tmp_path / "up-000000.tar").exists()


def test_a_finished_data_set_is_not_written_over(tmp_path):
    write(tmp_path / "d", PAIRS)
    with pytest.raises(UserError, match="holds a data set already"):
        ShardWriter(tmp_path / "d")


def test_a_full_disk_is_said_and_leaves_nothing_that_looks_finished(tmp_path, monkeypatch):
    writer = ShardWriter(tmp_path / "d")
    writer.add(*PAIRS[0])

    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer._open["test"], "file", Full())
    with pytest.raises(MachineError, match=r"disk .* full"), writer:
        writer.add(*PAIRS[3])
    assert not list((tmp_path / "d").rglob("*.tar*"))
    with pytest.raises(UserError, match="wholegrain prepare"):
        Dataset(tmp_path / "d")


def test_a_short_file_is_named(tmp_path):
    (tmp_path / "x").write_bytes(b"12345")
    with pytest.raises(UserError, match="cut short"):
        read_member(tmp_path / "x", 3, 10)
