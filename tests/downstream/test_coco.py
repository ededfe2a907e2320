"""COCO's and LVIS's annotations: what is read, and what is refused in one sentence."""

import json

import numpy as np
import pytest
from PIL import Image

from wholegrain.downstream.detection.coco import FilePictures, read_annotations
from wholegrain.errors import UserError


def document():
    images = [
        {"id": 7, "file_name": "b.png", "width": 40, "height": 30, "neg_category_ids": [2], "not_exhaustive_category_ids": [1]},
        {"id": 3, "coco_url": "http://images.cocodataset.org/val2017/a.png", "width": 40, "height": 30, "neg_category_ids": []},
    ]
    boxes = [(7, 1, [1, 2, 10, 20], 0), (7, 3, [35, 25, 10, 10], 1), (3, 1, [5, 5, 0, 10], 0), (3, 2, [-3, 0, 8, 9.5], 0)]
    annotations = [{"id": n, "image_id": i, "category_id": c, "bbox": box, "iscrowd": crowd} for n, (i, c, box, crowd) in enumerate(boxes)]
    categories = [{"id": 1, "name": "tennis_racket", "frequency": "f"}, {"id": 2, "name": "cup", "frequency": "r"}, {"id": 3, "name": "hat", "frequency": "c"}]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "val2017").mkdir()
    for name in ("b.png", "val2017/a.png"):
        Image.fromarray(np.full((30, 40, 3), 90, np.uint8)).save(tmp_path / name)
    return tmp_path


def written(folder, value, name="boxes.json"):
    path = folder / name
    path.write_text(json.dumps(value))
    return path


def test_what_is_read(folder):
    path = written(folder, document())
    found = read_annotations(path, folder)
    assert found.names == ("tennis racket", "cup", "hat")
    assert found.rare == {"cup"}
    one, two = found.pictures
    assert (one.key, one.size, one.absent, one.unsure) == ("b.png", (40, 30), ("cup",), ("tennis racket",))
    assert one.boxes == ((1.0, 2.0, 11.0, 22.0), (35.0, 25.0, 40.0, 30.0))  # cut at the edge
    assert (one.names, one.crowd) == (("tennis racket", "hat"), (False, True))
    assert (two.key, two.names, two.boxes, two.absent) == ("val2017/a.png", ("cup",), ((0.0, 0.0, 5.0, 9.5),), ())  # nothing without area
    keys = ["b.png", "val2017/a.png"]
    files = FilePictures(folder, [path], keys)
    assert files.pixels("val2017/a.png").shape == (30, 40, 3)
    other = FilePictures(folder, [written(folder, document() | {"info": {"new": 1}}, "other.json")], keys)
    assert files.content_hash != other.content_hash
    Image.new("RGB", (40, 30), "red").save(folder / "b.png", compress_level=0)
    assert FilePictures(folder, [path], keys).content_hash != files.content_hash


def test_without_lvis_keys_annotations_are_exhaustive(folder):
    value = document()
    for image in value["images"]:
        image.pop("neg_category_ids"), image.pop("not_exhaustive_category_ids", None)
    for category in value["categories"]:
        del category["frequency"]
    found = read_annotations(written(folder, value), folder)
    assert found.rare is None
    assert found.pictures[0].absent is None
    assert found.pictures[0].judged("cup")


def change(*path, to):
    def changed(value):
        spot = value
        for step in path[:-1]:
            spot = spot[step]
        if to is KeyError:
            del spot[path[-1]]
        else:
            spot[path[-1]] = to
        return value

    return changed


BAD = {
    "no categories": (change("categories", to=KeyError), 'has no key "categories"'),
    "a box of three": (change("annotations", 1, "bbox", to=[1, 2, 3]), r"The bbox of annotation 1 of .*boxes.json is \[1.0, 2.0, 3.0\]"),
    "a box of text": (change("annotations", 1, "bbox", to=[1, 2, 3, "4"]), r'at "annotations.1.bbox.3"'),
    "a negative width": (change("annotations", 0, "bbox", to=[1, 2, -3, 4]), "annotation 0 .* width of -3"),
    "an endless box": (change("annotations", 0, "bbox", to=[1, 2, 1e400, 4]), "annotation 0"),
    "an image that is not there": (change("annotations", 2, "image_id", to=99), "The image_id of annotation 2 .* is 99"),
    "a category that is not there": (change("annotations", 2, "category_id", to=99), "The category_id of annotation 2 .* is 99"),
    "a negative that is not there": (change("images", 0, "neg_category_ids", to=[5]), "neg_category_ids of image 7 .* have 5"),
    "two images of one id": (change("images", 1, "id", to=7), "two images of one id"),
    "two names": (change("categories", 1, "name", to="hat"), "name of category 3 .* is 'hat', which is taken"),
    "a way out": (change("images", 0, "file_name", to="../b.png"), r"file_name of image 7 .* is '../b.png'"),
    "no picture": (change("images", 0, "file_name", to="c.png"), "c.png is not there"),
    "no size": (change("images", 0, "width", to=0), "size of image 7 .* is 0 x 30"),
    "a list": (lambda value: [value], "is not a table"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_refused(folder, case):
    damage, said = BAD[case]
    with pytest.raises(UserError, match=said) as caught:
        read_annotations(written(folder, damage(document())), folder)
    assert "boxes.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_none(folder):
    with pytest.raises(UserError, match="does not exist"):
        read_annotations(folder / "no.json", folder)
    (folder / "cut.json").write_text(json.dumps(document())[:100])
    with pytest.raises(UserError, match="is not JSON"):
        read_annotations(folder / "cut.json", folder)
