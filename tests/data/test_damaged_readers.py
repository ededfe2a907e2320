"""Benchmarks, suites, prompts, dense sets, kept features and runs that are damaged: one sentence, or what is left is used."""

import json

import numpy as np
import pytest
import torch
from damage import damaged_files, damaged_json_files, met_badly
from eval_fakes import FakeModel, vector
from PIL import Image

from wholegrain.enrich.captions.prompting import load_prompts
from wholegrain.errors import UserError
from wholegrain.evaluation.benchmarks.run import BenchmarkSpec, _read, parse_benchmark, suite_file
from wholegrain.evaluation.dense.folder import boxed, class_set
from wholegrain.evaluation.features.feature_store import FeatureStore
from wholegrain.report.entry import Entry
from wholegrain.report.figures import training_charts
from wholegrain.towers.feature_files import read_features, write_features

ROW = {"filename": "1.jpg", "caption": "A cat naps.", "negative_caption": "A dog naps."}
BENCHMARKS = {
    "sugarcrepe": {"swap_obj.json": {"7": ROW}},
    "valse": {"plurals.json": {"1": {"image_file": "1.jpg", "caption": "a", "foil": "b", "mturk": {"caption": 3}}}},
    "coco_val2017": {
        "captions_val2017.json": {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [{"image_id": 1, "caption": "a"}]}
    },
    "flickr8k": {"dataset_flickr8k.json": {"images": [{"split": "test", "filename": "1.jpg", "sentences": [{"raw": "a cat"}]}]}},
    "whatsup": {
        "controlled_images_dataset.json": [{"image_path": "data/x/a_left_of_b.jpg", "caption_options": ["a", "b", "c", "d"]}],
        "images.json": {"x/a_left_of_b.jpg": "1.jpg"},
    },
    "cola": {"COLA_multiobjects_matching_benchmark.json": [["1.jpg", "a", "2.jpg", "b"]]},
    "colorswap": {"test.json": [{"image_1": "1.jpg", "image_2": "2.jpg", "caption_1": "a", "caption_2": "b"}]},
}


def put(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value))
    for name in ("1.jpg", "2.jpg"):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / name)
    return folder


@pytest.mark.parametrize("name", BENCHMARKS)
def test_annotations_of_another_form_are_one_sentence(name, tmp_path):
    folder = put(tmp_path / "b", BENCHMARKS[name])
    assert _read(parse_benchmark(f"{name}={folder}"), None)

    def read(copy):
        _read(parse_benchmark(f"{name}={copy}"), None)

    bad = [met_badly(what, read, copy) for what, copy in damaged_files(folder, lambda path: path.suffix == ".json", every=2)]
    bad += [met_badly(what, read, copy) for what, copy in damaged_json_files(folder, every=3)]
    assert len(bad) > 20
    assert not any(bad), "\n".join(filter(None, bad))


def test_tables_and_settings_of_benchmarks(tmp_path):
    folder = put(tmp_path / "b", {})
    for text in ("", "image,caption\n1.jpg\n", "image,caption\n1.jpg,a,b,c\n", "x\0y,caption\n", 'image,caption\n"1.jpg,a' + "x" * 200_000):
        (folder / "t.csv").write_text(text)
        assert met_badly(text[:30], _read, BenchmarkSpec("captions", folder / "t.csv"), None) is None
    (folder / "t.jsonl").write_text("[1]\n")
    with pytest.raises(UserError, match=r"t\.jsonl, line 1: .*is not a table"):
        _read(BenchmarkSpec("captions", folder / "t.jsonl"), None)
    with pytest.raises(UserError, match="sugarcrepe has no setting 'limt'"):
        _read(BenchmarkSpec("sugarcrepe", put(tmp_path / "s", BENCHMARKS["sugarcrepe"]), settings={"limt": 1}), None)


@pytest.mark.parametrize(
    "text",
    [
        "benchmark = 1", "benchmark = [1]", "[[benchmark]]\nname = 3", "[[benchmark]]\nname = 'sugarcrepe'\nfolder = 7", "average = 'x'",
        "[[benchmark]]\nname = 'sugarcrepe'\nfolder = '.'\nshots = 'many'", "[[benchmark]]\nfolder = 'x'", "x = " + "[" * 100_000,
        "[[benchmark]]\nname = 'sugarcrepe'\nfolder = '.'\nimages = [1]",
    ],
)  # fmt: skip
def test_suites_are_checked_by_types(text, tmp_path):
    path = tmp_path / "suite.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"suite\.toml"):
        suite_file(path)


@pytest.mark.parametrize(
    "text",
    ["[a]\ntext = 1", "a = 1", "[a]\ntext = ''", "[a]\ntext = 'x'\nmax_tokens = 0", "[a]\ntext = 'x'\nmax_tokens = 1000000000000",
     "[a]\ntext = 'x'\ntemperature = nan", "[a]\ntext = 'x'\ntemperature = -1", "[a]\ntext = 'x'\ntexts = 'y'", "version = []\n[a]\ntext = 'x'",
     "['a b']\ntext = 'x'", ""],
)  # fmt: skip
def test_prompts_are_checked_by_types(text, tmp_path):
    path = tmp_path / "prompts.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"prompts\.toml"):
        load_prompts([str(path)])


def test_dense_sets_are_checked_by_types(tmp_path):
    coco = {
        "images": [{"id": 1, "file_name": "1.jpg"}],
        "annotations": [{"image_id": 1, "category_id": 2, "bbox": [0, 0, 4, 4]}],
        "categories": [{"id": 2, "name": "cat"}],
    }
    classes = {"1": "person", "2": {"name": "dog", "plain": ["dog", "hound"], "isthing": 1}}
    one = put(tmp_path / "one", {"classes.json": classes, "boxes.json": {"1.jpg": {"objects": [{"class": "cat", "box": [0, 0, 4, 4]}]}}})
    two = put(tmp_path / "two", {"instances_val.json": coco})
    assert len(boxed(one)) == len(boxed(two)) == 1
    assert class_set(one).words == (("person",), ("dog", "hound"))
    bad = [met_badly(what, class_set, copy) or met_badly(what, boxed, copy) for what, copy in damaged_json_files(one, every=2)]
    bad += [met_badly(what, boxed, copy) for what, copy in damaged_json_files(two, every=3)]
    assert not any(bad), "\n".join(filter(None, bad))


def test_kept_features_that_are_damaged_are_made_anew(tmp_path):
    texts = ["a cat", "a dog"]
    model = FakeModel(None, lambda text: vector(text))
    want = FeatureStore(model, tmp_path / "store").texts(texts)[0].pooled_ND

    def read(copy):
        assert torch.equal(FeatureStore(model, copy).texts(texts)[0].pooled_ND, want)

    bad = [met_badly(what, read, copy) for what, copy in damaged_files(tmp_path / "store")]
    assert not any(bad), "\n".join(filter(None, bad))
    write_features(tmp_path / "f" / "x.safetensors", {"a": torch.ones(3)})

    def kept(copy):
        found = read_features(copy / "x.safetensors", 1e9)
        assert found is None or torch.equal(found["a"], torch.ones(3))

    bad = [met_badly(what, kept, copy) for what, copy in damaged_files(tmp_path / "f")]
    assert not any(bad), "\n".join(filter(None, bad))


def test_a_report_takes_of_a_damaged_run_what_is_left(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text(json.dumps({"seed": 1, "versions": {"torch": "2"}, "data_hash": "x"}))
    (run / "recipe.toml").write_text("paper = 'p'\n[optimiser]\nbatch = 8\n")
    lines = [{"step": 0, "loss": 2.0, "images_per_s": 3.0}, {"step": 1, "loss": 10**400, "lr": None}, {"step": "x"}, [], {"loss": 1.0}]
    lines += [{"step": 1, "evaluation": {"val": 0.5}}, {"step": 1, "evaluation": None}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 2')
    whole = Entry("e", run, None, []).history
    assert (whole.step_count, whole.images, whole.seed, len(whole.steps), whole.evaluations) == (2, 16, 1, 2, [(2, {"val": 0.5})])

    def read(copy):
        entry = Entry("e", copy, None, [])
        training_charts([entry])
        return entry.history.images, entry.history.seed

    bad = [met_badly(what, read, copy) for what, copy in damaged_files(run)]
    bad += [met_badly(what, read, copy) for what, copy in damaged_json_files(run)]
    assert not any(bad), "\n".join(filter(None, bad))
