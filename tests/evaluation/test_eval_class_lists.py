"""Lists of class names for segmentation: sizes, the background's own words, layouts."""

import numpy as np
import pytest
import torch
from colour_model import COLOURS, ColourModel
from PIL import Image

from wholegrain.errors import UserError
from wholegrain.evaluation.dense import class_lists
from wholegrain.evaluation.dense.class_lists import _lists, class_list
from wholegrain.evaluation.dense.folder import ClassSet, Segmented, segmented
from wholegrain.evaluation.dense.run import DenseOptions, dense
from wholegrain.evaluation.dense.segmentation import SegmentationOptions, Windows, labels_of, segmentation

SIZES = {
    "voc20": (20, None), "voc21": (20, 0), "context59": (59, None), "context60": (59, 0), "coco_object": (80, 0), "coco_stuff": (171, None),
    "ade20k": (150, None), "cityscapes": (19, None),
}  # fmt: skip


@pytest.mark.parametrize("name", SIZES)
def test_every_list_has_the_sets_classes(name):
    found = class_list(name)
    count, background = SIZES[name]
    assert set(_lists()) == set(SIZES)
    assert (len(found.classes.names), found.classes.background) == (count, background)
    assert len(set(found.classes.names)) == count
    assert all(words and all(word == word.strip() and "\n" not in word for word in words) for words in found.classes.words)
    assert bool(found.classes.background_words) == (background is not None)
    assert (0 in found.classes.ignore) == (found.classes.ids[0] == 1 and background is None)
    assert found.short in (336, 448, 560)


def test_published_places():
    voc, stuff = class_list("voc21"), class_list("coco_stuff").classes
    assert voc.classes.ids[voc.classes.names.index("person")] == 15
    assert (voc.scale, class_list("context60").scale, class_list("voc20").scale) == (65, 50, 40)
    assert (stuff.ids[0], stuff.names[79], stuff.names[80], stuff.names[170]) == (0, "toothbrush", "banner", "wood")
    assert sum(stuff.things) == 80
    assert class_list("ade20k").classes.names[149] == "flag"
    assert sum(class_list("cityscapes").classes.things) == 8
    with pytest.raises(UserError, match=r"did you mean .voc21"):
        class_list("voc22")


def block(folder, name, ids, masks="masks", ending=""):
    for place in (folder / "images", folder / masks):
        place.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array([(0, 0, 0), *COLOURS.values()], np.uint8)[ids]).save(folder / "images" / f"{name}.png")
    Image.fromarray(ids.astype(np.uint8)).save(folder / masks / f"{name}{ending}.png")


def test_words_of_the_background_win_pixels_for_it(tmp_path):
    ids = np.full((32, 32), 1, np.int64)
    ids[:, 16:] = 3  # blue, which is background here
    block(tmp_path, "a", ids)
    Image.fromarray(np.where(ids == 3, 0, ids).astype(np.uint8)).save(tmp_path / "masks" / "a.png")
    picture = [Segmented("a", tmp_path / "images" / "a.png", tmp_path / "masks" / "a.png")]
    without = ClassSet(("red", "green"), (("red",), ("green",)), (1, 2), (True, True), background=0)
    spoken = ClassSet(without.names, without.words, without.ids, without.things, 0, without.ignore, ("blue sky", "something"))
    options = SegmentationOptions(windows=Windows(short=32), threshold=0.0)
    run = lambda classes: segmentation(ColourModel(), picture, classes, options)[0].metrics  # noqa: E731
    assert run(spoken)["pixel_accuracy"] > 0.9
    assert run(without)["pixel_accuracy"] < 0.6  # without a threshold nothing else makes background


def test_what_is_unlikely_is_background_where_it_has_a_place_of_its_own():
    logits = torch.zeros(3, 4, 4)  # two classes and the background
    assert (labels_of(logits, (4, 4), 1.0, 0.9, background=2) == 2).all()
    assert (labels_of(logits, (4, 4), 1.0, 0.1, background=2) == 0).all()
    assert (labels_of(logits[:2], (4, 4), 1.0, 0.9) == 2).all()


def test_a_list_by_name_reads_its_own_masks(tmp_path, monkeypatch):
    rows = {"names": "red|green|blue", "first": 1, "ignore": [0], "ending": "_labelTrainIds", "short": 32}
    monkeypatch.setattr(class_lists, "_lists", lambda: {"colours": rows})
    rng = np.random.default_rng(0)
    for n in range(3):
        ids = np.repeat(np.repeat(rng.integers(1, 4, (2, 2)), 16, 0), 16, 1)
        block(tmp_path, str(n), np.ones_like(ids), "annotations", "_instanceTrainIds")  # of another set
        block(tmp_path, str(n), ids, "annotations", "_labelTrainIds")
    assert [p.mask.name for p in segmented(tmp_path, "_labelTrainIds")] == [f"{n}_labelTrainIds.png" for n in range(3)]
    results, _ = dense(ColourModel(), tmp_path, DenseOptions(("segmentation",), classes="colours"))
    assert results[0].metrics["pixel_accuracy"] > 0.9
