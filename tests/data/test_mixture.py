"""Several data sets as one: keys, records, sidecars, shares, and a training that goes on where it stopped."""

import json
import pickle

import pytest
import torch
from tiny_training import make_dataset, make_model, make_recipe, train

from wholegrain.data.dataset import Dataset
from wholegrain.data.mixture import Mixture, absolute, open_data
from wholegrain.errors import UserError
from wholegrain.towers.io import load_model
from wholegrain.training.checkpoints.run_folder import read_recipe
from wholegrain.training.loading.loader import DrawnSamples, PlanSampler, make_loader, names_of
from wholegrain.training.loading.plan import Plan


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    make_dataset(root / "one" / "photos", 24)
    make_dataset(root / "two" / "photos", 12, splits=("train",))
    return root / "one" / "photos", root / "two" / "photos"


@pytest.fixture(scope="module")
def mixture(folders):
    return open_data([f"{folders[0]}:1", f"{folders[1]}:2"])


def test_a_name_a_weight_or_several(folders, mixture):
    assert type(open_data(folders[0])) is Dataset
    assert type(open_data([f"{folders[0]}:3"])) is Dataset
    assert isinstance(mixture, Mixture)
    assert mixture.weights == (1.0, 2.0)
    assert mixture.names == ("photos", "photos-2")
    assert absolute("photos:3").endswith("/photos:3")
    assert absolute("s3://bucket/x") == "s3://bucket/x"
    with pytest.raises(UserError, match="every data set a weight or none"):
        open_data([f"{folders[0]}:1", str(folders[1])])
    with pytest.raises(UserError, match="above 0"):
        open_data([f"{folders[0]}:1", f"{folders[1]}:0"])


def test_everything_is_found_under_its_own_key(folders, mixture):
    parts = [Dataset(folder) for folder in folders]
    keys = mixture.keys("train")
    assert keys == [f"photos:{k}" for k in parts[0].keys("train")] + [f"photos-2:{k}" for k in parts[1].keys("train")]
    assert len(set(keys)) == 36 == mixture.manifest["splits"]["train"]["images"]
    assert mixture.keys("val") == [f"photos:{key}" for key in parts[0].keys("val")]
    for key in (keys[0], keys[-1]):
        part, own = parts[key.startswith("photos-2")], key.partition(":")[2]
        assert mixture.record(key).key == key
        assert mixture.record(key).captions == part.record(own).captions
        assert (mixture.pixels(key) == part.pixels(own)).all()
        pair = (key, mixture.record(key).captions[0].id)
        assert [row.text for row in mixture.negatives[pair]] == [row.text for row in part.negatives[own, pair[1]]]
        assert {row.key for row in mixture.negatives[pair]} == {key}
        assert key in mixture
    assert "photos-3:0" not in mixture
    with pytest.raises(KeyError):
        mixture.record("photos-3:0")
    with pytest.raises(UserError, match="none of photos, photos-2 has a split 'dev'"):
        mixture.keys("dev")
    assert len(mixture.negatives) == sum(len(part.negatives) for part in parts)
    assert {key for twin in mixture.twins for key in twin.keys} <= set(mixture.keys("train") + mixture.keys("val"))
    assert list(mixture.layout("train").keys) == keys
    assert pickle.loads(pickle.dumps(mixture)).content_hash == mixture.content_hash != Mixture(mixture.datasets).content_hash


@pytest.mark.parametrize("per_source", [False, True])
def test_workers_and_processes_change_nothing(mixture, per_source):
    recipe, model = make_recipe("ce_clip"), make_model(mixture)
    names = names_of(mixture, recipe.data)
    samples = DrawnSamples(mixture, model.preprocess, recipe.data, names, 0)

    def drawn(workers, rank=0, world=1):
        plan = Plan(mixture.layout("train"), 8, 0, window=1, per_source=per_source)
        sampler = PlanSampler(plan, 2, 7, rank, world)
        return list(make_loader(samples, sampler, model.tokenizer, names, workers=workers))

    whole, shared = drawn(0), drawn(2)
    assert [batch.keys for batch in whole] == [batch.keys for batch in shared]
    assert all(torch.equal(a.tokens_UL, b.tokens_UL) for a, b in zip(whole, shared, strict=True))
    halves = zip(drawn(0, 0, 2), drawn(0, 1, 2), strict=True)
    assert [one.keys + other.keys for one, other in halves] == [batch.keys for batch in whole]
    kinds = [{key.partition(":")[0] for key in batch.keys} for batch in whole]
    assert all(len(kind) == 1 for kind in kinds) == per_source


def test_equal_pictures_of_two_data_sets_are_known(folders):
    mixture = open_data([str(folders[0]), str(folders[1])])  # the second's pictures are among the first's
    recipe, model = make_recipe(), make_model(mixture)
    names = names_of(mixture, recipe.data)
    samples = DrawnSamples(mixture, model.preprocess, recipe.data, names, 0)
    (batch,) = make_loader(samples, PlanSampler(Plan(mixture.layout("train"), 36, 0), 0, 1), model.tokenizer, names)
    assert len(set(batch.keys)) == 36
    assert len(batch.pairing.image_id_B.unique()) == 24


@pytest.mark.slow
def test_a_run_on_a_mixture_resumes_bit_for_bit(mixture, tmp_path):
    extra = ("--data.shuffle_window", "1", "--data.per_source", "true")
    recipe = make_recipe("ce_clip", "--optimiser.steps", "7", "--saving.every", "2", *extra)
    whole = train(recipe, mixture, make_model(mixture), tmp_path / "whole", device="cpu", quiet=True)
    train(recipe, mixture, make_model(mixture), tmp_path / "cut", device="cpu", quiet=True, on_step=lambda o: o.step == 3)
    cut = train(recipe, mixture, load_model(tmp_path / "cut"), tmp_path / "cut", device="cpu", quiet=True, resume=True)
    for name, value in load_model(whole).state_dict().items():
        assert torch.equal(value, load_model(cut).state_dict()[name]), name
    assert read_recipe(tmp_path / "whole").data.per_source
    assert json.loads((tmp_path / "whole" / "run.json").read_text())["data_hash"] == mixture.content_hash
