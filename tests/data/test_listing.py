"""Pictures without captions: what is found, what is passed over and said, and what is refused."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from wholegrain.data.dataset import Dataset
from wholegrain.data.listing import list_pictures
from wholegrain.data.prepare import prepare
from wholegrain.errors import UserError


def photo(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 8, 3), value, np.uint8)).save(path)
    return path


@pytest.fixture
def album(tmp_path):
    """Pictures at two depths, with spaces and umlauts, among what is none."""
    folder = tmp_path / "my album"
    photo(folder / "b.png", 1)
    photo(folder / "Ägypten 2019" / "am Nil.JPG", 2)
    photo(folder / ".hidden" / "c.png", 3)
    photo(folder / ".d.png", 4)
    for name in ("notes.txt", "raw.CR2", "x.heic", "y.heic", "README"):
        (folder / name).write_text("no picture")
    return folder


def test_a_folder_gives_its_pictures_at_any_depth_and_counts_what_is_none(album):
    found = list_pictures(album)
    assert [picture.name for picture in found.pictures] == ["b.png", "Ägypten 2019/am Nil.JPG"]
    assert found.pictures[1].pixels().shape == (6, 8, 3)
    assert found.pictures[0].pixels()[0, 0, 0] == 1
    assert found.passed_over == {".txt": 1, ".cr2": 1, ".heic": 2, "": 1}
    assert found.passed_over_line.startswith("5 files that are no pictures of a known kind were passed over (2 .heic, ")


def test_size_and_time_are_those_of_the_file(album):
    picture = list_pictures(album).pictures[0]
    stat = (album / "b.png").stat()
    assert (picture.size, picture.changed) == (stat.st_size, stat.st_mtime_ns)


def test_names_may_have_any_bytes(tmp_path):
    odd = os.fsencode(tmp_path) + b"/\xff\xfe \n.png"
    try:
        os.link(photo(tmp_path / "a.png", 7), odd)
    except OSError:
        pytest.skip("the file system wants text for names")
    found = list_pictures(tmp_path)
    assert len(found) == 2
    assert os.fsencode(next(picture.name for picture in found.pictures if picture.name != "a.png")) == b"\xff\xfe \n.png"
    assert all(picture.pixels()[0, 0, 0] == 7 for picture in found.pictures)


def test_a_link_to_nowhere_is_a_problem_and_a_link_to_a_folder_is_not_followed(album):
    (album / "gone.png").symlink_to("nowhere.png")
    (album / "round").symlink_to(album)
    found = list_pictures(album)
    assert len(found) == 2
    assert found.problems == (("gone.png", "does not exist"),)


def test_a_table_needs_no_captions_and_names_a_picture_once(album):
    table = album / "list.csv"
    table.write_text("filepath\nb.png\nÄgypten 2019/am Nil.JPG\nb.png\nmissing.png\n", encoding="utf-8")
    found = list_pictures(table)
    assert [picture.name for picture in found.pictures] == ["b.png", "Ägypten 2019/am Nil.JPG"]
    assert found.pictures[0] == list_pictures(album).pictures[0]
    assert found.problems == (("missing.png", "does not exist"),)


def test_a_prepared_data_set_gives_its_keys(tmp_path):
    folder = tmp_path / "classes"
    for n in range(4):
        photo(folder / "cup" / f"{n}.png", n)
    prepare(folder, tmp_path / "data")
    found, dataset = list_pictures(tmp_path / "data"), Dataset(tmp_path / "data")
    assert {picture.name for picture in found.pictures} == {key for split in dataset.splits for key in dataset.keys(split)}
    assert all((picture.pixels() == dataset.pixels(picture.name)).all() for picture in found.pictures)


def test_one_picture_is_a_listing_of_one(album):
    assert [picture.name for picture in list_pictures(album / "b.png").pictures] == [str(album / "b.png")]


def test_a_broken_picture_is_listed_and_says_why_when_it_is_read(album):
    (album / "broken.jpg").write_bytes(b"no picture")
    picture = next(picture for picture in list_pictures(album).pictures if picture.name == "broken.jpg")
    with pytest.raises(UserError, match=r"broken.jpg cannot be decoded \(not an image of a known kind"):
        picture.pixels()


def test_where_there_is_no_picture_one_sentence_says_so(album, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty holds no pictures .* it is empty; give another folder"):
        list_pictures(tmp_path / "empty")
    for name in ("b.png", "Ägypten 2019"):
        shutil.rmtree(album / name) if (album / name).is_dir() else (album / name).unlink()
    with pytest.raises(UserError, match=r"holds no pictures .* 5 files .* \(2 .heic, "):
        list_pictures(album)
    for wrong, said in (("nowhere", "does not exist"), ("nowhere.png", "does not exist"), (album / "raw.CR2", "of no kind")):
        with pytest.raises(UserError, match=said):
            list_pictures(wrong)
