"""``wholegrain detect`` as it is typed, on tiny scenes: results, page, going on, refusals, annotations of COCO's kind."""

import json
import re
from functools import partial

import numpy as np
import pytest
from PIL import Image
from scenes_and_model import make_place, typed

from wholegrain.downstream.detection.boxes import BoxedPicture
from wholegrain.downstream.detection.detect import Detections
from wholegrain.downstream.detection.measure import Judge
from wholegrain.evaluation.result import load_results
from wholegrain.workflows.commands.detect import _drawn

QUICK = ("--steps", "6", "--batch", "8", "--device", "cpu", "--training.warmup_steps", "2", "--training.save_every", "2")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with ``scenes`` and ``model``."""
    return make_place(tmp_path_factory.mktemp("place"), 24, 10)


@pytest.fixture
def type_in(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    return partial(typed, capsys)


@pytest.mark.slow
def test_detect_trains_measures_and_goes_on(type_in, place, tmp_path):
    command = ("detect", "model", "scenes", "--out", tmp_path / "run", *QUICK)
    code, said, _ = type_in(*command)
    assert code == 0
    assert max(map(len, said.splitlines()[:-3])) <= 80
    assert f"written: {tmp_path}/run/results.json, {tmp_path}/run/detect.html" in said
    results, meta = load_results(tmp_path / "run")
    assert [result.task for result in results] == ["detection", "detection_heat_pooled"]
    assert {"AP", "AP50", "AP_rare", "AP_common", "recall50"} <= set(results[0].metrics)
    assert (meta["split"], meta["model"], meta["dataset"]) == ("test", "model", "scenes")
    assert "6 steps of 8 on 24 pictures" in results[0].protocol
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 6
    page = (tmp_path / "run/detect.html").read_text()
    assert page.count("<article>") == 10
    assert len(re.findall('<rect class="true"', page)) == len(results[0].items)
    assert page.index("<article>") < page.index("The figures")  # pictures first
    assert {"right", "wrong", "open"} >= set(re.findall(r'<rect class="(\w+)"', page)) - {"true", "halo"} != set()
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "run").iterdir() if file.suffix != ""}
    assert type_in(*command)[0] == 0
    assert before == {file: file.stat().st_mtime_ns for file in before}  # nothing is done twice
    (tmp_path / "run/results.json").unlink()
    assert type_in(*command)[0] == 0
    assert load_results(tmp_path / "run")[0][0].metrics == results[0].metrics  # measured again, not trained again
    assert (tmp_path / "run/head.safetensors").stat().st_mtime_ns == before[tmp_path / "run/head.safetensors"]
    for words, different in ((("--lr", "0.1"), "training.lr 0.002, not 0.1"), (("--seed", "1"), "training.seed 0, not 1")):
        code, _, complaint = type_in(*command, *words)
        assert code == 2
        assert f"another run ({different}" in complaint


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--steps", "0"), "training.steps is 0"),
        (("--batch", "99"), "24 examples to train on and a batch takes 99"),
        (("--batch", "8", "--tune", "lots"), "tune is 'lots'"),
        (("--split", "tset"), "no split 'tset'"),
        (("--training.lrr", "1"), "training.lrr"),
        (("--annotations", "a.json"), "Give both --annotations"),
        (("--annotations", "a.json", "--train-annotations", "a.json"), "a.json does not exist"),
        (("--recipe", "mine.toml"), "mine.toml does not exist"),
    ],
)
def test_what_is_refused_before_anything_is_written(type_in, tmp_path, words, said):
    code, _, complaint = type_in("detect", "model", "scenes", "--out", tmp_path / "run", *words)
    assert code == 2
    assert said in complaint
    assert not (tmp_path / "run").exists()


def test_boxes_are_drawn_as_what_they_are():
    """Right, wrong, and what nobody marked; as many as there are marked ones, the surest, and none on top of another."""
    own = ((0.0, 0.0, 10.0, 10.0), (30.0, 30.0, 40.0, 40.0), (50.0, 50.0, 60.0, 60.0))
    picture = BoxedPicture("a", (64, 64), own, ("red cup", "blue hat", "red cup"), unsure=("teal fork",))
    box = np.array([[0, 0, 10, 10], [0, 0, 11, 10], [20, 20, 28, 28], [30, 30, 40, 40], [50.0, 50, 60, 60]])
    found = Detections(box, np.array([0.9, 0.85, 0.8, 0.7, 0.6]), np.array([0, 1, 2, 0, 0]))
    drawn = _drawn(picture, found, Judge([picture], ("red cup", "blue hat", "teal fork"), frozenset({"red cup"})))
    assert [(one.mark, one.label, one.rare) for one in drawn] == [
        ("right", "red cup", False),
        ("open", "teal fork", True),
        ("wrong", "red cup", False),
    ]
    assert (drawn[1].x, drawn[1].width) == (20 / 64, 8 / 64)


@pytest.mark.slow
def test_annotations_with_a_tuned_tower(type_in, tmp_path):
    """COCO's layout with LVIS's frequencies: names that are rare there are never trained."""
    draw, rows = np.random.default_rng(0), []
    for n in range(12):
        Image.fromarray(draw.integers(0, 256, (32, 48, 3), dtype=np.uint8)).save(tmp_path / f"{n}.png")
        rows += [{"image_id": n, "category_id": c, "bbox": [4 * c, 3, 10, 12]} for c in {1 + n % 3, 3}]
    images = [{"id": n, "file_name": f"{n}.png", "width": 48, "height": 32, "neg_category_ids": [1, 2, 3]} for n in range(12)]
    categories = [{"id": c, "name": name, "frequency": f} for c, name, f in ((1, "cup", "f"), (2, "hat", "r"), (3, "fork", "c"))]
    (tmp_path / "boxes.json").write_text(json.dumps({"images": images, "annotations": rows, "categories": categories}))
    files = ("--annotations", tmp_path / "boxes.json", "--train-annotations", tmp_path / "boxes.json")
    code, _, complaint = type_in("detect", "model", tmp_path, "--out", tmp_path / "run", *files, *QUICK, "--tune", "last:1")
    assert code == 0, complaint
    (result,), _ = load_results(tmp_path / "run")  # no heat maps of a tower that was tuned
    assert {"rare/recall50", "common/recall50"} <= set(result.metrics)
    assert result.figure("rare/recall50").count == 4
    assert "tuned: last:1" in result.protocol
