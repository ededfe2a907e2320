"""Readers of benchmarks, on made-up files in the layout of the published ones; scores against closed forms; faults in one sentence."""

import csv
import io
import json
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from eval_fakes import FakeModel, vector
from PIL import Image

from wholegrain.errors import UserError
from wholegrain.evaluation.benchmarks.colorfoil import COLOURS, CSS3, foil
from wholegrain.evaluation.benchmarks.items import Benchmark, ClassRanking, Item, Picture, check
from wholegrain.evaluation.benchmarks.picture_tables import read_cell
from wholegrain.evaluation.benchmarks.pictures import Pictures
from wholegrain.evaluation.benchmarks.run import READERS, parse_benchmark, run_benchmarks
from wholegrain.evaluation.statistics.average_precision import step_average_precision
from wholegrain.evaluation.statistics.ties import in_front, in_order


def png(colour, size=(8, 8)):
    file = io.BytesIO()
    Image.fromarray(np.full((*size, 3), colour, np.uint8)).save(file, "PNG")
    return file.getvalue()


def photo(path, colour=0, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(colour, size))


def put(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def put_csv(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def put_table(path, rows, *, arrow=False, group=2):
    """As ``datasets`` writes them: pictures as structs of bytes and path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows)
    if not arrow:
        pq.write_table(table, path, row_group_size=group)
        return
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        for batch in table.to_batches(max_chunksize=group):
            writer.write_batch(batch)


def stored(colour):
    return {"bytes": png(colour), "path": f"{colour}.png"}


def only(found):
    assert len(found.items) == 1, found.items
    return found.items[0]


def seen(key):
    """The grey of a picture, by the name that a stand-in's tower has for it."""
    return int(key.removeprefix("key")) // 257


def colour_of(picture):
    pictures = Pictures([picture])
    return int(pictures.pixels(pictures.key[picture])[0, 0, 0])


# ---- pictures in tables -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arrow", [False, True])
def test_bivlc_reads_each_picture_out_of_its_row(tmp_path, arrow):
    rows = [
        {
            "image": stored(10 * n), "caption": f"c{n}", "negative_caption": f"f{n}", "negative_image": stored(10 * n + 5),
            "type": "swap", "subtype": "obj",
        }
        for n in range(5)
    ]  # fmt: skip
    end = "arrow" if arrow else "parquet"
    put_table(tmp_path / "data" / f"test-00000-of-00002.{end}", rows[:3], arrow=arrow)
    put_table(tmp_path / "data" / f"test-00001-of-00002.{end}", rows[3:], arrow=arrow)
    found = READERS["bivlc"](tmp_path)
    assert [(i.true, i.group, i.part) for i in found.items] == [((f"c{n}", f"f{n}"), "swap", "swap_obj") for n in range(5)]
    assert [tuple(map(colour_of, i.pictures)) for i in found.items] == [(10 * n, 10 * n + 5) for n in range(5)]
    assert "2,933 items, not 5" in found.notes[0]


def test_a_table_that_is_damaged_or_of_another_benchmark_is_one_sentence(tmp_path):
    path = tmp_path / "data" / "test.parquet"
    put_table(path, [{"image": stored(1), "caption": "a"}])
    with pytest.raises(UserError, match="no column 'negative_caption', only image, caption"):
        READERS["bivlc"](tmp_path)
    row = {"image": {"bytes": None, "path": "x"}, "caption": "a", "negative_caption": "b", "type": "add", "subtype": "att"}
    put_table(path, [row | {"negative_image": stored(3)}])
    with pytest.raises(UserError, match="row 1: the column 'image' holds no picture"):
        Pictures(READERS["bivlc"](tmp_path).items[0].pictures)
    with pytest.raises(UserError, match="has 1 rows, so there is no row 8"):
        read_cell(path, "negative_image", 7)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match="is not a table"):
        READERS["bivlc"](tmp_path)
    path.unlink()
    (path.parent / "test.arrow").write_bytes(b"ARROW1 but no more")
    with pytest.raises(UserError, match="is not a table"):
        READERS["bivlc"](tmp_path)


STRAIGHT = {"Text": "T0_I0 > T1_I0 & T1_I1 > T0_I1", "Image": "T0_I0 > T0_I1 & T1_I1 > T1_I0"}
CROSSED = {"Text": "T1_I0 > T0_I0 & T0_I1 > T1_I1", "Image": "T0_I1 > T0_I0 & T1_I0 > T1_I1"}


def test_vismin_sets_exchanged_captions_right(tmp_path):
    kinds = ("object", "attribute", "counting", "relation")
    rows = [
        {"id": n, "image_0": stored(n), "image_1": stored(100 + n), "text_0": "a", "text_1": "b", "category": kind}
        for n, kind in enumerate(kinds)
    ]
    put_table(tmp_path / "data" / "test" / "data-00000-of-00001.arrow", rows, arrow=True)
    with pytest.raises(UserError, match=r"sim_solution\.csv"):
        READERS["vismin"](tmp_path)
    answers = [{"idx": n, **(CROSSED if n == 2 else STRAIGHT), "category": kind} for n, kind in enumerate(kinds)]
    put_csv(tmp_path / "sim_solution.csv", answers)
    found = READERS["vismin"](tmp_path)
    assert [item.true for item in found.items] == [("a", "b"), ("a", "b"), ("b", "a"), ("a", "b")]
    assert [tuple(map(colour_of, item.pictures)) for item in found.items] == [(n, 100 + n) for n in range(4)]
    assert found.averages == {"mean_4": kinds}
    for change, said in (({"category": "relation"}, "category 'relation'"), ({"Text": "T0_I0 = T1_I0"}, "are no relations")):
        put_csv(tmp_path / "sim_solution.csv", [answers[0] | change, *answers[1:]])
        with pytest.raises(UserError, match=said):
            READERS["vismin"](tmp_path)
    put_csv(tmp_path / "sim_solution.csv", answers[:3])
    with pytest.raises(UserError, match="3 rows and the tables have 4"):
        READERS["vismin"](tmp_path)


def test_half_truths_ask_for_the_shorter_truth_and_for_the_order_of_three(tmp_path):
    rows = [
        {
            "id": f"x{n}", "image": stored(n), "anchor": f"anchor {n}", "half_truth": f"half {n}", "full_truth": f"full {n}",
            "triplet_type": ("entity", "relation")[n % 2],
        }
        for n in range(4)
    ]  # fmt: skip
    put_table(tmp_path / "data" / "coco_qwen.parquet", rows)
    # how near a text is to every picture: full, anchor and half of each item
    scores = {0: (3, 2, 1), 1: (1, 2, 0), 2: (3, 1, 2), 3: (2, 2, 1)}
    near = {f"{kind} {n}": value for n, own in scores.items() for kind, value in zip(("full", "anchor", "half"), own, strict=True)}
    model = FakeModel(lambda key: torch.tensor([1.0, 0.0]), lambda text: torch.tensor([near[text] / 10, (1 - (near[text] / 10) ** 2) ** 0.5]))
    result = run_benchmarks(model, [parse_benchmark(f"half_truths={tmp_path}")], progress=False)[0]
    figures = result.metrics
    assert figures["ht_accuracy"] == 3 / 4  # all but item 2
    assert figures["cor_accuracy"] == 1 / 4  # item 0 alone: 1 is out of order, 3 has a tie
    assert figures["cor_accuracy_expected"] == 3 / 8
    assert result.figure("cor_accuracy").chance == pytest.approx(1 / 6)
    assert result.figure("ht_accuracy").chance == 0.5
    assert figures["ht_coco_qwen_relation/accuracy"] == 1.0
    constant = FakeModel(lambda key: vector("x"), lambda text: vector("y"))
    result = run_benchmarks(constant, [parse_benchmark(f"half_truths={tmp_path}")], progress=False)[0]
    assert result.metrics["cor_accuracy_expected"] == pytest.approx(1 / 6)
    assert result.metrics["cor_accuracy"] == 0.0


# ---- pairs of pictures ------------------------------------------------------------------------------------------------------


def test_mmvp_vlm(tmp_path):
    rows = [
        {"Question ID": 1, "Type": "Color", "Statement": "a red cup"},
        {"Question ID": 2, "Type": "Color", "Statement": "a blue cup"},
    ]
    put_csv(tmp_path / "Questions.csv", rows)
    for number in (1, 2):
        photo(tmp_path / "MLLM_VLM Images" / "Color" / f"{number}.jpg", number)
        photo(tmp_path / "MLLM_VLM Images" / "Text" / f"{number}.jpg", 99)  # a picture of the same name in another folder
    item = only(READERS["mmvp_vlm"](tmp_path))
    assert (item.group, item.true) == ("Color", ("a photo of a red cup", "a photo of a blue cup"))
    assert list(map(colour_of, item.pictures)) == [1, 2]
    put_csv(tmp_path / "Questions.csv", rows[:1])
    with pytest.raises(UserError, match="has 1 rows, and two make a pair"):
        READERS["mmvp_vlm"](tmp_path)


def test_coco_counterfactuals_as_pairs_and_as_retrieval(tmp_path):
    rows = [
        {"id": f"{n}_0", "image_0": f"{n}_0_img_0", "image_1": f"{n}_0_img_1", "caption_0": f"a dog {n}", "caption_1": "a cat"}
        for n in range(3)
    ]
    put(tmp_path / "data" / "examples.jsonl", "\n".join(map(json.dumps, rows)) + "\n")
    for n in range(3):
        for m in (0, 1):
            photo(tmp_path / "data" / "images" / f"{n}_0_img_{m}.jpg", 10 * n + m + 1)
    found = READERS["coco_counterfactuals"](tmp_path, (tmp_path / "data",))
    assert [(i.id, i.true) for i in found.items] == [(f"{n}_0", (f"a dog {n}", "a cat")) for n in range(3)]
    assert [list(map(colour_of, i.pictures)) for i in found.items] == [[10 * n + 1, 10 * n + 2] for n in range(3)]
    # the three pictures of a cat share a caption, which is true of each: it stands first for all of them
    by_colour = {1: "a dog 0", 11: "a dog 1", 21: "a dog 2", 2: "a cat", 12: "a cat", 22: "a cat"}
    model = FakeModel(lambda key: vector(by_colour[seen(key)]), vector)
    result = run_benchmarks(model, [parse_benchmark(f"coco_counterfactuals_retrieval={tmp_path}", (tmp_path / "data",))], progress=False)[0]
    assert result.metrics["text_retrieval_recall@1"] == 1.0
    assert result.metrics["image_retrieval_recall@1"] == 1.0


def test_spec_in_both_directions(tmp_path):
    folder = tmp_path / "count"
    put(folder / "image2text.json", [{"query": "img/1.png", "keys": ["one", "two", "three"], "label": 1}])
    put(folder / "text2image.json", [{"query": "two", "keys": ["img/2.png", "img/1.png"], "label": 1}])
    photo(folder / "img" / "1.png", 1)
    photo(folder / "img" / "2.png", 2)
    photo(tmp_path / "existence" / "img" / "1.png", 50)  # the same names in another subset
    one, two = READERS["spec"](tmp_path).items
    assert (one.group, one.true, one.false, colour_of(one.pictures[0])) == ("i2t_count", ("two",), ("one", "three"), 1)
    assert (two.group, two.true, two.false, list(map(colour_of, two.pictures))) == ("t2i_count", ("two",), (), [1, 2])
    averages = READERS["spec"](tmp_path).averages
    assert averages["mean"] == (averages["i2t"], averages["t2i"])
    assert len(averages["i2t"]) == 6
    put(folder / "image2text.json", [{"query": "img/1.png", "keys": ["one"], "label": 3}])
    with pytest.raises(UserError, match="item 0: the label 3 is no place among its 1 keys"):
        READERS["spec"](tmp_path)


# ---- one picture ------------------------------------------------------------------------------------------------------------


def test_bla_counts_sentences_in_their_half(tmp_path):
    group = {"group_index": 0, "True1": "t1", "True2": "t2", "False1": "f1", "False2": "f2", "score": [1, 1, 1, 1]}
    rows = [{"image_id": 73, "index": 0, "caption_group": [group, {}]}, {"image_id": 74, "index": 1, "caption_group": []}]
    put(tmp_path / "BLA_Benchmark" / "annotations" / "active_passive_captions.json", rows)
    photo(tmp_path / "BLA_Benchmark" / "images" / "73.jpg")
    found = READERS["bla"](tmp_path)
    assert (only(found).true, only(found).false, only(found).group) == (("t1", "t2"), ("f1", "f2"), "active_passive")
    assert "coordination, relative_clause" in found.notes[0]
    # t1 first, f1 second: half of the sentences are in their half
    near = {"t1": 0.9, "f1": 0.8, "t2": 0.7, "f2": 0.1}
    model = FakeModel(lambda key: torch.tensor([1.0, 0.0]), lambda text: torch.tensor([near[text], (1 - near[text] ** 2) ** 0.5]))
    result = run_benchmarks(model, [parse_benchmark(f"bla={tmp_path}")], progress=False)[0]
    assert (result.metrics["half_accuracy"], result.metrics["accuracy"]) == (0.5, 0.0)
    assert result.figure("half_accuracy").chance == 0.5
    assert result.figure("accuracy").chance == pytest.approx(1 / 6)


def test_half_ranks_and_orders_against_all_ways_to_break_ties():
    rng = np.random.default_rng(0)
    for _ in range(60):
        scores = rng.integers(0, 3, 4).astype(float)
        orders = [sorted(range(4), key=lambda n, p=p, s=scores: (-s[n], p[n])) for p in permutations(range(4))]
        share = [len({0, 1} & set(order[:2])) / 2 for order in orders]
        strict, expected = in_front(scores[None, :2], scores[None, 2:])
        assert expected[0] == pytest.approx(np.mean(share))
        assert strict[0] == min(share)
        in_place = [order == [0, 1, 2, 3] for order in orders]
        strict, expected, tied = in_order(scores[None])
        assert expected[0] == pytest.approx(np.mean(in_place))
        assert (strict[0], tied[0]) == (all(in_place), any(in_place) and not all(in_place))


def test_colorfoil_makes_its_items_by_the_notebooks_rules(tmp_path):
    assert len(CSS3) == 147
    assert {"grey", "gray", "tan", "salmon"} <= CSS3
    texts = [["A Red bus.", "a red bus", "a blue bus"], ["no colour"], ["covered in red sand"]]
    document = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "coco_url": ""} for n in range(3)],
        "annotations": [{"image_id": n, "id": 0, "caption": text} for n, own in enumerate(texts) for text in own],
    }
    put(tmp_path / "annotations" / "captions_val2017.json", document)
    for n in range(3):
        photo(tmp_path / "val2017" / f"{n}.jpg", n)
    one, two = READERS["colorfoil"](tmp_path).items
    assert (one.group, one.true) == ("whole_words", ("a red bus",))
    assert (two.group, two.true) == ("inside_words", ("covered in red sand",))
    assert one.false[0] in {f"a {colour} bus" for colour in COLOURS} - {"a red bus"}
    assert two.false[0].startswith("cove")
    assert two.false[0].split()[0] != "covered"
    drawn = {foil(f"a red bus {n}").split()[1] for n in range(200)}
    assert drawn == set(COLOURS) - {"red"}


def test_fg_ovd_cuts_boxes_and_keeps_what_has_enough_negatives(tmp_path):
    document = {
        "images": [{"id": 5, "file_name": "val2017/5.jpg", "width": 20, "height": 20}],
        "annotations": [
            {"id": n, "image_id": 5, "bbox": [2.0, 3.0, 6.0, 8.0], "category_id": 0, "neg_category_ids": list(range(1, 1 + count))}
            for n, count in enumerate((10, 4, 12))
        ],
        "categories": [{"id": n, "name": f"d{n}"} for n in range(14)],
    }
    put(tmp_path / "benchmarks" / "1_attributes.json", document)
    put(tmp_path / "transparency.json", document)
    photo(tmp_path / "coco" / "val2017" / "5.jpg", 1, (20, 20))
    found = READERS["fg_ovd"](tmp_path, (tmp_path / "benchmarks",))
    assert [(i.id, i.group, len(i.false)) for i in found.items] == [(str(n), "transparency", 2) for n in range(3)]
    found = READERS["fg_ovd"](tmp_path / "benchmarks", (tmp_path / "coco",))
    assert [(i.id, i.group, i.true, len(i.false)) for i in found.items] == [("0", "hard", ("d0",), 10), ("2", "hard", ("d0",), 10)]
    picture = found.items[0].pictures[0]
    pictures = Pictures([picture])
    assert pictures.pixels(pictures.key[picture]).shape == (8, 6, 3)
    assert len(READERS["fg_ovd"](tmp_path / "benchmarks", (tmp_path / "coco",), negatives=4).items) == 3
    with pytest.raises(UserError, match="negatives = 11"):
        READERS["fg_ovd"](tmp_path, negatives=11)


# ---- rankings ---------------------------------------------------------------------------------------------------------------


def _cola(folder, *, pairs=False, hard=None):
    classes = ["red cup", "blue cup", "green cup"]
    shown = [[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]]
    hard = hard or [[1, 1, 0], [1, 1, 0], [1, 0, 0], [1, 1, 0]]
    rows = [[f"{n}.jpg", {"cup": []}, shown[n], hard[n]] for n in range(4)]
    put(folder / "data" / "COLA_singleobjects_benchmark_GQA.json", [classes, rows] if pairs else {"labels": classes, "data": rows})
    for n in range(4):
        photo(folder / "vg" / f"{n}.jpg", n + 1)


@pytest.mark.parametrize("pairs", [False, True])
def test_cola_single_object_is_the_mean_precision_among_hard_pictures(tmp_path, pairs):
    _cola(tmp_path, pairs=pairs)
    found = READERS["cola_single_object"](tmp_path)[0]
    assert isinstance(found, ClassRanking)
    near = {1: (0.1, 0.2), 2: (0.3, 0.9), 3: (0.5, 0.8), 4: (0.2, 0.3)}  # to "red cup" and to "blue cup", by the picture's colour
    axes = {"red cup": torch.tensor([1.0, 0.0, 0.0]), "blue cup": torch.tensor([0.0, 1.0, 0.0]), "green cup": torch.tensor([0.0, 0.0, 1.0])}
    model = FakeModel(lambda key: _spot(*near[seen(key)]), lambda text: axes[text])
    result = run_benchmarks(model, [parse_benchmark(f"cola_single_object={tmp_path}")], progress=False)[0]
    # red cup: pictures 3 1 4 2 by colours 3, 2, 4, 1 -> true, false, false, true: (1 + 2/4) / 2; blue cup: its picture stands first of three
    assert result.metrics["mean_average_precision"] == pytest.approx((0.75 + 1.0) / 2)
    assert result.task == "cola_single_object_gqa"
    assert "1 classes left out" in result.protocol
    assert result.items["mean_average_precision"].to_pylist() == pytest.approx([0.75, 1.0])
    assert 0.4 < result.figures[0].chance < 0.8


def _spot(a, b):
    return torch.tensor([a, b, max(0.0, 1 - a * a - b * b) ** 0.5])


def test_step_average_precision_against_loops_and_a_constant():
    rng = np.random.default_rng(1)
    for _ in range(20):
        scores, true = rng.integers(0, 5, 12), rng.integers(0, 2, 12)
        true[0] = 1
        weights = rng.integers(0, 3, 12)
        weights[0] = 1
        drawn = np.repeat(np.arange(12), weights)
        s, t = scores[drawn], true[drawn]
        value, recall = 0.0, 0.0
        for threshold in sorted(set(s), reverse=True):
            taken = s >= threshold
            now = t[taken].sum() / t.sum()
            value += (now - recall) * t[taken].mean()
            recall = now
        found = step_average_precision(scores[None], true[None], weights[None].astype(float))
        assert found[0] == pytest.approx(value, abs=1e-12)
    constant = step_average_precision(np.zeros((1, 8)), np.array([[1, 0, 0, 0, 1, 0, 0, 0]]), np.ones((1, 8)))
    assert constant[0] == pytest.approx(0.25)
    assert np.isnan(step_average_precision(np.zeros((1, 2)), np.array([[0, 0]]), np.ones((1, 2)))[0])


def test_cola_single_object_refuses_marks_of_another_length(tmp_path):
    _cola(tmp_path, hard=[[1, 1]] * 4)
    with pytest.raises(UserError, match="row 0: hard marks are not a 0 or 1 for each of the 3 classes"):
        READERS["cola_single_object"](tmp_path)
    put(tmp_path / "data" / "COLA_singleobjects_benchmark_GQA.json", {"labels": []})
    with pytest.raises(UserError, match="holds no labels and data"):
        READERS["cola_single_object"](tmp_path)


def test_an_ordered_item_needs_one_picture():
    item = Item("1", "g", (Picture(Path("a")), Picture(Path("b"))), ("t", "u"), ordered=True)
    with pytest.raises(UserError, match="is ordered"):
        check([item], "mine")
    check([replace(item, pictures=item.pictures[:1], false=("v",))], "mine")
    assert Benchmark("mine", (item,), "p").items[0].ordered
