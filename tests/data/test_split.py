"""Which split a photo is in, where nothing states one."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

from wholegrain.cli.inspect import print_manifest
from wholegrain.cli.prepare import PrepareArguments
from wholegrain.cli.prepare import prepare as prepare_command
from wholegrain.data import prepare as preparing
from wholegrain.data.dataset import Dataset
from wholegrain.data.prepare import PrepareOptions, prepare
from wholegrain.data.sources import SourceOptions
from wholegrain.data.split import shares_of, split_by_key
from wholegrain.errors import UserError
from wholegrain.workflows.audit import open_photos


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    tokenizer = preparing.clip_tokenizer()
    monkeypatch.setattr(preparing, "clip_tokenizer", lambda: tokenizer)


def png(seed):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def table(folder, numbers, columns="image,caption"):
    folder.mkdir(parents=True)
    for number in numbers:
        (folder / f"{number}.png").write_bytes(png(number))
    lines = [f"{n}.png,caption {n}" + (",train" if "split" in columns else "") for n in numbers]
    (folder / "a.csv").write_text("\n".join([columns, *lines]) + "\n")
    return folder / "a.csv"


def made(source, out, split_by="", **told):
    prepare(source, out, options=PrepareOptions(SourceOptions(**told), split_by, progress=False))
    dataset = Dataset(out)
    return {key: split for split in dataset.splits for key in dataset.keys(split)}


def sizes(found):
    return [list(found.values()).count(split) for split in ("train", "val", "test")]


def test_shares_are_kept_whatever_the_order_and_a_photo_stays_where_it_is():
    number_N = np.random.default_rng(0).integers(1, 2**64, 20_000, dtype=np.uint64)
    key_N = [f"{number:016x}" for number in number_N.tolist()]
    split = split_by_key(number_N)
    of = {key: split.of(key, "") for key in key_N}
    assert [round(list(of.values()).count(name) / 20_000, 2) for name in ("train", "val", "test")] == [0.9, 0.05, 0.05]
    shuffled = split_by_key(np.random.default_rng(1).permutation(np.concatenate([number_N, number_N[:500]])))
    fewer = split_by_key(number_N[:10_000])
    assert all(shuffled.of(key, "") == of[key] for key in key_N)
    assert all(fewer.of(key, "") == of[key] for key in key_N[:10_000])
    assert split.of(key_N[0], "dev") == "dev"


@pytest.mark.parametrize("count", [*range(13), 20, 40])
@pytest.mark.parametrize("told", ["90/5/5", "80/10/10", "1/1/1", "90/10/0", "90/0/10", "1/0/0", "none"])
def test_no_part_of_a_small_set_is_empty(count, told):
    shares = shares_of(told)
    for seed in range(5):
        number_N = np.random.default_rng(seed).integers(1, 2**64, count, dtype=np.uint64)
        split = split_by_key(number_N, told)
        found = [split.of(f"{number:016x}", "") for number in number_N.tolist()]
        parts = {name for name, share in zip(("train", "val", "test"), shares, strict=True) if share}
        assert set(found) == (parts if count >= len(parts) else {"train"} if count else set())
        if count >= 10:  # retrieval needs something to choose from
            assert min(found.count(part) for part in parts) >= 2


@pytest.mark.parametrize("told", ["", "90", "90/5", "90/5/5/1", "a/b/c", "-1/1/1", "0/1/1", "nan/1/1", "inf/1/1", "part", "90/5/"])
def test_other_words_are_no_shares(told):
    with pytest.raises(UserError, match=r"--split-by .* such as 90/5/5"):
        shares_of(told)


def test_a_table_without_splits_has_all_three(tmp_path):
    found = made(table(tmp_path / "in", range(12)), tmp_path / "out")
    assert min(sizes(found)) >= 1
    assert sum(sizes(found)) == 12
    assert made(table(tmp_path / "other", range(11, -1, -1)), tmp_path / "again") == found  # another order
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["split_by"] == "90/5/5 train/val/test by the hash of each photo"
    said = io.StringIO()
    print_manifest(manifest, Console(file=said, width=200))
    assert "splits: 90/5/5 train/val/test by the hash of each photo" in said.getvalue()


def test_copies_of_a_photo_stay_together(tmp_path):
    source = table(tmp_path / "in", range(9))
    for number in range(9):
        (tmp_path / "in" / f"copy{number}.png").write_bytes(png(number))
    with source.open("a") as file:
        file.writelines(f"copy{number}.png,another {number}\n" for number in range(9))
    assert sizes(made(source, tmp_path / "out")) == sizes(made(table(tmp_path / "one", range(9)), tmp_path / "two"))
    assert Dataset(tmp_path / "out").manifest["duplicates"]["images_across_splits"]["count"] == 0


def test_other_shares_none_and_one_name_for_all(tmp_path):
    source = table(tmp_path / "in", range(12))
    assert sizes(made(source, tmp_path / "a", "none")) == [12, 0, 0]
    assert sizes(made(source, tmp_path / "b", "50/50/0"))[2] == 0
    assert min(sizes(made(source, tmp_path / "b2", "40/30/30"))) >= 1
    assert set(made(source, tmp_path / "c", split="dev").values()) == {"dev"}
    assert Dataset(tmp_path / "a").manifest["split_by"] == "all train, as told"
    assert Dataset(tmp_path / "c").manifest["split_by"] == "--split dev"


def test_stated_splits_are_kept_and_shares_beside_them_refused(tmp_path):
    source = table(tmp_path / "in", range(6), "image,caption,split")
    assert sizes(made(source, tmp_path / "out")) == [6, 0, 0]
    assert Dataset(tmp_path / "out").manifest["split_by"] == "as the source states"
    with pytest.raises(UserError, match="this one has train; leave it out"):
        made(source, tmp_path / "other", "80/10/10")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    with pytest.raises(UserError, match="not both"):
        prepare_command(PrepareArguments(source=str(source), out=tmp_path / "x", split="dev", split_by="none"))


def test_every_kind_of_source(tmp_path):
    for number in range(6):
        for folder in ("classes/cat", "stated/train/cat", "stated/test/cat"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / f"{number}.png").write_bytes(png(number + 10 * len(folder)))
    pq.write_table(pa.table({"image": [png(n) for n in range(6)], "caption": ["x"] * 6}), tmp_path / "a.parquet")
    assert min(sizes(made(tmp_path / "classes", tmp_path / "1"))) >= 1
    assert sizes(made(tmp_path / "stated", tmp_path / "2")) == [6, 0, 6]
    assert min(sizes(made(tmp_path / "a.parquet", tmp_path / "3"))) >= 1
    assert sizes(made(tmp_path / "2", tmp_path / "4")) == [6, 0, 6]  # prepared data state theirs


def test_hugging_face_data_of_one_nameless_table(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = {"image": [{"bytes": png(n), "path": None} for n in range(6)], "caption": ["x"] * 6}
    features = datasets.Features({"image": datasets.Image(decode=False), "caption": datasets.Value("string")})
    data = datasets.Dataset.from_dict(rows, features=features)
    data.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": data}).save_to_disk(tmp_path / "train")
    datasets.DatasetDict({"train": data, "validation": data.select([0])}).save_to_disk(tmp_path / "two")
    assert min(sizes(made(f"hf:{tmp_path / 'one'}", tmp_path / "a"))) >= 1
    assert min(sizes(made(f"hf:{tmp_path / 'train'}", tmp_path / "b"))) >= 1
    assert sizes(made(f"hf:{tmp_path / 'train'}:train", tmp_path / "c")) == [6, 0, 0]
    assert sizes(made(f"hf:{tmp_path / 'two'}", tmp_path / "d")) == [5, 1, 0]


def test_an_audit_asks_about_all_photos(tmp_path):
    assert open_photos(table(tmp_path / "in", range(5)), tmp_path / "audit").splits == ("train",)
