"""Segmentation, boxes and pointing: a model that reads colours is an oracle on coloured pictures."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from colour_model import COLOURS, ColourModel
from eval_fakes import Worded, vector
from open_clip.transformer import VisionTransformer
from PIL import Image

from wholegrain.data.preprocess import Preprocess
from wholegrain.errors import UserError
from wholegrain.evaluation.dense.boxes import box_classification, pointing
from wholegrain.evaluation.dense.correlative import attend, correlative
from wholegrain.evaluation.dense.folder import boxed, class_set, segmented
from wholegrain.evaluation.dense.maps import AskedNames
from wholegrain.evaluation.dense.pixel_counts import mean_iou
from wholegrain.evaluation.dense.run import DenseOptions, dense
from wholegrain.evaluation.dense.segmentation import SegmentationOptions, Windows, labels_of, segmentation
from wholegrain.evaluation.dense.sparc_segmentation import sparc_segmentation
from wholegrain.evaluation.read_outs.registry import read_outs_named
from wholegrain.evaluation.result import NotSupportedError
from wholegrain.evaluation.tasks.templates import templates_of
from wholegrain.features import ImageFeatures
from wholegrain.text.tokenizer import ClipTokenizer
from wholegrain.towers.heads.base import PlainHead, Widths
from wholegrain.towers.model import Model
from wholegrain.towers.sources.open_clip import OpenClipImageTower
from wholegrain.towers.sources.small import SmallConfig, small_text_tower
from wholegrain.towers.sources.timm import timm_tower


@pytest.fixture
def folder(tmp_path):
    """Six pictures of three coloured blocks; id 0 is unlabelled; boxes are the blocks."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    rng, boxes = np.random.default_rng(0), {}
    for n in range(6):
        ids = np.full((48, 64), 1 + n % 3, np.uint8)
        here = [(8 * rng.integers(0, 3), 8 * rng.integers(0, 3), 1 + (n + 1) % 3), (40, 24, 1 + (n + 2) % 3)]
        objects = []
        for x, y, value in here:
            ids[y : y + 16, x : x + 16] = value
            objects.append({"class": list(COLOURS)[value - 1], "box": [float(x), float(y), x + 16.0, y + 16.0]})
        Image.fromarray(np.array([(0, 0, 0), *COLOURS.values()], np.uint8)[ids]).save(tmp_path / "images" / f"{n}.png")
        ids[:2] = 0
        Image.fromarray(ids).save(tmp_path / "masks" / f"{n}.png")
        boxes[f"images/{n}.png"] = {"objects": objects}
    names = {"0": {"name": "unlabeled"}, **{str(n): {"name": c, "isthing": True} for n, c in enumerate(COLOURS, 1)}}
    (tmp_path / "classes.json").write_text(json.dumps(names))
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    return tmp_path


def test_an_oracle_segments_and_another_pictures_map_does_not(folder):
    (found,) = segmentation(ColourModel(), segmented(folder), class_set(folder), SegmentationOptions(windows=Windows(short=48)))
    miou, right = found.figure("miou"), found.figure("pixel_accuracy")
    assert miou.value > 0.8
    assert miou.low <= miou.value <= miou.high
    assert miou.shuffled < 0.6
    assert miou.chance == pytest.approx(0.2, abs=0.03)  # a third of the pixels each: 1/9 / (1/3 + 1/3 - 1/9)
    assert right.chance == pytest.approx(1 / 3)
    assert {f.name for f in found.figures} >= {"red/iou", "green/iou", "blue/iou", "majority_miou"}


def test_a_constant_model_scores_as_one_class_everywhere(folder):
    (found,) = segmentation(ColourModel(blind=True), segmented(folder), class_set(folder))
    true = np.concatenate([p.labels().ravel() for p in segmented(folder)])
    assert found.metrics["pixel_accuracy"] == pytest.approx((true == 1).sum() / (true > 0).sum())  # the first class
    assert found.metrics["miou"] == pytest.approx(found.metrics["pixel_accuracy"] / 3)
    assert found.figure("miou").shuffled == pytest.approx(found.metrics["miou"])


def test_figures_follow_from_the_counts_that_are_kept(folder):
    (found,) = segmentation(ColourModel(), segmented(folder), class_set(folder))
    hit, true, pred = (np.array(found.items[name].to_pylist()).sum(0) for name in ("hit", "true", "found"))
    assert found.metrics["miou"] == pytest.approx(np.mean([h / (t + p - h) for h, t, p in zip(hit, true, pred, strict=True)]))
    assert found.metrics["pixel_accuracy"] == pytest.approx(hit.sum() / true.sum())


def test_mean_iou_against_label_maps():
    rng = np.random.default_rng(1)
    true, pred = rng.integers(0, 4, 500), rng.integers(0, 5, 500)
    each = [np.sum((true == c) & (pred == c)) / np.sum((true == c) | (pred == c)) for c in range(4)]
    counts = [np.bincount(x, minlength=5)[None] for x in (true[true == pred], true, pred)]
    assert mean_iou(*counts)[0] == pytest.approx(np.mean(each))  # class 4 is never true, so it has no share in the mean


def test_windows_cover_every_pixel_and_stay_inside():
    for length in (32, 33, 47, 48, 100):
        starts = Windows(stride=16).starts(length, 32)
        assert starts[0] == 0
        assert starts[-1] == length - 32
        assert all(b - a <= 16 for a, b in itertools.pairwise(starts))
    assert Windows().resized(640, 480, 224) == (448, 336)
    assert Windows(longest=400).resized(4000, 400, 32)[0] == 400


def test_background_is_where_no_class_is_likely(folder):
    names = {"0": {"name": "background"}, "1": {"name": "red"}, "2": {"name": "green"}}
    (folder / "classes.json").write_text(json.dumps(names))
    classes = class_set(folder)
    assert classes.background == 0
    logits = torch.tensor([[[1.0, 0.0]], [[0.0, 0.0]]])
    assert labels_of(logits, (1, 2), 10.0, 0.6).tolist() == [[0, 2]]
    assert labels_of(logits, (1, 2), 10.0, None).tolist() == [[0, 0]]


def test_classes_a_few_at_a_time_give_the_same_labels():
    logits = torch.randn(7, 5, 6, generator=torch.Generator().manual_seed(0))
    assert (labels_of(logits, (20, 31), 5.0, 0.3, step=2) == labels_of(logits, (20, 31), 5.0, 0.3, step=99)).all()


def test_a_class_takes_the_best_of_its_words(folder):
    names = {"1": {"name": "warm", "plain": "nothing, red"}, "2": "green", "3": "blue"}
    (folder / "classes.json").write_text(json.dumps(names))
    assert (
        segmentation(ColourModel(), segmented(folder), class_set(folder), SegmentationOptions(windows=Windows(short=48)))[0]
        .figure("warm/iou")
        .value
        > 0.7
    )


def test_sparcs_protocol(folder):
    found = sparc_segmentation(ColourModel(), segmented(folder), class_set(folder))
    blind = sparc_segmentation(ColourModel(blind=True), segmented(folder), class_set(folder))
    assert found.metrics["miou"] > 0.7
    assert found.figure("miou").shuffled < found.metrics["miou"] - 0.2
    assert found.metrics["miou_present"] >= found.metrics["miou"] - 1e-9
    assert blind.metrics["miou"] < 0.35


class TwoWays(ColourModel):
    """Patches mean something only where they go the way of the whole image."""

    def encode_images(self, pixels_BCHW, needs=frozenset()):
        return ColourModel(blind=True).encode_images(pixels_BCHW, needs)

    def encode_patches_as_images(self, pixels_BCHW):
        return ColourModel().encode_images(pixels_BCHW, frozenset({"patches"}))


def test_sparcs_protocol_reads_patches_through_the_layer_of_whole_images(folder):
    paper, plain = dense(TwoWays(), folder, DenseOptions(tasks=("sparc_segmentation", "sparc_segmentation_plain")))[0]
    assert (paper.task, plain.task) == ("sparc_segmentation", "sparc_segmentation_plain")
    assert paper.metrics["miou"] > 0.7
    assert plain.metrics["miou"] < 0.35
    assert "through h_v" in paper.protocol
    assert "without h_v" in plain.protocol


def test_boxes_by_both_read_outs(folder):
    found = box_classification(ColourModel(), boxed(folder))
    assert found.metrics["crop/acc1"] == found.metrics["crop/mean_per_class_acc1"] == 1.0
    assert found.metrics["pooled/acc1"] > 0.9
    assert found.figure("crop/acc1").chance == pytest.approx(1 / 3)
    assert found.metrics["crop/acc5"] == found.figure("crop/acc5").chance == 1.0
    blind = box_classification(ColourModel(blind=True), boxed(folder))
    assert blind.metrics["crop/acc1_expected"] == pytest.approx(1 / 3)


def test_pointing_finds_the_box_and_a_constant_map_has_the_areas_chance(folder):
    found, blind = pointing(ColourModel(), boxed(folder))[0], pointing(ColourModel(blind=True), boxed(folder))[0]
    assert found.metrics["hit"] == 1.0
    assert blind.metrics["hit"] == pytest.approx(blind.figure("hit").chance)
    assert found.metrics["centre_hit"] == blind.metrics["centre_hit"] < 1


def test_the_folder_decides_what_is_done(folder, tmp_path):
    results, left_out = dense(ColourModel(), folder, DenseOptions(subset=3))
    assert [r.task for r in results] == ["segmentation", "sparc_segmentation", "box_classification", "pointing"]
    (folder / "boxes.json").unlink()
    results, left_out = dense(ColourModel(), folder)
    assert set(left_out) == {"box_classification", "pointing"}
    assert "instances*.json" in left_out["pointing"]
    with pytest.raises(UserError, match="no pictures with masks"):
        segmented(tmp_path / "nowhere")


def test_coco_and_voc_layouts(tmp_path):
    for place in ("JPEGImages", "SegmentationClass", "val2017"):
        (tmp_path / place).mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "JPEGImages" / "a.jpg")
    Image.new("RGB", (8, 8)).save(tmp_path / "val2017" / "b.jpg")
    mask = Image.fromarray(np.full((8, 8), 15, np.uint8), "P")
    mask.putpalette(list(range(256)) * 3)
    mask.save(tmp_path / "SegmentationClass" / "a.png", optimize=False)
    (picture,) = segmented(tmp_path)
    classes = class_set(tmp_path)
    assert set(picture.labels().ravel()) == {15}
    assert classes.names[classes.ids.index(15)] == "person"
    rows = {"images": [{"id": 1, "file_name": "b.jpg"}], "categories": [{"id": 7, "name": "dog"}]}
    rows["annotations"] = [
        {"image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4]},
        {"image_id": 1, "category_id": 7, "bbox": [0, 0, 8, 8], "iscrowd": 1},
    ]
    (tmp_path / "instances_val2017.json").write_text(json.dumps(rows))
    (item,) = boxed(tmp_path)
    assert (item.boxes, item.classes) == (((1, 2, 4, 6),), ("dog",))


def towers():
    torch.manual_seed(0)
    own = OpenClipImageTower(VisionTransformer(16, 4, 24, 3, 4, 2.0, output_dim=8), {})
    other = timm_tower("vit_tiny_patch16_224", 32)
    return [(own, 16, lambda n: n.transformer.resblocks[-1]), (other, 32, lambda n: n.blocks[-1])]


@pytest.mark.parametrize("number", [0, 1])
def test_correlative_attention_changes_the_last_block_alone_and_is_undone(number):
    tower, size, last_of = towers()[number]
    tower.eval()
    model, pixels = SimpleNamespace(image_tower=tower), torch.randn(2, 3, size, size)
    patches = frozenset({"patches"})
    with torch.no_grad():
        plain = tower(pixels, patches).patches_BPV
        with correlative(model):
            changed = tower(pixels, patches).patches_BPV
            with torch.no_grad():
                for parameter in _query_and_key(last_of(tower.net)):
                    parameter.zero_()  # all tokens alike: two uniform averages
            flat = tower(pixels, patches).patches_BPV
        after = tower(pixels, patches).patches_BPV
    assert not torch.allclose(plain, changed, atol=1e-4)
    assert not torch.allclose(plain, after, atol=1e-5)  # the weights were changed above
    assert torch.isfinite(flat).all()
    fresh = towers()[number][0].eval()
    with torch.no_grad(), correlative(SimpleNamespace(image_tower=fresh)):
        assert torch.allclose(fresh(pixels, patches).patches_BPV, changed, atol=1e-5)
    with torch.no_grad():
        assert torch.allclose(fresh(pixels, patches).patches_BPV, plain, atol=1e-5)


def _query_and_key(block):
    attention = block.attn
    weight, bias = (
        (attention.in_proj_weight, attention.in_proj_bias)
        if hasattr(attention, "in_proj_weight")
        else (attention.qkv.weight, attention.qkv.bias)
    )
    width = weight.shape[1]
    return weight[: 2 * width], bias[: 2 * width]


def test_attend_is_the_sum_of_two_softmaxes():
    q, k, v = torch.randn(3, 5, 4, dtype=torch.float64)
    expected = sum((x @ x.T / 2).softmax(-1) @ v for x in (q, k))
    assert torch.allclose(attend(q, k, v), expected)


def test_a_tower_without_queries_is_refused():
    tower = SimpleNamespace(image_tower=SimpleNamespace(net=timm.create_model("mobilenetv3_small_050", pretrained=False)))
    with pytest.raises(NotSupportedError, match="queries and keys"), correlative(tower):
        pass


def test_templates_by_name():
    assert len(templates_of(["openai"])) == 80
    assert len(templates_of(["openai7"])) == 7
    assert all("{}" in t for t in templates_of(["openai", "plain"]))
    with pytest.raises(UserError, match=r"has no \{\}"):
        templates_of(["imagenet"])


class ReadOutOracle(Worded):
    """Words are colours and a patch is the colour in it, by tokens; the text as a whole is of nothing."""

    read_out = "token"

    def __init__(self):
        super().__init__(None)
        self.preprocess = Preprocess(32, mean=(0, 0, 0), std=(1, 1, 1))

    def encode_images(self, pixels_BCHW, needs=frozenset()):
        seen = torch.nn.functional.adaptive_avg_pool2d(pixels_BCHW.float() / 255, 8).flatten(2).transpose(1, 2)
        patches = seen @ torch.stack([vector(name, 64) for name in COLOURS])
        return ImageFeatures(patches.mean(1), patches_BPD=patches, grid=(8, 8))


def test_segmentation_and_pointing_by_the_models_own_read_out_are_results_of_their_own(folder):
    pictures, classes = segmented(folder), class_set(folder)
    pooled, own = segmentation(ReadOutOracle(), pictures, classes, SegmentationOptions(("a {}",), Windows(short=48)))
    assert (pooled.task, own.task) == ("segmentation", "segmentation_token")
    assert own.metrics["miou"] > 0.8
    assert own.metrics["miou"] > own.figure("miou").shuffled + 0.2
    assert pooled.metrics["miou"] < 0.6
    assert "read-out token: dot product" in own.protocol
    pooled, own = pointing(ReadOutOracle(), boxed(folder), templates=("a {}",))
    assert (pooled.task, own.task, own.metrics["hit"]) == ("pointing", "pointing_token", 1)
    assert own.figure("hit").shuffled < 0.7
    assert (
        own.figure("small/hit").count + (0 if "large/hit" not in own.metrics else own.figure("large/hit").count)
        == own.figure("hit").count
    )


def test_one_read_out_alone_gives_the_numbers_that_it_gives_beside_others(folder):
    pictures, classes = segmented(folder), class_set(folder)
    both = segmentation(
        ReadOutOracle(),
        pictures,
        classes,
        SegmentationOptions(("a {}", "the {}"), Windows(short=48), read_outs=("pooled", "token")),
    )
    for found in both:
        name = found.task.partition("_")[2] or "pooled"
        (alone,) = segmentation(
            ReadOutOracle(), pictures, classes, SegmentationOptions(("a {}", "the {}"), Windows(short=48), read_outs=(name,))
        )
        assert alone.figures == found.figures
    together = dense(
        ReadOutOracle(), folder, DenseOptions(("pointing", "segmentation"), ("a {}",), read_outs=("token", "token_cosine"))
    )[0]
    assert [r.task for r in together] == [
        "pointing_token",
        "pointing_token_cosine",
        "segmentation_token",
        "segmentation_token_cosine",
    ]


def test_an_average_over_prompts_is_that_of_their_maps(folder):
    """A product with the mean of vectors is the mean of products; so are figures of two templates those of their mean map."""
    (read_out,) = read_outs_named(ReadOutOracle(), ["token"])
    asked = AskedNames.of(read_out, ["red", "blue"], ("a {}", "one {} thing"), 8).asked_N
    each = torch.stack([AskedNames.of(read_out, ["red", "blue"], (t,), 8).asked_N for t in ("a {}", "one {} thing")])
    torch.testing.assert_close(asked, each.mean(0))
    torch.testing.assert_close(
        asked, torch.stack([vector("red", 64), vector("blue", 64)])
    )  # the name's own token, whatever stands around it


def test_read_outs_that_a_protocol_cannot_use_are_refused(folder):
    plain, classes = SegmentationOptions(read_outs=("token",)), class_set(folder)
    ground = replace(classes, background=0)
    with pytest.raises(NotSupportedError, match=r"threshold is one for cosines.*token"):
        segmentation(ReadOutOracle(), segmented(folder), ground, plain)
    assert [r.task for r in segmentation(ReadOutOracle(), segmented(folder), ground)] == [
        "segmentation"
    ]  # unasked, it is left out
    tower = timm_tower("vit_tiny_patch16_224", 32, {"embed_dim": 24, "depth": 2, "num_heads": 3, "patch_size": 8})
    text = small_text_tower(SmallConfig(text_width=24, text_layers=1, context=12, width=16), 49408)
    model = Model(tower, text, PlainHead(Widths(24, text.width, 16)), Preprocess(size=32), ClipTokenizer(12))
    options = SegmentationOptions(attention="correlative", read_outs=("gradient",))
    with pytest.raises(NotSupportedError, match="plain attention"):
        segmentation(model, segmented(folder), classes, options)
    found = segmentation(model, segmented(folder)[:2], classes, SegmentationOptions(read_outs=("gradient", "token")))
    assert [r.task for r in found] == ["segmentation_gradient", "segmentation_token"]
    assert [r.task for r in pointing(model, boxed(folder))] == ["pointing", "pointing_gradient"]
