"""What frozen towers make of the data is kept on disk: read instead of encoded, never out of date, never half-written."""

import errno

import pytest
import torch
from tiny_training import make_dataset, make_model, make_recipe, train

from wholegrain.errors import MachineError
from wholegrain.evaluation.features.split import encode_split
from wholegrain.evaluation.tasks.retrieval import RetrievalOptions, retrieval
from wholegrain.towers import feature_files
from wholegrain.towers.convert import convert_head
from wholegrain.training import pace
from wholegrain.training.loading import frozen
from wholegrain.training.loading.frozen import encode_images_once, encode_texts_once
from wholegrain.workflows.validation import SHORTLIST, Validation, validation

NOTHING = frozenset()


def frozen_model(dataset, seed=0):
    model = make_model(dataset, seed).eval()
    model.image_tower.tune("none")
    model.text_tower.tune("none")
    return model


def counted(model):
    calls = {"image": 0, "text": 0}
    for name in calls:
        tower = getattr(model, f"{name}_tower")
        tower.register_forward_hook(lambda *_, name=name: calls.__setitem__(name, calls[name] + 1))
    return calls


def frozen_recipe(name="clip"):
    frozen = ("--model.tune_image", "none", "--model.tune_text", "none", "--data.crop_scale", "[1.0, 1.0]")
    return make_recipe(name, *frozen, "--optimiser.steps", "12")


def run(dataset, folder, model, cache, name="clip"):
    losses = []
    train(
        frozen_recipe(name),
        dataset,
        model,
        folder,
        device="cpu",
        quiet=True,
        cache=cache,
        on_step=lambda outcome: losses.append(outcome.loss) and None,
    )
    return losses


@pytest.mark.parametrize("recipe", ["clip", "sparc"])
def test_a_second_run_encodes_nothing_and_is_the_same(dataset, tmp_path, recipe):
    first = run(dataset, tmp_path / "first", frozen_model(dataset), tmp_path / "cache", recipe)
    model = frozen_model(dataset)
    calls = counted(model)
    second = run(dataset, tmp_path / "second", model, tmp_path / "cache", recipe)
    assert calls == {"image": 0, "text": 0}
    assert second == first
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_another_tower_preprocessing_or_selection_is_encoded_afresh(dataset, tmp_path):
    keys = list(dataset.keys("train"))
    model = frozen_model(dataset)

    def images(model, keys, precision="fp32"):
        encode_images_once(model, dataset, keys, NOTHING, precision, say=lambda _: None, cache=tmp_path)
        return len(list(tmp_path.iterdir()))

    assert images(model, keys) == 1
    assert images(model, keys) == 1
    assert images(model, keys[::-1]) == 2
    assert images(model, keys, "bf16") == 3
    with torch.no_grad():
        next(model.image_tower.parameters()).view(-1)[0] += 1e-3
    assert images(model, keys) == 4


def test_texts_are_told_apart_by_text_tower_and_tokens(dataset, tmp_path):
    model = frozen_model(dataset)

    def texts(model, texts):
        said = []
        found = encode_texts_once(model, texts, NOTHING, "fp32", said.append, tmp_path)
        return found, "read from" in said[0]

    first, read = texts(model, ["red beside blue", "a red half"])
    assert not read
    second, read = texts(model, ["a red half", "red beside blue"])  # the order does not matter
    assert read
    assert torch.equal(first.pooled_TV, second.pooled_TV)
    assert first.row == second.row
    assert not texts(model, ["a red half", "red beside white"])[1]
    assert not texts(frozen_model(dataset, 1), ["a red half", "red beside blue"])[1]


def test_progress_names_the_true_total(dataset, monkeypatch):
    monkeypatch.setattr(pace, "FIRST", 0.0)
    monkeypatch.setattr(pace, "EVERY", 0.0)
    monkeypatch.setattr(frozen, "_CHUNK", 8)
    keys, model, said = list(dataset.keys("train"))[:20], frozen_model(dataset), []
    encode_images_once(model, dataset, keys, NOTHING, "fp32", say=said.append)
    encode_texts_once(model, [f"a red half {n}" for n in range(20)], NOTHING, "fp32", said.append)
    assert [line.partition(" are encoded, about ")[0] for line in said if "of 20" in line] == [
        f"{done} of 20 {what}" for what in ("images", "texts") for done in (8, 16)
    ]


def test_a_damaged_file_is_made_anew(dataset, tmp_path):
    keys, model = list(dataset.keys("train")), frozen_model(dataset)
    kept = encode_images_once(model, dataset, keys, NOTHING, "fp32", say=lambda _: None, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    again = encode_images_once(model, dataset, keys, NOTHING, "fp32", say=lambda _: None, cache=tmp_path)
    assert torch.equal(kept.raw.pooled_BV, again.raw.pooled_BV)
    assert file.read_bytes() == whole


def test_a_full_disk_leaves_nothing_behind(dataset, tmp_path, monkeypatch):
    def full(tensors, path, metadata=None):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(feature_files, "save_file", full)
    with pytest.raises(MachineError, match="--cache"):
        encode_texts_once(frozen_model(dataset), ["a red half"], NOTHING, "fp32", lambda _: None, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("tuned", ["none", "all"])
def test_validation_is_retrieval_on_val_with_frozen_towers_run_once(dataset, tmp_path, tuned):
    model = frozen_model(dataset)
    model.text_tower.tune(tuned)
    calls = counted(model)
    evaluate = Validation(dataset, say=lambda _: None)
    found = evaluate(model)
    expected = retrieval(encode_split(model, dataset, "val"), RetrievalOptions(by_role=False), truths=dataset.truths).metrics
    for way in ("text", "image"):
        assert found[f"{way}_retrieval_recall@1"] == pytest.approx(expected[f"{way}_retrieval_recall@1_expected"], abs=1e-6)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    before = dict(calls)
    evaluate(model)
    assert calls["image"] == before["image"]
    assert (calls["text"] == before["text"]) == (tuned == "none")


def test_a_model_that_scores_pairs_is_validated_by_its_own_score(dataset):
    model = convert_head(frozen_model(dataset), "filip")
    found = Validation(dataset, say=lambda _: None)(model)
    encoded = encode_split(model, dataset, "val")
    own = retrieval(encoded, RetrievalOptions(by_role=False, shortlist=SHORTLIST), truths=dataset.truths, model=model).metrics
    for way in ("text", "image"):
        assert found[f"{way}_retrieval_recall@1"] == pytest.approx(own[f"{way}_retrieval_recall@1_expected"], abs=1e-6)
    cosine = retrieval(encoded, RetrievalOptions(by_role=False), truths=dataset.truths).metrics
    differs = [found[f"{way}_retrieval_recall@1"] - cosine[f"{way}_retrieval_recall@1_expected"] for way in ("text", "image")]
    assert any(abs(gap) > 1e-6 for gap in differs)


def test_there_is_no_validation_on_what_is_trained(dataset, tmp_path):
    assert validation(dataset, make_recipe("clip", "--data.split", "val")) is None
    assert validation(make_dataset(tmp_path, splits=("train",)), make_recipe()) is None
