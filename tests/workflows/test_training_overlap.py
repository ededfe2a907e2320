"""Which test pictures a run was trained on."""

import shutil

import pyarrow as pa
import pytest
from tiny_training import make_dataset, make_model, make_recipe, train

from wholegrain.evaluation.result import TaskResult
from wholegrain.workflows.training_overlap import describe_overlap, training_pictures


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path / "photos")


def run(dataset, folder, model="small", data=None):
    recipe = make_recipe("clip", "--optimiser.steps", "1")
    origin = {"data": str(data or dataset.folder), "model": str(model)}
    train(recipe, dataset, make_model(dataset), folder, device="cpu", quiet=True, origin=origin)
    return folder


def result_of(keys, task="retrieval"):
    return TaskResult(task, "", (), pa.table({"cluster": [*keys, *keys]}))


def test_pictures_of_the_training_split_are_counted_and_others_are_not(dataset, tmp_path):
    folder = run(dataset, tmp_path / "run")
    train_keys, test_keys = dataset.keys("train"), dataset.keys("val")
    for name in (folder, folder / "model", f"{folder}:last"):
        trained = training_pictures(str(name))
        assert trained is not None
        assert trained.keys == frozenset(train_keys)
        assert trained.count_in(result_of(test_keys)) == 0
        assert trained.count_in(result_of([*test_keys, *train_keys[:3]])) == 3
    said, counts = describe_overlap([result_of(train_keys[:3]), result_of(test_keys, "pets")], trained)
    assert counts == {"retrieval": 3, "pets": 0}
    assert said.startswith("Trained on 3 of the 3 pictures of retrieval (the same bytes")
    assert "what small had seen before is not known" in said
    assert describe_overlap([result_of(test_keys)], trained)[0].startswith("Trained on no picture of this test")


def test_what_the_starting_run_saw_counts_too(dataset, tmp_path):
    other = make_dataset(tmp_path / "others", splits=("val", "train"))
    first = run(dataset, tmp_path / "first")
    second = training_pictures(str(run(other, tmp_path / "second", model=first)))
    assert second is not None
    assert second.keys == {*dataset.keys("train"), *other.keys("train")}
    assert second.unknown == "small"


def test_a_mixture_and_data_that_are_gone(dataset, tmp_path):
    folder = run(dataset, tmp_path / "run")
    (folder / "run.json").write_text(
        (folder / "run.json").read_text().replace(f'"{dataset.folder}"', f'["{dataset.folder}:1", "{dataset.folder}2:1"]')
    )
    shutil.copytree(dataset.folder, f"{dataset.folder}2")
    trained = training_pictures(str(folder))
    assert trained is not None
    assert trained.keys == frozenset(dataset.keys("train"))
    shutil.rmtree(f"{dataset.folder}2")
    assert training_pictures(str(folder)) is None
    assert training_pictures("ViT-B-32:openai") is None
    assert "not known" in describe_overlap([], None)[0]


@pytest.mark.parametrize("text", ["", "[", "[]", "null", "{}", '{"data": null}', '{"data": [1]}', '{"data": {}}', '{"data": "x", "model": 5}'])
def test_a_run_that_says_nonsense_of_itself_is_not_known(tmp_path, text):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(text)
    assert training_pictures(str(tmp_path / "run")) is None
