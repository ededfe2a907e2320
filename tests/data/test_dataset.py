import io
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from wholegrain.data.dataset import Dataset
from wholegrain.data.pictures import decode_rgb
from wholegrain.data.record import Caption, HardPositive, Negative, Record, Twin, caption_id, content_key
from wholegrain.data.shards import ShardWriter
from wholegrain.data.sidecars import SIDECARS, write_sidecar
from wholegrain.errors import UserError


def encoded(picture, kind="PNG", **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def data(tmp_path):
    truth = {}
    with ShardWriter(tmp_path / "d", shard_bytes=8000, manifest={"source": "test"}) as writer:
        for n in range(14):
            pixels = np.random.default_rng(n).integers(0, 256, (12 + n, 16, 3), dtype=np.uint8)
            image = encoded(Image.fromarray(pixels))
            key = content_key(image)
            record = Record(
                key, f"{key}.png", (16, 12 + n), ["train", "test", "extra"][n % 3], None, (Caption(caption_id("x"), "x"),)
            )
            truth[key] = (record, image, pixels)
            writer.add(record, image)
    return tmp_path / "d", truth


def test_everything_comes_back(data):
    folder, truth = data
    dataset = Dataset(folder)
    assert dataset.splits == ("train", "test", "extra")
    assert len(dataset) == len(truth)
    assert {key for split in dataset.splits for key in dataset.keys(split)} == set(truth)
    for key, (record, image, pixels) in truth.items():
        assert dataset.record(key) == record
        assert dataset.image_bytes(key) == image
        np.testing.assert_array_equal(dataset.pixels(key), pixels)
    assert [record.key for record in dataset.records("test")] == dataset.keys("test")


def test_keys_are_in_the_order_of_the_shards(data):
    folder, truth = data
    added = [key for key, (record, _, _) in truth.items() if record.split == "train"]
    assert Dataset(folder).keys("train") == added


def test_what_is_not_there(data, tmp_path):
    dataset = Dataset(data[0])
    with pytest.raises(KeyError):
        dataset.record("0" * 20)
    assert "0" * 20 not in dataset
    with pytest.raises(UserError, match=r"no split 'dev'; valid are extra, test, train"):
        dataset.keys("dev")
    for folder, words in ((tmp_path, "is not a prepared"), (tmp_path / "no", "does not exist")):
        with pytest.raises(UserError, match=f"{words}.*wholegrain prepare"):
            Dataset(folder)
    (data[0] / "manifest.json").write_text('{"schema": 99}')
    with pytest.raises(UserError, match="schema"):
        Dataset(data[0])


class Pictures:
    def __init__(self, dataset):
        self.dataset, self.keys = dataset, dataset.keys("train")

    def __len__(self):
        return len(self.keys)

    def __getitem__(self, place):
        return self.keys[place], int(self.dataset.pixels(self.keys[place]).sum())


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_loader_workers_read_the_same(data, context):
    folder, truth = data
    dataset = Dataset(folder)
    dataset.pixels(dataset.keys("train")[0])  # descriptors are open before the workers start
    loader = DataLoader(
        Pictures(dataset), batch_size=None, num_workers=1 if context == "spawn" else 2, multiprocessing_context=context
    )
    assert dict(loader) == {key: int(truth[key][2].sum()) for key in dataset.keys("train")}


def test_threads_and_pickles_read_the_same(data):
    folder, truth = data
    dataset = pickle.loads(pickle.dumps(Dataset(folder)))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(dataset.image_bytes, list(truth) * 20)) == [truth[key][1] for key in list(truth) * 20]


def test_more_shards_than_descriptors(data, monkeypatch):
    monkeypatch.setattr("wholegrain.data.dataset._MOST_OPEN", 1)
    folder, truth = data
    dataset = Dataset(folder)
    assert all(dataset.image_bytes(key) == image for key, (_, image, _) in truth.items())
    assert len(dataset._descriptors) == 1


def test_sidecars_come_back_and_are_empty_without_a_file(data):
    folder, truth = data
    empty = Dataset(folder)
    assert (dict(empty.negatives), empty.twins, empty.hard_positives, empty.truths) == ({}, (), (), {})
    a, b = list(truth)[:2]
    c = caption_id("x")
    rows = [
        Negative(a, c, "swap", "y", ((0, 1, "x", "y"),), "rules"),
        Negative(b, c, "swap", "z"),
        Negative(a, c, "add", "xx", ((0, 1, "x", "xx"), (1, 1, "", "!")), "rules"),
    ]
    twin, positive = Twin("t1", "count", (a, b), ("one", "two"), "test_crowded"), HardPositive("h1", "left", a, ("p", "q"), "n")
    assert write_sidecar(folder, "negatives", iter(rows)) == 3
    write_sidecar(folder, "twins", [twin])
    write_sidecar(folder, "hard_positives", [positive])
    write_sidecar(folder, "truths", [(c, a), (c, b)])
    dataset = Dataset(folder)
    assert dataset.negatives[a, c] == (rows[0], rows[2])
    assert dataset.negatives.get((b, c)) == (rows[1],)
    assert set(dataset.negatives) == {(a, c), (b, c)}
    assert (a, "no") not in dataset.negatives
    assert (dataset.twins, dataset.hard_positives, dataset.truths) == ((twin,), (positive,), {c: (a, b)})


def test_sidecars_keep_their_types_and_fail_whole(data):
    folder, _ = data
    write_sidecar(folder, "negatives", [])
    before = (folder / "negatives.parquet").read_bytes()
    assert pq.read_schema(folder / "negatives.parquet").equals(SIDECARS["negatives"])

    def rows():
        yield Negative("a", "b", "c", "d")
        raise RuntimeError("half-way")

    with pytest.raises(RuntimeError):
        write_sidecar(folder, "negatives", rows())
    assert (folder / "negatives.parquet").read_bytes() == before
    assert not list(folder.glob("*.part"))
    with pytest.raises(UserError, match="no sidecar 'positives'"):
        write_sidecar(folder, "positives", [])


def test_the_content_hash_follows_content_not_place(data, tmp_path):
    folder, _ = data
    first = Dataset(folder).content_hash
    folder.rename(tmp_path / "elsewhere")
    assert Dataset(tmp_path / "elsewhere").content_hash == first
    write_sidecar(tmp_path / "elsewhere", "truths", [("c", "k")])
    assert Dataset(tmp_path / "elsewhere").content_hash != first


def test_odd_images_become_rgb():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    grey = np.repeat(ramp[:, :, None], 3, axis=2)
    sixteen = Image.fromarray((ramp.astype(np.uint16) << 8) | 77)
    colours = Image.fromarray(np.dstack([ramp, ramp[::-1], ramp.T]))
    cmyk = colours.convert("CMYK")
    for image in (
        encoded(Image.fromarray(ramp)),
        encoded(sixteen),
        encoded(Image.fromarray(ramp).convert("LA")),
        encoded(sixteen, "TIFF"),
    ):
        np.testing.assert_array_equal(decode_rgb(image), grey)
    palette = colours.convert("P")
    np.testing.assert_array_equal(decode_rgb(encoded(palette)), np.asarray(palette.convert("RGB")))
    for picture in (Image.fromarray(ramp), colours, cmyk):
        image = encoded(picture, "JPEG", quality=95)
        np.testing.assert_array_equal(decode_rgb(image), np.asarray(Image.open(io.BytesIO(image)).convert("RGB")))


@pytest.mark.parametrize("image", [b"", b"\xff\xd8\xff", b"hello", b"GIF89a"])
def test_what_is_no_image_is_a_value_error(image):
    with pytest.raises(ValueError, match=r"\w"):
        decode_rgb(image)


def test_truncated_images_are_found():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    for kind in ("JPEG", "PNG"):
        image = encoded(Image.fromarray(pixels), kind)
        with pytest.raises(ValueError, match="trunc"):
            decode_rgb(image[: len(image) // 2])
