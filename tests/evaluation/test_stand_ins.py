"""The shuffled-images control: in no task does a picture stand in for itself, and where there is no other picture there is no control."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from colour_model import COLOURS, ColourModel
from eval_fakes import FakeDataset, FakeModel, encoded, record, vector
from hypothesis import given
from hypothesis import strategies as st
from noise_photos import photos
from PIL import Image

from wholegrain.data.record import HardPositive, Negative, Twin
from wholegrain.evaluation.benchmarks.classification import classification_result
from wholegrain.evaluation.benchmarks.items import Benchmark, Item, LabelledSet, Picture, Statement, Statements
from wholegrain.evaluation.benchmarks.scoring import score
from wholegrain.evaluation.benchmarks.statements import score_statements
from wholegrain.evaluation.dense.boxes import box_classification, pointing
from wholegrain.evaluation.dense.folder import boxed, class_set, segmented
from wholegrain.evaluation.dense.segmentation import segmentation
from wholegrain.evaluation.dense.sparc_segmentation import sparc_segmentation
from wholegrain.evaluation.features.feature_store import FeatureStore
from wholegrain.evaluation.statistics.average_precision import mean_average_precision
from wholegrain.evaluation.statistics.stand_ins import ring, stand_ins
from wholegrain.evaluation.tasks.branches import branches
from wholegrain.evaluation.tasks.composition import composition, hard_positives, negatives
from wholegrain.evaluation.tasks.faithfulness import faithfulness
from wholegrain.evaluation.tasks.few_shot import few_shot
from wholegrain.evaluation.tasks.grounding import grounding
from wholegrain.evaluation.tasks.linear_probe import LabelledFeatures, probe
from wholegrain.evaluation.tasks.retrieval import retrieval
from wholegrain.evaluation.tasks.zero_shot import classified

SEEDS = range(8)
FEW = 3  # so few pictures that a plain permutation leaves one in its place for two seeds of three


# --- the draw ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.integers(0, 1000))
def test_whole_pictures_move_and_none_stays(keys, seed):
    other = stand_ins(keys, seed)
    if len(set(keys)) == 1:
        assert other is None
        return
    partner = {key: {keys[place] for n, place in enumerate(other) if keys[n] == key} for key in keys}
    assert all(len(found) == 1 and key not in found for key, found in partner.items())
    assert len({tuple(found) for found in partner.values()}) == len(partner)  # and no picture stands in for two
    assert other.tolist() == stand_ins(keys, seed).tolist()


@given(st.integers(2, 40), st.integers(0, 10_000))
def test_distinct_pictures_are_permuted_without_a_fixed_point(count, seed):
    other = stand_ins(range(count), seed)
    assert sorted(other) == list(range(count))
    assert (other != np.arange(count)).all()


@given(st.lists(st.lists(st.integers(0, 9), min_size=2, max_size=4, unique=True), max_size=6), st.integers(0, 1000))
def test_related_pictures_do_not_stand_in_for_each_other(groups, seed):
    other = stand_ins(range(10), seed, groups)
    near = {n: {n, *(m for group in groups if n in group for m in group)} for n in range(10)}
    assert (other is None) == any(len(avoided) == 10 for avoided in near.values())
    assert other is None or all(place not in near[n] for n, place in enumerate(other))


def test_every_other_picture_is_as_likely():
    drawn = np.stack([stand_ins(range(5), seed) for seed in range(2000)])
    for n in range(5):
        share = np.bincount(drawn[:, n], minlength=5) / len(drawn)
        assert share[n] == 0
        assert np.delete(share, n) == pytest.approx(0.25, abs=0.05)


def test_pairs_that_are_half_of_all_still_change_places():
    for seed in SEEDS:
        assert set(stand_ins("abcd", seed, ["ab", "cd"])[:2]) == {2, 3}


def test_a_ring_holds_every_place_once():
    assert sorted(ring(7, 3)) == list(range(7))


# --- the tasks: a model that knows its own picture alone scores nothing once pictures are replaced ---------------------


def numbered(name: str) -> torch.Tensor:
    """The picture that a key or the last word of a text names, as a direction of its own; nothing for other texts."""
    last = name.split()[-1].removeprefix("key")
    return torch.eye(16)[int(last)] if last.isdigit() else torch.zeros(16)


KNOWS = FakeModel(numbered, numbered)


def data(count: int = FEW) -> FakeDataset:
    records = [record(n, [f"this is {n}"]) for n in range(count)]
    keys = [r.key for r in records]
    false = {
        (key, r.captions[0].id): (Negative(key, r.captions[0].id, "kind", "false"),) for key, r in zip(keys, records, strict=True)
    }
    positives = tuple(
        HardPositive(f"h{n}", "kind", key, (f"this is {n}", f"it is {n}"), "false", "test") for n, key in enumerate(keys)
    )
    twins = tuple(
        Twin(f"t{n}", "kind", (keys[n], keys[n + 1]), (f"this is {n}", f"this is {n + 1}")) for n in range(0, count - 1, 2)
    )
    return FakeDataset(records, negatives=false, twins=twins, hard_positives=positives)


@pytest.mark.parametrize("seed", SEEDS)
def test_composition(seed):
    found = composition(KNOWS, data(4), seed=seed)
    assert found.metrics["picks_caption"] == 1
    # below one half some twin would have kept its two pictures and swapped them, above it one would have kept its own
    assert found.figure("picks_caption").shuffled == found.figure("picks_picture").shuffled == 0.5
    positives, false = hard_positives(KNOWS, data(), seed=seed), negatives(KNOWS, data(), seed=seed)
    assert (positives.metrics["both_win"], positives.figure("both_win").shuffled) == (1, 0)
    assert (false.metrics["accuracy"], false.figure("accuracy").shuffled) == (1, 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_retrieval_branches_and_faithfulness(seed):
    eye = torch.eye(FEW)
    features = encoded(eye, eye, range(FEW), texts=["one", "two", "three"])
    found = retrieval(features, seed=seed)
    for side in ("text_retrieval", "image_retrieval"):
        figure = found.figure(f"{side}_recall@1")
        assert (figure.value, figure.shuffled) == (1, 0)
    figure = branches(features, seed=seed).figure("web/single_recall@1")
    assert (figure.value, figure.shuffled) == (1, 0)
    figure = faithfulness(features, seed=seed).figure("k_precision_union")
    assert (figure.value, figure.shuffled) == (1, 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_classification_and_probes(seed):
    classes, keys = ("a", "b", "c"), ["p", "p", "q", "r"]  # the first picture comes twice
    true = torch.tensor([0, 0, 1, 2])
    scores = torch.eye(3)[true]
    for name in ("acc1", "mean_per_class_recall"):
        figure = classified("t", keys, scores, true, classes, "a test.", seed).figure(name)
        assert (figure.value, figure.shuffled) == (1, 0)
    train, test = LabelledFeatures(torch.eye(3).repeat(5, 1), torch.arange(3).repeat(5)), LabelledFeatures(scores, true)
    assert probe("t", {"train": train, "test": test}, classes, keys, seed=seed).figure("acc1").shuffled == 0
    assert few_shot("t", train, test, classes, keys, shots=(1,), draws=1, seed=seed).figure("1_shot/acc1").shuffled == 0
    for figure in mean_average_precision(scores.numpy(), scores.numpy(), scores.numpy(), keys, seed=seed):
        assert figure.value == 1
        assert figure.shuffled <= 2 / 3  # the picture of each class is never the first


@pytest.mark.parametrize("seed", SEEDS)
def test_area_under_the_curve(seed, tmp_path):
    pictures = tuple(photos(tmp_path, 2))
    hateful = LabelledSet("memes", pictures, ((0,), (1,)), ("no", "yes"), ("{}",), "roc_auc", "a test")
    figure = classification_result(hateful, torch.eye(2), ["p", "q"], seed).figure("roc_auc")
    assert (figure.value, figure.shuffled) == (1, 0)
    says = FakeModel(lambda key: torch.tensor([float(key.endswith("1")), 1.0]), lambda text: torch.tensor([1.0, 0.0]))
    items = tuple(Statement(str(n), "g", picture, f"text {n}", n == 1) for n, picture in enumerate(pictures))
    figure = score_statements(Statements("s", items, "a test"), says, FeatureStore(says), seed=seed).figure("auc")
    assert (figure.value, figure.shuffled) == (1, 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_benchmarks_of_pairs(seed, tmp_path):
    pictures = photos(tmp_path, 4)

    def scored(items):
        return score(Benchmark("b", tuple(items), "a test"), KNOWS, FeatureStore(KNOWS), seed=seed)

    alone = scored(Item(str(n), "g", (p,), (f"this is {n}",), ("false",)) for n, p in enumerate(pictures[:FEW]))
    assert (alone.metrics["accuracy"], alone.figure("accuracy").shuffled) == (1, 0)
    # two pictures of one item do not change places: where they did, the other one would win
    pairs = scored(Item(str(n), "g", tuple(pictures[n : n + 2]), (f"this is {n}",)) for n in (0, 2))
    assert (pairs.metrics["accuracy"], pairs.figure("accuracy_expected").shuffled) == (1, 0.5)


@pytest.mark.parametrize("seed", SEEDS)
def test_cuts_of_one_file_do_not_stand_in_for_each_other(seed, tmp_path):
    for n in range(2):
        Image.fromarray(np.repeat([[[2 * n, 0, 0], [2 * n + 1, 0, 0]]], 4, 0).astype(np.uint8)).save(tmp_path / f"{n}.png")
    cuts = [Picture(tmp_path / f"{n}.png", box=(x, 0, x + 1, 4)) for n in range(2) for x in range(2)]
    # each text is true of both cuts of its file, so a cut that took its neighbour's place would win
    both = FakeModel(lambda key: torch.eye(4)[int(key[3:]) // 2], lambda text: torch.eye(4)[int(text[-1])])
    items = tuple(Item(str(n), "g", (cut,), (f"file {n // 2}",), ("nothing 3",)) for n, cut in enumerate(cuts))
    found = score(Benchmark("b", items, "a test"), both, FeatureStore(both), seed=seed)
    assert (found.metrics["accuracy"], found.figure("accuracy").shuffled) == (1, 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_grounding(seed):
    """Each picture's two objects lie where no other picture has one, and its patches answer to its own phrases alone."""
    records = []
    for n in range(FEW):
        boxes = [(8.0 * n, y, 8.0 * n + 8, y + 8) for y in (0.0, 16.0)]
        regions = tuple((box, f"{name} {n}") for name, box in zip("ab", boxes, strict=True))
        records.append(record(n, [f"a picture {n}"], regions=regions))

    def image_of(key):
        n = int(key[3:])
        patches = {n: vector(f"a {n}"), n + 8: vector(f"b {n}")}
        rows = torch.stack([patches.get(p, -sum(vector(f"{x} {m}") for x in "ab" for m in range(FEW))) for p in range(16)])
        return {"pooled_BD": rows.mean(0), "patches_BPD": rows, "grid": (4, 4)}

    found = grounding(FakeModel(image_of, vector), FakeDataset(records), seed=seed)
    assert found.metrics["hit_own"] == 1
    assert found.figure("hit_own").shuffled < 0.1  # a picture in its own place would add a third


def coloured(folder, colours):
    """A picture for each colour: a block of it in a place of its own, as a mask and as two boxes."""
    for name in ("images", "masks"):
        (folder / name).mkdir()
    objects = {}
    for n, colour in enumerate(colours):
        ids = np.zeros((32, 32), np.uint8)
        ids[:, 8 * n : 8 * n + 8] = 1 + list(COLOURS).index(colour)
        Image.fromarray(np.array([(0, 0, 0), *COLOURS.values()], np.uint8)[ids]).save(folder / "images" / f"{n}.png")
        Image.fromarray(ids).save(folder / "masks" / f"{n}.png")
        boxes = [[8.0 * n, y, 8.0 * n + 8, y + 16] for y in (0.0, 16.0)]
        objects[f"images/{n}.png"] = {"objects": [{"class": colour, "box": box} for box in boxes]}
    (folder / "classes.json").write_text(
        json.dumps({str(n): {"name": c, "isthing": True} for n, c in enumerate(COLOURS, 1)} | {"0": {"name": "unlabeled"}})
    )
    (folder / "boxes.json").write_text(json.dumps(objects))
    return folder


def test_boxes_and_masks(tmp_path):
    folder = coloured(tmp_path, COLOURS)
    for seed in SEEDS:
        for way in ("crop", "pooled"):  # the two boxes of a picture are of one class
            figure = box_classification(ColourModel(), boxed(folder), seed=seed).figure(f"{way}/acc1")
            assert (figure.value, figure.shuffled) == (1, 0)
        figure = pointing(ColourModel(), boxed(folder), seed=seed)[0].figure("hit")
        assert figure.value == 1
        assert figure.shuffled < 0.4  # a third lies under the black that a colour's map prefers; an own map would add two ninths
    seen = ColourModel(), segmented(folder), class_set(folder)
    for result in (*segmentation(*seen), sparc_segmentation(*seen)):
        figure = result.figure("miou")
        assert figure.shuffled < 0.4 < figure.value


# --- where there is no other picture ----------------------------------------------------------------------------------


def test_one_picture_has_no_control(tmp_path):
    eye = torch.eye(1)
    assert retrieval(encoded(eye, eye, [0])).figure("text_retrieval_recall@1").shuffled is None
    assert retrieval(encoded(eye, eye, [0])).figure("text_retrieval_median_rank").shuffled is None
    assert branches(encoded(eye, eye, [0])).figure("web/single_recall@1").shuffled is None
    assert composition(KNOWS, data(2)).figure("text_score").shuffled is None  # one twin: no picture beside its own two
    assert negatives(KNOWS, data(1)).figure("accuracy").shuffled is None
    assert hard_positives(KNOWS, data(1)).figure("both_win").shuffled is None
    twice = torch.eye(2)[[0, 0]], torch.tensor([0, 0])
    assert {f.shuffled for f in classified("t", ["p", "p"], *twice, ("a", "b"), "a test.", 0).figures} == {None}
    coloured(tmp_path, ["red"])
    boxes, masks = boxed(tmp_path), (segmented(tmp_path), class_set(tmp_path))
    assert pointing(ColourModel(), boxes)[0].figure("hit").shuffled is None
    for result in (*segmentation(ColourModel(), *masks), sparc_segmentation(ColourModel(), *masks)):
        assert {f.shuffled for f in result.figures} == {None}
