"""Segmentation: class maps of scenes and folders, heads against loops in float64, counts against label maps, the command from end to end."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from wholegrain.downstream.segmentation.head import SegmentationHeads, SegmentationHeadSettings, logits_at, pooled_regions
from wholegrain.downstream.segmentation.labelled import (
    LabelledPicture,
    LabelMaps,
    class_names,
    labelled_pictures,
    labels_of_picture,
)
from wholegrain.downstream.segmentation.task import Regions, SegmentationData, SegmentationSettings, SegmentationTask
from wholegrain.errors import UserError
from wholegrain.evaluation.dense.folder import ClassSet
from wholegrain.evaluation.dense.pixel_counts import PixelCounts, result_of_counts
from wholegrain.evaluation.result import load_results
from wholegrain.towers.base import RawImage

SIZE = 48


@pytest.fixture
def folder(tmp_path):
    """Red squares (id 3) and blue ones (id 7) on nothing (0, which is no class), with a wide ignored edge at the left, in two splits."""
    random, made = np.random.default_rng(0), tmp_path / "squares"
    for split in ("first", "second"):
        (made / "images" / split).mkdir(parents=True)
        (made / "masks" / split).mkdir(parents=True)
        for n in range(8):
            pixels, mask = np.full((SIZE, SIZE + 16, 3), 230, np.uint8), np.zeros((SIZE, SIZE + 16), np.uint8)
            mask[:, :8] = 255
            for ident, colour in ((3, (220, 20, 20)), (7, (20, 20, 220))):
                y, x = random.integers(0, SIZE - 16), random.integers(8, SIZE)
                pixels[y : y + 16, x : x + 16], mask[y : y + 16, x : x + 16] = colour, ident
            Image.fromarray(pixels).save(made / "images" / split / f"{n}.png")
            Image.fromarray(mask).save(made / "masks" / split / f"{n}.png")
    (made / "classes.json").write_text(json.dumps({"0": "background", "3": "red square", "7": "blue square"}))
    return made


def test_every_thing_of_a_scene_is_in_its_class_map(scenes):
    """Also those that have no region, for they are not alone of their noun: what a caption of all nouns says is what the map holds."""
    pictures = labelled_pictures(scenes.folder)
    names = class_names(pictures.classes)
    assert names[-1] == "background"
    several = 0
    for split in ("train", "val", "test"):
        for key in pictures.keys(split):
            labels = labels_of_picture(pictures, key)
            assert labels.shape == (64, 64)
            record = pictures.dataset.record(key)
            found = {names[c] for c in np.unique(labels)} - {"background"}
            said = " ".join(caption.text for caption in record.captions if caption.role == "nouns").split()
            assert all(any(noun.split()[-1][:4] in word for word in said) for noun in found)
            alone = {region.phrase.split()[-1] for region in record.regions}
            assert alone <= {noun.split()[-1] for noun in found}
            several += len(found) > len(alone)
            ground = pictures.pixels(key)[labels == len(names) - 1].astype(float)
            thing = pictures.pixels(key)[labels != len(names) - 1].astype(float)
            assert np.abs(np.median(ground, 0) - thing.mean(0)).max() > 5
    assert several


def test_regions_of_records_are_the_classes_of_the_map(scenes):
    from wholegrain.evaluation.features.regions import decode_mask

    pictures = labelled_pictures(scenes.folder)
    names = class_names(pictures.classes)
    for key in pictures.keys("test"):
        labels, record = labels_of_picture(pictures, key), pictures.dataset.record(key)
        for region in record.regions:
            inside = labels[decode_mask(region.mask, record.size)]
            assert len(np.unique(inside)) == 1
            assert region.phrase.endswith(names[inside[0]])


def test_scenes_of_another_version_are_refused_in_one_sentence(scenes, tmp_path):
    shutil.copytree(scenes.folder, tmp_path / "scenes")
    path = tmp_path / "scenes" / "manifest.json"
    manifest = json.loads(path.read_text())
    for world, said in ((manifest["world"] | {"tilt": 3}, "states its world wrongly"), (manifest["world"] | {"hash": "0"}, "of another version")):
        path.write_text(json.dumps(manifest | {"world": world}))
        with pytest.raises(UserError, match=said):
            labelled_pictures(tmp_path / "scenes").keys("test")


def test_a_folder_with_background_and_ignored_edge(folder):
    pictures = labelled_pictures(folder)
    assert class_names(pictures.classes) == ("red square", "blue square", "background")
    assert len(pictures.keys("first")) == 8
    labels = labels_of_picture(pictures, "first/0")
    assert set(np.unique(labels[:, :8])) == {-1}
    assert set(np.unique(labels[:, 8:])) <= {0, 1, 2}
    with pytest.raises(UserError, match="split 'test'; it has first, second"):
        pictures.keys("test")


def test_bad_masks_are_refused_in_a_sentence(folder):
    mask = np.asarray(Image.open(folder / "masks/first/0.png")).copy()
    mask[0, 20] = 9
    Image.fromarray(mask).save(folder / "masks/first/0.png")
    with pytest.raises(UserError, match=r"first/0 holds the id 9, which classes\.json does not name"):
        labels_of_picture(labelled_pictures(folder), "first/0")
    Image.fromarray(mask[:10] * 0).save(folder / "masks/first/1.png")
    with pytest.raises(UserError, match=r"first/1 is 64 x 10 pixels and the picture 64 x 48"):
        labels_of_picture(labelled_pictures(folder), "first/1")
    Image.fromarray(np.zeros((SIZE, SIZE + 16, 3), np.uint8)).save(folder / "masks/first/2.png")
    with pytest.raises(UserError, match="3 channels"):
        labels_of_picture(labelled_pictures(folder), "first/2")
    (folder / "masks/first/3.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="cannot be decoded"):
        labels_of_picture(labelled_pictures(folder), "first/3")
    (folder / "classes.json").unlink()
    with pytest.raises(UserError, match=r"classes\.json"):
        labelled_pictures(folder)


def test_prepared_photos_are_refused(tmp_path):
    from tiny_training import make_dataset

    make_dataset(tmp_path / "data", 4)
    with pytest.raises(UserError, match="without a class for every pixel"):
        labelled_pictures(tmp_path / "data")


def counted(*pairs, background=0):
    """A result of label maps: true, found."""
    classes = ClassSet(("a", "b"), (("a",), ("b",)), (1, 2), (True, True), background)
    counts = PixelCounts.empty(len(pairs), 3)
    for n, (true, found) in enumerate(pairs):
        counts.add(n, np.array(true), np.array(found))
    return result_of_counts("segment", [f"p{n}" for n in range(len(pairs))], classes, counts, "", 0)


def test_iou_in_closed_form():
    perfect = counted(([[0, 1], [2, -1]], [[0, 1], [2, 0]]))
    assert perfect.metrics["miou"] == perfect.metrics["pixel_accuracy"] == 1.0  # what is ignored is not counted
    empty = counted(([[0, 0], [2, 2]], [[2, 2], [2, 2]]))
    assert empty.metrics["a/iou"] == 0.0
    assert empty.metrics["miou"] == pytest.approx((0 + 2 / 4) / 2)  # "b" occurs nowhere, and is not in the mean
    assert "b/iou" not in empty.metrics
    both = counted(([[0, 0, 1, 1]], [[0, 1, 1, 1]]), ([[0, 2, 2, 2]], [[0, 2, 2, 0]]))
    assert both.metrics["a/iou"] == pytest.approx(2 / 4)  # over both pictures together
    assert both.metrics["miou"] == pytest.approx((2 / 4 + 2 / 3 + 2 / 3) / 3)
    assert both.metrics["majority_accuracy"] == pytest.approx(3 / 8)
    assert both.figure("pixel_accuracy").chance == pytest.approx(1 / 3)
    assert both.items["item"].to_pylist() == ["p0", "p1"]


def test_logits_between_patches_are_those_of_interpolate():
    logits = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    large = interpolate(logits, (24, 35), mode="bilinear")
    y, x = torch.meshgrid(torch.arange(24), torch.arange(35), indexing="ij")
    place = torch.stack([(2 * x + 1) / 35 - 1, (2 * y + 1) / 24 - 1], -1).double().flatten(0, 1)
    found = logits_at(logits, place.expand(2, -1, -1))
    assert torch.allclose(found.mT.unflatten(2, (24, 35)), large, atol=1e-6)


def test_pooled_regions_against_a_loop():
    draw = torch.Generator().manual_seed(0)
    patches = torch.randn(2, 6, 5, generator=draw, dtype=torch.float64)
    mask = torch.rand(3, 8, 12, generator=draw) < 0.3
    picture = torch.tensor([1, 0, 1])
    found = pooled_regions(patches, (2, 3), mask.double(), picture)
    for m in range(3):
        total, weight = torch.zeros(5, dtype=torch.float64), 0
        for y, x in mask[m].nonzero().tolist():
            total, weight = total + patches[picture[m], (y // 4) * 3 + x // 4], weight + 1
        assert torch.allclose(found[m], total / weight)


def task_of(pictures, norm="none", **data):
    settings = SegmentationSettings(head=SegmentationHeadSettings(norm), data=SegmentationData(side=32, **data))
    return SegmentationTask(settings, pictures)


def targets_of(task, pictures, split, count=3):
    chosen = [LabelledPicture(key) for key in pictures.keys(split)[:count]]
    return task.targets(chosen, [np.random.default_rng(n) for n in range(len(chosen))])


def test_loss_against_a_loop_in_float64(folder):
    pictures = labelled_pictures(folder)
    task = task_of(pictures, pixels=900)  # more than are known, so that some are filled up and not counted
    targets = targets_of(task, pictures, "first")
    assert bool((targets.label_BK < 0).any())
    torch.manual_seed(0)
    heads = SegmentationHeads(6, 3, 2, task.settings.head).double()
    image = RawImage(torch.zeros(3, 6), patches_BPV=torch.randn(3, 12, 6, dtype=torch.float64), grid=(3, 4))
    terms = task.loss(heads, image, targets)
    weight, bias = heads.pixels.linear.weight, heads.pixels.linear.bias
    large = interpolate((image.patches_BPV @ weight.T + bias).mT.unflatten(2, (3, 4)), (32, 32), mode="bilinear")
    wanted, count = 0.0, 0
    for b, key in enumerate(pictures.keys("first")[:3]):
        square = task.maps.square(key)
        for y, x in zip(*np.nonzero(square >= 0), strict=True):
            wanted, count = wanted - large[b, :, y, x].log_softmax(0)[int(square[y, x])], count + 1
    assert terms["pixels"].count == count
    assert float(terms["pixels"].total.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)
    regions = [Regions.of(task.maps.square(key), 2, 0.0) for key in pictures.keys("first")[:3]]
    assert terms["regions"].count == sum(len(one.class_M) for one in regions)
    assert set(targets.class_M.tolist()) == {0, 1}  # the background is no region


def test_pixels_are_drawn_by_the_example_alone(folder):
    pictures = labelled_pictures(folder)
    task = task_of(pictures, pixels=50)
    both, one = targets_of(task, pictures, "first", 3), targets_of(task, pictures, "first", 1)
    assert torch.equal(both.place_BK2[:1], one.place_BK2)
    assert torch.equal(both.label_BK[:1], one.label_BK)
    square = LabelMaps(pictures, 32).square(pictures.keys("first")[0])
    x, y = (((one.place_BK2[0, :, n] + 1) * 32 - 1) / 2 for n in (0, 1))
    assert one.label_BK[0].tolist() == [int(square[round(float(b)), round(float(a))]) for a, b in zip(x, y, strict=True)]
    assert len(set(zip(x.tolist(), y.tolist(), strict=True))) == 50


def test_one_region_alone_gives_finite_logits_under_batch_norm():
    heads = SegmentationHeads(4, 3, 2, SegmentationHeadSettings("batch")).train()
    image = RawImage(torch.zeros(1, 4), patches_BPV=torch.randn(1, 4, 4), grid=(2, 2))
    found = heads.region_logits(image, torch.ones(1, 4, 4), torch.tensor([0]))
    assert bool(torch.isfinite(found).all())


def segment(data, model, out, *options):
    from wholegrain.cli.main import main

    with pytest.raises(SystemExit) as end:
        main(["segment", str(model), str(data), "--out", str(out), "--device", "cpu", *options])
    return end.value.code


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from tiny_training import make_dataset, make_model

    from wholegrain.towers.io import save_model

    folder = tmp_path_factory.mktemp("model")
    save_model(make_model(make_dataset(folder / "data", 4), image_size=32, image_width=32, heads=2), folder / "model")
    return folder / "model"


def test_the_command_learns_squares_of_a_folder(folder, model, tmp_path, capsys):
    """Real squares, real masks: the linear head finds colours, chance and the most frequent class do not; a second call does nothing anew."""
    options = ("--train-split", "first", "--split", "second", "--steps", "150", "--batch", "8", "--lr", "0.02", "--data.side", "48")
    assert segment(folder, model, tmp_path / "out", *options) == 0
    said = capsys.readouterr().out
    assert "written" in said
    assert "next: open" in said
    results, facts = load_results(tmp_path / "out")
    assert facts["split"] == "second"
    found = {result.task: result for result in results}
    linear, regions = found["segment"], found["segment_regions"]
    assert linear.figure("miou").low > linear.metrics["majority_miou"] + 0.05
    assert linear.figure("miou").shuffled < linear.metrics["miou"] - 0.1
    assert regions.metrics["acc1"] > 0.7
    assert regions.items.num_rows == 16
    assert {"segment_regions_names", "segment_names"} <= set(found)
    page = (tmp_path / "out/segment.html").read_text()
    assert page.count("data:image/webp") == 24
    assert "red square" in page
    written = (tmp_path / "out/results.json").stat().st_mtime_ns
    segment(folder, model, tmp_path / "out", *options)
    assert (tmp_path / "out/results.json").stat().st_mtime_ns == written


def test_the_command_on_scenes(scenes, model, tmp_path):
    options = ("--steps", "3", "--batch", "4", "--data.threshold_pictures", "3", "--head.norm", "layer")
    assert segment(scenes.folder, model, tmp_path / "out", *options) == 0
    results, _ = load_results(tmp_path / "out")
    assert [result.task for result in results][:3] == ["segment", "segment_regions", "segment_regions_names"]
    assert "threshold was chosen on 3 training pictures" in results[3].protocol


def test_wrong_settings_are_refused(scenes, model, tmp_path, capsys):
    assert segment(scenes.folder, model, tmp_path / "out", "--head.norm", "group") == 2
    assert "batch, layer, none" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
