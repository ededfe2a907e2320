"""Readers of the official annotation formats, on made-up files of the same form; functions and models of the user's own; the command."""

import csv
import json

import numpy as np
import pytest
import torch
from eval_fakes import FakeModel, vector
from PIL import Image

from wholegrain.cli.evaluate import EvaluateArguments, evaluate
from wholegrain.errors import UserError
from wholegrain.evaluation.benchmarks.aro import aro, plain, shuffled_forms
from wholegrain.evaluation.benchmarks.pictures import Pictures
from wholegrain.evaluation.benchmarks.run import READERS, parse_benchmark, run_benchmarks, suite_file
from wholegrain.evaluation.named import load_foreign
from wholegrain.evaluation.result import save_results


def photo(path, colour=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), colour, np.uint8)).save(path)


def put(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def put_csv(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def only(found):
    assert len(found.items) == 1, found.items
    return found.items[0]


def test_sugarcrepe(tmp_path):
    row = {"filename": "1.jpg", "caption": "A cat naps.", "negative_caption": "A dog naps."}
    put(tmp_path / "swap_obj.json", {"7": row, "8": row | {"filename": "gone.jpg"}})
    photo(tmp_path / "somewhere" / "val" / "1.jpg")
    put(tmp_path / "images.json", {"1.jpg": "somewhere/val/1.jpg"})
    found = READERS["sugarcrepe"](tmp_path)
    assert (only(found).id, only(found).group, only(found).true, only(found).false) == (
        "7",
        "swap_obj",
        ("A cat naps.",),
        ("A dog naps.",),
    )
    assert any("1 of 2 items left out" in note for note in found.notes)
    assert any("add_att.json" in note and "github.com/RAIVNLab/sugar-crepe" in note for note in found.notes)


def test_sugarcrepe_plus_has_a_task_with_and_one_without_the_picture(tmp_path):
    put(tmp_path / "replace_att.json", [{"id": 3, "filename": "1.jpg", "caption": "a", "caption2": "b", "negative_caption": "c"}])
    photo(tmp_path / "1.jpg")
    with_picture, without = READERS["sugarcrepe_plus"](tmp_path).items
    assert (with_picture.shape, without.shape) == ((1, 2, 1), (0, 2, 1))


def test_valse_keeps_what_two_annotators_found_valid(tmp_path):
    row = {"image_file": "1.jpg", "caption": "a", "foil": "b", "mturk": {"caption": 2, "foil": 1, "other": 0}}
    put(tmp_path / "data" / "plurals.json", {"x": row, "y": row | {"mturk": {"caption": 1, "foil": 2, "other": 0}}})
    photo(tmp_path / "1.jpg")
    assert only(READERS["valse"](tmp_path)).id == "x"


def test_vl_checklist_means_over_sources_then_types(tmp_path):
    for where in (
        "Attribute/vg/action",
        "Attribute/vaw/action",
        "Object/Location/hake_location/hake_obj_center",
        "Relation/vg/spatial",
    ):
        put(tmp_path / "data" / f"{where}.json", [["V/1.jpg", {"POS": ["walking dog", "x"], "NEG": ["sitting dog"]}]])
    photo(tmp_path / "vg" / "V" / "1.jpg")
    photo(tmp_path / "hake" / "V" / "1.jpg", 9)
    found = READERS["vl_checklist"](tmp_path)
    assert [item.group for item in found.items] == ["attribute_action", "attribute_action", "object_location", "relation_spatial"]
    assert found.averages["attribute_action"] == ("attribute_action:vaw", "attribute_action:vg")
    assert "mean_9" not in found.averages
    assert "hake" in str(found.items[2].pictures[0].path)


def test_aro_cuts_boxes_and_drops_relations(tmp_path):
    row = {
        "image_path": "1.png", "bbox_x": 2, "bbox_y": 1, "bbox_w": 4, "bbox_h": 30, "true_caption": "the dog is on the mat",
        "false_caption": "the mat is on the dog", "relation_name": "on",
    }  # fmt: skip
    put(tmp_path / "visual_genome_relation.json", [row, row | {"relation_name": "near"}])
    photo(tmp_path / "images" / "1.png")
    put(tmp_path / "dropped_relations.txt", "near\n")
    found = aro(tmp_path)
    assert len(found.items) == 2
    assert found.averages["vg_relation_macro"] == ("vg_relation:on",)
    picture = found.items[0].pictures[0]
    pictures = Pictures([picture])
    assert pictures.pixels(pictures.key[picture]).shape == (7, 4, 3)


def test_aro_orders(tmp_path):
    tags = {"red": "JJ", "dog": "NN", "chases": "VBZ", "small": "JJ", "cat": "NN"}
    put(tmp_path / "coco_karpathy_test.json", [{"image": "1.jpg", "caption": ["Red dog chases small cat."]}])
    photo(tmp_path / "1.jpg")
    found = aro(tmp_path, tagger=lambda text: [(w, tags.get(w.lower(), "DT")) for w in text.rstrip(".").split()])
    item = only(found)
    assert item.true == ("red dog chases small cat",)
    assert all(sorted(text.split()) == sorted(item.true[0].split()) for text in item.false)
    assert item.true[0] not in item.false
    assert plain('A "red" cup;') == "a red cup"
    fixed = [("a", "DT"), ("dog", "NN"), ("ran", "VBD")]
    assert shuffled_forms("a dog ran", lambda text: fixed, "s")[0] == "a dog ran"


def test_quads(tmp_path):
    for n in (1, 2):
        photo(tmp_path / "images" / f"p{n}.png", n)
        photo(tmp_path / "images" / f"{n}.jpg", n)
    row = {"id": 4, "image_0": "p1", "image_1": "p2", "caption_0": "a", "caption_1": "b", "collapsed_tag": "Object"}
    put(tmp_path / "examples.jsonl", json.dumps(row) + "\n")
    row = {"id": 0, "caption_1": "a", "caption_2": "b", "image_1": "images/p1.png", "image_2": "images/p2.png"}
    put(tmp_path / "test.json", [row | {"caption_source": "human"}])
    put(tmp_path / "COLA_multiobjects_matching_benchmark.json", [["https://x.edu/a/1.jpg", "a", "https://x.edu/a/2.jpg", "b"]])
    names = {"winoground": "Object", "colorswap": "human", "cola": "multi_object"}
    for name, group in names.items():
        item = only(READERS[name](tmp_path))
        assert (item.group, item.true, item.shape) == (group, ("a", "b"), (2, 2, 0))
        assert [p.path.name[-5] for p in item.pictures] == ["1", "2"]


def test_eqben_is_found_at_any_depth(tmp_path):
    row = {"image0": "p1.png", "image1": "p2.png", "caption0": ["a", "more"], "caption1": "b"}
    put(tmp_path / "ag.json", {"video": {"person": [row]}})
    put(tmp_path / "sd.json", [row, row | {"image0": "frame.npy"}])
    photo(tmp_path / "p1.png", 1)
    photo(tmp_path / "p2.png", 2)
    found = READERS["eqben"](tmp_path)
    assert [(item.group, item.true) for item in found.items] == [("ag", ("a", "b")), ("sd", ("a", "b"))]
    assert found.averages == {"mean": ("ag", "sd")}


def test_crepe(tmp_path):
    row = {"image_id": 5, "x": 0, "y": 0, "width": 4, "height": 4, "caption": "a dog", "hard_negs": "['a cat', 'a cow']"}
    put_csv(tmp_path / "swap" / "prod_vg_hard_negs_swap_complexity_4.csv", [row])
    put_csv(tmp_path / "syst_vg_hard_negs_unseen_compounds_in_cc12m.csv", [row | {"valid_hard_negs_atom": "['a cat']"}])
    photo(tmp_path / "vg" / "5.jpg")
    one, two = READERS["crepe"](tmp_path).items
    assert (one.group, one.part, one.false) == ("productivity_swap", "productivity_swap:4", ("a cat", "a cow"))
    assert two.group == "systematicity_atom_unseen_compounds"


def test_whatsup(tmp_path):
    names = ["mug_left_of_plate", "mug_right_of_plate", "mug_on_plate", "mug_under_plate"]
    rows = [{"image_path": f"data/controlled_images/{n}.jpeg", "caption_options": ["t", "f1", "f2", "f3"]} for n in names]
    put(tmp_path / "controlled_images_dataset.json", rows)
    put(tmp_path / "coco_qa_one_obj.json", [[42, "a dog on the left", "a dog on the right"]])
    for n in names:
        photo(tmp_path / "controlled_images" / f"{n}.jpeg")
    photo(tmp_path / "val2017" / "000000000042.jpg")
    found = READERS["whatsup"](tmp_path).items
    assert [item.together.get("pair") for item in found] == ["mug|plate|sideways"] * 2 + ["mug|plate|other"] * 2 + [None]
    assert len({item.together.get("set") for item in found[:4]}) == 1
    assert found[4].false == ("a dog on the right",)


def test_svo_negbench_vsr_and_tables(tmp_path):
    for n in (1, 2):
        photo(tmp_path / "p" / f"{n}.jpg", n)
    svo = {
        "sentence": "A man runs.",
        "pos_image_id": 1,
        "neg_image_id": 2,
        "subj_neg": "False",
        "verb_neg": "True",
        "obj_neg": "False",
    }
    put_csv(tmp_path / "svo_probes.csv", [svo])
    item = only(READERS["svo_probes"](tmp_path))
    assert (item.group, item.shape) == ("verb_neg", (2, 1, 0))
    choice = {
        "image_path": "x/1.jpg",
        **{f"caption_{n}": f"c{n}" for n in range(4)},
        "correct_answer": 2,
        "correct_answer_template": "hybrid",
    }
    put_csv(tmp_path / "neg" / "COCO_val_mcq.csv", [choice])
    put_csv(tmp_path / "neg" / "COCO_val_retrieval.csv", [{"filepath": "x/1.jpg", "captions": "['a', 'b']"}])
    item = only(READERS["negbench"](tmp_path / "neg", (tmp_path / "p",)))
    assert (item.group, item.true, item.false) == ("COCO_val_mcq:hybrid", ("c2",), ("c0", "c1", "c3"))
    assert READERS["negbench_retrieval"](tmp_path / "neg", (tmp_path / "p",))[0].captions == (("a", "b"),)
    put(tmp_path / "test.jsonl", json.dumps({"image": "1.jpg", "caption": "The cat is on it.", "label": 1, "relation": "on"}))
    assert only(READERS["vsr"](tmp_path)).label is True
    put(tmp_path / "mine.jsonl", json.dumps({"image": "p/1.jpg", "true": ["a", "b"], "false": "c", "kind": "half_truth"}))
    item = only(READERS["pairs"](tmp_path / "mine.jsonl"))
    assert (item.group, item.true, item.false) == ("half_truth", ("a", "b"), ("c",))


def test_captions_of_karpathy_and_val2017_are_told_apart(tmp_path):
    for n in (1, 2):
        photo(tmp_path / "val2014" / f"{n}.jpg", n)
    rows = [
        {"filepath": "val2014", "filename": f"{n}.jpg", "split": split, "sentences": [{"raw": f"c{n} "}, {"raw": "d"}]}
        for n, split in ((1, "test"), (2, "val"))
    ]
    put(tmp_path / "dataset_coco.json", {"images": rows})
    found = READERS["coco_karpathy"](tmp_path)
    assert (found.name, found.captions) == ("coco_karpathy", (("c1", "d"),))
    put(
        tmp_path / "captions_val2017.json",
        {"images": [{"id": 9, "file_name": "2.jpg"}], "annotations": [{"image_id": 9, "caption": " x"}]},
    )
    found = READERS["coco_val2017"](tmp_path)
    assert (found.name, found.captions) == ("coco_val2017", (("x",),))
    assert "not the Karpathy" in found.protocol


@pytest.mark.parametrize("name", [name for name in READERS if name not in ("pairs", "captions")])
def test_an_empty_folder_is_answered_by_where_to_get_the_files(tmp_path, name):
    with pytest.raises(UserError, match="http"):
        READERS[name](tmp_path)


def test_names_are_checked():
    with pytest.raises(UserError, match="sugarcrepe"):
        parse_benchmark("sugarcreep=x")
    with pytest.raises(UserError, match="--benchmark sugarcrepe=FOLDER"):
        parse_benchmark("sugarcrepe")


MINE = """
from pathlib import Path
from wholegrain.evaluation.benchmarks.items import Item, Picture

def items(model, folder, count=2):
    return [Item(str(n), "g", (Picture(Path(folder) / f"{n}.png"),), (f"a {n}",), (f"b {n}",)) for n in range(count)]

def nothing(model):
    return 3
"""

FOREIGN = """
import numpy as np, torch
class Tiny:
    def preprocess(self, picture):
        return torch.from_numpy(np.array(picture.resize((2, 2)))).permute(2, 0, 1).float()
    def encode_images(self, pixels):
        return pixels.flatten(1)
    def encode_texts(self, texts):
        assert all(isinstance(text, str) for text in texts)
        return torch.tensor([[float(len(text))] * 12 for text in texts])
def tiny():
    return Tiny()
def broken():
    return object()
"""


def test_a_function_and_a_model_of_the_users_own(tmp_path):
    put(tmp_path / "mine.py", MINE)
    put(tmp_path / "foreign.py", FOREIGN)
    for n in range(3):
        photo(tmp_path / "p" / f"{n}.png", 40 + n)
    put(tmp_path / "suite.toml", '[[benchmark]]\nname = "mine.py:items"\nfolder = "p"\ncount = 3\n')
    model = load_foreign(f"{tmp_path / 'foreign.py'}:tiny")
    wanted = [*suite_file(tmp_path / "suite.toml"), parse_benchmark(f"{tmp_path / 'mine.py'}:items={tmp_path / 'p'}")]
    found = run_benchmarks(model, wanted, progress=False, cache=tmp_path / "cache")
    assert [(r.task, r.figure("accuracy").count) for r in found] == [("items", 3), ("items-2", 2)]
    assert found[0].metrics["accuracy_expected"] == 0.5
    with pytest.raises(UserError, match="int"):
        run_benchmarks(model, [parse_benchmark(f"{tmp_path / 'mine.py'}:nothing")], progress=False)
    with pytest.raises(UserError, match="encode_texts"):
        load_foreign(f"{tmp_path / 'foreign.py'}:broken")


def test_results_can_be_read_by_clip_benchmark(tmp_path):
    for n in range(3):
        photo(tmp_path / f"{n}.jpg", n)
    put(tmp_path / "t.jsonl", "\n".join(json.dumps({"image": f"{n}.jpg", "true": "a", "false": "b"}) for n in range(3)))
    results = run_benchmarks(FakeModel(lambda key: vector("x"), vector), [parse_benchmark(f"pairs={tmp_path / 't.jsonl'}")], progress=False)
    save_results(results, tmp_path / "out", {"model": "mine", "datasets": {"t": "t"}})
    row = json.loads((tmp_path / "out" / "clip_benchmark" / "t.json").read_text())
    assert set(row) == {"dataset", "model", "pretrained", "task", "metrics", "language"}
    assert row["model"] + " " + row["pretrained"] == "mine "
    assert row["metrics"]["accuracy"] == results[0].metrics["accuracy"]


def test_long_texts_say_what_share_was_cut(tmp_path):
    for n in range(4):
        photo(tmp_path / "image" / f"{n}.jpg", n)
        put(tmp_path / "caption" / f"{n}.txt", f"{'long ' * n}text {n}\nsecond line")
    model = FakeModel(vector, vector)
    plain_encode = model.tokenizer.encode

    def cutting(texts):
        tokens = plain_encode(texts)
        tokens.cut_N = torch.tensor([len(text) > 14 for text in texts])
        return tokens

    model.tokenizer.encode = cutting
    found = run_benchmarks(model, [parse_benchmark(f"urban1k={tmp_path}")], progress=False)[0]
    assert found.metrics["texts_cut"] == 0.5
    assert found.figure("image_retrieval_recall@1").chance == 0.25


def test_the_command(tmp_path, capsys):
    put(tmp_path / "foreign.py", FOREIGN)
    for n in range(3):
        photo(tmp_path / f"{n}.jpg", n)
    put(tmp_path / "t.jsonl", "\n".join(json.dumps({"image": f"{n}.jpg", "true": "a", "false": "b"}) for n in range(3)))
    model = f"{tmp_path / 'foreign.py'}:tiny"
    evaluate(
        EvaluateArguments(
            model=model, benchmark=(f"pairs={tmp_path / 't.jsonl'}",), out=tmp_path / "out", device="cpu", cache=tmp_path / "cache"
        )
    )
    row = json.loads((tmp_path / "out" / "results.json").read_text())["results"][0]
    assert (row["task"], row["dataset"], row["model"]) == ("t", "t", model)
    assert row["metrics"]["accuracy_expected"] == 0.5
    assert "too few to rank methods" in capsys.readouterr().out.replace("\n", " ")
    with pytest.raises(UserError, match="--benchmark NAME=FOLDER"):
        evaluate(EvaluateArguments(model=model, device="cpu"))
