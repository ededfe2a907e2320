import io
import json
import sys
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from wholegrain.data.record import Caption, Record, Region, caption_id, content_key
from wholegrain.data.shards import ShardWriter
from wholegrain.data.sources import SourceOptions, open_source
from wholegrain.data.sources.webdataset import expand
from wholegrain.errors import UserError
from wholegrain.workflows.commands.prepare import column_roles


def jpeg(colour, size=(8, 6)):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    for colour in ("red", "green", "blue"):
        (tmp_path / "photos" / f"{colour}.jpg").write_bytes(jpeg(colour))
    return tmp_path


def texts(sample):
    return [text for text, _, _ in sample.captions]


def test_csv_rows_of_one_photo_are_its_captions_in_order(photos):
    (photos / "a.csv").write_text(
        'filepath,caption,split\nphotos/red.jpg,"one, two",train\nphotos/red.jpg,three,train\nphotos/blue.jpg,four,test\n'
    )
    first, second = open_source(photos / "a.csv")
    assert texts(first) == ["one, two", "three"]
    assert first.read() == jpeg("red")
    assert (first.split, second.split) == ("train", "test")
    assert first.where.endswith("a.csv, line 2")
    assert second.where.endswith("a.csv, line 4")


@pytest.mark.parametrize("names", ["image\ttitle", "Path\tText", "file_name\tsentence"])
def test_tsv_with_other_names(photos, names):
    (photos / "a.tsv").write_text(f"{names}\nphotos/red.jpg\ta, b\n")
    (sample,) = open_source(photos / "a.tsv")
    assert texts(sample) == ["a, b"]


def test_told_columns_and_roles(photos):
    (photos / "a.csv").write_text("photo,raw,long,kind,part\nphotos/red.jpg,r,l,cup,val\n")
    options = SourceOptions(
        image_column="photo", caption_columns=column_roles("raw=web,long=detail"), label_column="kind", split_column="part"
    )
    (sample,) = open_source(photos / "a.csv", options)
    assert sample.captions == (("r", "web", "a.csv:raw"), ("l", "detail", "a.csv:long"))
    assert (sample.label, sample.split) == ("cup", "val")


def test_a_role_column_is_followed(photos):
    (photos / "a.csv").write_text("image,caption,role\nphotos/red.jpg,x,style\nphotos/red.jpg,y,\n")
    (sample,) = open_source(photos / "a.csv")
    assert [(text, role) for text, role, _ in sample.captions] == [("x", "style"), ("y", "web")]


def test_missing_columns_list_those_there_are(photos):
    (photos / "a.csv").write_text("foto,words\nphotos/red.jpg,x\n")
    with pytest.raises(UserError, match=r"no image column among 'foto', 'words'.*--image-column"):
        open_source(photos / "a.csv")
    with pytest.raises(UserError, match=r"no caption column among 'foto', 'words'"):
        open_source(photos / "a.csv", SourceOptions(image_column="foto"))
    with pytest.raises(UserError, match=r"no column 'photo'; did you mean .foto"):
        open_source(photos / "a.csv", SourceOptions(image_column="photo"))


@pytest.mark.parametrize("name", ["../out.jpg", "photos/../../out.jpg", "link.jpg", "linked/out.jpg"])
def test_no_path_leaves_its_folder(tmp_path, name):
    inside = tmp_path / "in"
    (inside / "photos").mkdir(parents=True)
    (tmp_path / "out.jpg").write_bytes(jpeg("red"))
    (inside / "link.jpg").symlink_to(tmp_path / "out.jpg")
    (inside / "linked").symlink_to(tmp_path)
    (inside / "a.csv").write_text(f"image,caption\n{name},x\n")
    with pytest.raises(UserError, match=r"line 2: the image path .* leaves the folder"):
        list(open_source(inside / "a.csv"))
    (inside / "a.jsonl").write_text(json.dumps({"image": name, "caption": "x"}))
    with pytest.raises(UserError, match="leaves the folder"):
        list(open_source(inside / "a.jsonl"))
    pq.write_table(pa.table({"image": [name], "caption": ["x"]}), inside / "a.parquet")
    with pytest.raises(UserError, match="leaves the folder"):
        list(open_source(inside / "a.parquet"))


def test_image_root_opens_another_folder(photos, tmp_path):
    (photos / "lists").mkdir()
    (photos / "lists" / "a.csv").write_text("image,caption\nred.jpg,x\n")
    (sample,) = open_source(photos / "lists" / "a.csv", SourceOptions(image_root=photos / "photos"))
    assert sample.read() == jpeg("red")


def test_jsonl_with_roles_regions_and_a_broken_line(photos):
    rows = [
        {"image": "photos/red.jpg", "captions": ["a", {"text": "b", "role": "detail"}], "split": "val", "label": "red"},
        {"image": "photos/blue.jpg", "caption": "c", "regions": [{"box": [0, 1, 2, 3], "phrase": "a cup", "mask": [1, 2]}]},
    ]
    (photos / "a.jsonl").write_text("\n".join([json.dumps(rows[0]), "{broken", "", json.dumps(rows[1])]))
    options = SourceOptions(caption_columns=(("captions", ""), ("caption", "")))
    first, broken, second = open_source(photos / "a.jsonl", options)
    assert [(t, r) for t, r, _ in first.captions] == [("a", "web"), ("b", "detail")]
    assert (first.split, first.label) == ("val", "red")
    assert (broken.problem, broken.where[-6:]) == ("the line is not a JSON object", "line 2")
    assert second.regions == (Region((0, 1, 2, 3), "a cup", (1, 2)),)


@pytest.mark.parametrize("region", [{"box": [1, 2, 3], "phrase": "x"}, {"box": [1, 2, 3, 4]}, {"box": "abcd", "phrase": "x"}, 7])
def test_a_region_that_is_none_is_named(photos, region):
    (photos / "a.jsonl").write_text(json.dumps({"image": "photos/red.jpg", "caption": "a", "regions": [region]}))
    with pytest.raises(UserError, match="line 1: regions are not a list"):
        list(open_source(photos / "a.jsonl"))


def test_folder_with_text_files(photos):
    (photos / "photos" / "red.txt").write_text("one\n\ntwo\n")
    (photos / "photos" / "blue.txt").write_text("three")
    blue, green, red = open_source(photos / "photos")
    assert (texts(blue), texts(red)) == (["three"], ["one", "two"])
    assert "green.txt" in green.problem


def test_folder_of_classes_and_splits(tmp_path):
    for name in ("train/red_cup/1.png", "train/blue/2.jpg", "test/blue/3.jpeg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg("red"))
    found = [(sample.split, sample.label, sample.captions[0][:2]) for sample in open_source(tmp_path)]
    assert found == [
        ("test", "blue", ("blue", "label")),
        ("train", "blue", ("blue", "label")),
        ("train", "red_cup", ("red cup", "label")),
    ]


def test_a_folder_that_says_nothing(photos):
    with pytest.raises(UserError, match="says nothing of its images"):
        open_source(photos / "photos")


def tar_of(path, members, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize(("name", "mode"), [("s-{000..001}.tar", "w"), ("s-{000..001}.tar.gz", "w:gz")])
def test_tar_shards(tmp_path, name, mode):
    for n in range(2):
        members = [(f"a/{n}0.jpg", jpeg("red")), (f"a/{n}0.txt", b"red\n"), (f"{n}1.json", b'{"caption": "blue", "url": "u"}')]
        members += [(f"{n}1.txt", b"blue"), (f"{n}1.jpg", jpeg("blue")), (f"{n}2.txt", b"no picture")]
        tar_of(str(tmp_path / name).replace("{000..001}", f"00{n}"), members, mode)
    found = list(open_source(tmp_path / name))
    assert [texts(sample) for sample in found] == [["red"], ["blue"], []] * 2
    assert found[0].read() == jpeg("red")
    assert found[4].read() == jpeg("blue")
    assert found[2].problem == "the sample has no image"


def test_brace_patterns():
    assert [path.name for path in expand("d/x-{08..11}-{a,b}.tar")] == [
        f"x-{n}-{c}.tar" for n in ("08", "09", "10", "11") for c in "ab"
    ]


def test_a_missing_or_cut_shard_is_named(tmp_path):
    tar_of(tmp_path / "s-000.tar", [])
    with pytest.raises(UserError, match=r"s-001\.tar does not exist"):
        open_source(tmp_path / "s-{000..001}.tar")
    tar_of(tmp_path / "cut.tar", [("a.jpg", jpeg("red") * 20), ("a.txt", b"x")])
    data = (tmp_path / "cut.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(data[:700])
    with pytest.raises(UserError, match="not a whole tar"):
        list(open_source(tmp_path / "cut.tar"))


def test_a_prepared_data_set_is_a_source(tmp_path):
    image = jpeg("red")
    key = content_key(image)
    captions = (Caption(caption_id("a"), "a", "detail", "me"), Caption(caption_id("b"), "b", "style"))
    record = Record(key, f"{key}.jpg", (8, 6), "val", "cup", captions, (Region((0, 0, 2, 2), "rim", (1, 3)),))
    with ShardWriter(tmp_path / "d") as writer:
        writer.add(record, image)
    (sample,) = open_source(tmp_path / "d")
    assert [(t, r) for t, r, _ in sample.captions] == [("a", "detail"), ("b", "style")]
    assert (sample.captions[0][2], sample.split, sample.label, sample.regions) == ("me", "val", "cup", record.regions)
    assert sample.read() == image


@pytest.mark.parametrize("kind", ["bytes", "struct", "path"])
def test_parquet(photos, kind):
    column = {
        "bytes": [jpeg("red"), jpeg("blue")],
        "struct": [{"bytes": jpeg("red"), "path": None}, {"bytes": None, "path": "photos/blue.jpg"}],
        "path": ["photos/red.jpg", "photos/blue.jpg"],
    }[kind]
    pq.write_table(pa.table({"image": column, "captions": [["a", "b"], ["c"]], "junk": [1, 2]}), photos / "a.parquet")
    first, second = open_source(photos / "a.parquet")
    assert (texts(first), texts(second)) == (["a", "b"], ["c"])
    assert (first.read(), second.read()) == (jpeg("red"), jpeg("blue"))


def test_hugging_face_folder(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "text": datasets.Value("string"), "label": datasets.ClassLabel(names=["cup", "pot"])}
    )
    rows = {"image": [{"bytes": jpeg("red"), "path": None}], "text": ["a"], "label": [1]}
    table = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": table, "validation": table}).save_to_disk(str(tmp_path / "hf"))
    first, second = open_source(f"hf:{tmp_path / 'hf'}")
    assert (first.split, second.split, first.label) == ("train", "val", "pot")
    assert (first.read(), texts(first)) == (jpeg("red"), ["a"])
    (only,) = open_source(f"hf:{tmp_path / 'hf'}:validation")
    assert only.read() == jpeg("red")
    with pytest.raises(UserError, match="no split 'test'; valid are train, validation"):
        open_source(f"hf:{tmp_path / 'hf'}:test")


def test_hugging_face_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"wholegrain\[hf\]"):
        open_source("hf:anything")


def test_what_is_not_there_or_not_readable(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        open_source(tmp_path / "no.csv")
    (tmp_path / "a.docx").write_text("x")
    with pytest.raises(UserError, match="no kind"):
        open_source(tmp_path / "a.docx")
    (tmp_path / "a.csv").write_bytes(b"image,caption\n\xff\xfe,x\n")
    with pytest.raises(UserError, match="UTF-8"):
        list(open_source(tmp_path / "a.csv"))
    (tmp_path / "b.parquet").write_text("x")
    with pytest.raises(UserError, match="not a parquet"):
        open_source(tmp_path / "b.parquet")
