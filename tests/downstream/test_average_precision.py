"""Average precision of perfect, exchanged and empty detections; the library's and our own resampled one agree; annotations' rules."""

import sys

import numpy as np
import pytest

from wholegrain.downstream.detection.average_precision import (
    THRESHOLDS,
    average_precisions,
    found_boxes,
    match_picture,
    matched,
    mean_precisions,
    spreads,
)
from wholegrain.downstream.detection.boxes import BoxedPicture
from wholegrain.downstream.detection.detect import NOTHING, Detections
from wholegrain.downstream.detection.measure import Judge
from wholegrain.errors import UserError
from wholegrain.evaluation.result import load_results, save_results

NAMES = ("red cup", "blue hat", "green fork", "teal bowl")


def pictures_of(count, seed=0, **more):
    draw = np.random.default_rng(seed)
    made = []
    for n in range(count):
        boxes = draw.integers(1, 4)
        low, size = draw.uniform(0, 60, (boxes, 2)), draw.uniform(8, 40, (boxes, 2))
        corners = tuple(tuple(map(float, row)) for row in np.concatenate([low, low + size], 1))
        made.append(BoxedPicture(f"p{n:03d}", (100, 100), corners, tuple(draw.choice(NAMES[:3], boxes)), **more))
    return made


def perfect(picture):
    label = np.array([NAMES.index(name) for name in picture.names])
    return Detections(np.array(picture.boxes), np.linspace(0.9, 0.6, len(label)), label)


def noisy(pictures, seed=1, digits=2):
    """Boxes near the true ones under right and wrong names, doubles, and boxes of nothing, with scores that mean little."""
    draw = np.random.default_rng(seed)
    found = []
    for picture in pictures:
        true = np.array(picture.boxes).repeat(3, 0)
        label = np.array([NAMES.index(name) for name in picture.names]).repeat(3)
        label = np.where(draw.random(len(label)) < 0.3, draw.integers(0, 4, len(label)), label)
        box = np.concatenate([true + draw.normal(0, 3, true.shape), [[0.0, 0.0, 20.0, 20.0]] * 2])
        label, score = np.concatenate([label, [0, 1]]), np.round(draw.random(len(box)), digits)
        order = np.argsort(-score, kind="stable")
        found.append(Detections(box[order], score[order], label[order]))
    return found


def judged(pictures, found, most=100):
    return mean_precisions(average_precisions(pictures, found, NAMES, most)[None], {})["AP"][0]


def test_perfect_exchanged_and_empty_detections():
    pictures = pictures_of(20)
    found = [perfect(picture) for picture in pictures]
    assert judged(pictures, found) == pytest.approx(1.0)
    assert judged(pictures, [*found[1:], found[0]]) < 0.15
    assert judged(pictures, [NOTHING] * 20) == 0.0
    wrong = [Detections(one.box_K4, one.score_K, (one.label_K + 1) % 3) for one in found]
    assert judged(pictures, wrong) < 0.05


def test_a_known_precision():
    """One name, two boxes; the first detection is right, the second wrong, the third right: 51 recalls at 1, 50 at two thirds."""
    pictures = [BoxedPicture("a", (100, 100), ((0.0, 0.0, 10.0, 10.0), (50.0, 50.0, 60.0, 60.0)), ("red cup", "red cup"))]
    box = np.array([[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0], [50.0, 50.0, 60.0, 60.0]])
    found = [Detections(box, np.array([0.9, 0.8, 0.7]), np.zeros(3, dtype=np.int64))]
    assert judged(pictures, found) == pytest.approx((51 * 1.0 + 50 * 2 / 3) / 101, abs=1e-6)
    assert judged(pictures, found, most=1) == pytest.approx(51 / 101, abs=1e-6)


VARIANTS = {
    "plain": {},
    "unsure": {"unsure": ("red cup",)},
    "absent": {"absent": ("blue hat", "teal bowl")},
    "both": {"absent": ("blue hat",), "unsure": ("green fork",)},
}


@pytest.mark.parametrize("crowd", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_our_curves_are_the_librarys(variant, crowd):
    """With every picture once; and with pictures drawn twice or not at all, as if they were there so often."""
    pictures = pictures_of(30, **VARIANTS[variant])
    if crowd:
        draw = np.random.default_rng(4)
        pictures = [BoxedPicture(p.key, p.size, p.boxes, p.names, p.absent, p.unsure, tuple((draw.random(len(p.boxes)) < 0.3).tolist())) for p in pictures]
    weight = np.random.default_rng(5).integers(0, 3, 30)
    again = [n for n in range(30) for _ in range(weight[n])]
    for most, digits in ((100, 2), (1, 2), (100, 9)):  # with two digits many scores are equal
        found = noisy(pictures, digits=digits)
        theirs = average_precisions(pictures, found, NAMES, most)
        ours = matched(pictures, found, NAMES, most)
        assert np.nanmin(theirs) < np.nanmax(theirs)
        one = np.stack([name.average_precision(np.ones((1, 30)))[0] for name in ours])
        assert np.allclose(one, theirs, atol=1e-9, equal_nan=True)
        repeated = average_precisions([pictures[n] for n in again], [found[n] for n in again], NAMES, most)
        drawn = np.stack([name.average_precision(weight[None].astype(float))[0] for name in ours])
        close = 1e-9 if digits == 9 else 0.06  # of equal scores the library takes a whole picture first, and then its copy
        assert np.allclose(drawn, repeated, atol=close, equal_nan=True)


def test_detections_of_what_nobody_looked_for_do_not_count():
    box = ((0.0, 0.0, 10.0, 10.0),)
    wrong_first = [Detections(np.array([[50.0, 50.0, 60.0, 60.0], *box]), np.array([0.9, 0.8]), np.array([0, 0]))]
    other_name = [Detections(np.array([[50.0, 50.0, 60.0, 60.0], *box]), np.array([0.9, 0.8]), np.array([1, 0]))]
    boxed = {"names": ("red cup",), "boxes": box, "key": "a", "size": (100, 100)}
    second = BoxedPicture("b", (100, 100), box, ("blue hat",))
    right = Detections(np.array(box), np.array([0.5]), np.array([1]))
    assert judged([BoxedPicture(**boxed)], wrong_first) == pytest.approx(0.5)
    assert judged([BoxedPicture(**boxed, unsure=("red cup",))], wrong_first) == pytest.approx(1.0)
    assert judged([BoxedPicture(**boxed), second], [*other_name, right]) == pytest.approx(0.75)  # blue hat is surely absent from a
    assert judged([BoxedPicture(**boxed, absent=("green fork",)), second], [*other_name, right]) == pytest.approx(1.0)


def test_a_box_is_found_once():
    true = np.array([[0.0, 0.0, 10.0, 10.0]])
    met, counted = match_picture(np.repeat(true, 3, 0), true, np.array([False]))
    assert (met >= 0).sum(1).tolist() == [1] * len(THRESHOLDS)
    assert counted.all()
    met, counted = match_picture(np.repeat(true, 3, 0), true, np.array([True]))
    assert not (met >= 0).any()
    assert not counted.any()  # in a crowd
    picture = BoxedPicture("a", (100, 100), ((0.0, 0.0, 10.0, 10.0), (0.0, 0.0, 11.0, 11.0)), ("red cup", "red cup"))
    assert found_boxes(picture, Detections(true, np.ones(1), np.zeros(1, dtype=np.int64)), NAMES, 9).tolist() == [True, False]


def test_spreads_shrink_with_more_pictures():
    few, many = pictures_of(15), pictures_of(120)
    one, other = (spreads(matched(p, noisy(p), NAMES, 100), len(p), {}, 0)["AP"] for p in (few, many))
    assert 0 < other < 0.6 * one


def test_a_result_has_rare_names_apart_and_comes_back(tmp_path):
    pictures = pictures_of(25)
    found = [perfect(p) if "red cup" in p.names else NOTHING for p in pictures]
    result = Judge(pictures, NAMES, frozenset({"blue hat", "green fork", "teal bowl"})).result("detection", found, "Made up.")
    assert result.figure("AP_rare").value == pytest.approx(1.0)
    assert result.figure("AP_common").value < 1.0
    assert result.figure("AP").shuffled < 0.3
    assert result.figure("rare/recall50").value == 1.0
    assert result.figure("AP").count == sum(len(p.boxes) for p in pictures) == len(result.items)
    for figure in result.figures:
        assert 0 <= figure.low <= figure.value <= figure.high + 1e-12 <= 1 + 1e-9
    save_results([result], tmp_path / "found")
    (back,), _ = load_results(tmp_path / "found")
    assert back.metrics == result.metrics
    with pytest.raises(UserError, match="No picture has a box"):
        Judge([BoxedPicture("a", (9, 9), (), ())], NAMES, frozenset()).result("detection", [NOTHING], "")


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(UserError, match=r"pip install \"wholegrain\[detect\]\""):
        average_precisions(pictures_of(2), [NOTHING] * 2, NAMES, 10)
