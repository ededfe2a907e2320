"""Ways to use branches: each against its definition in float64, in every task that scores pairs, and in the identity of results."""

import json

import numpy as np
import pytest
import torch
from eval_fakes import FakeDataset, FakeModel, encoded, record, vector

from wholegrain.cli.evaluate import EvaluateArguments, evaluate
from wholegrain.errors import UserError
from wholegrain.evaluation.named import load_any
from wholegrain.evaluation.result import load_results
from wholegrain.evaluation.result_folders import weights_of
from wholegrain.evaluation.scores.branch_inference import BranchInference
from wholegrain.evaluation.scores.similarity import Scorer, similarity
from wholegrain.evaluation.suite import EvaluationOptions
from wholegrain.evaluation.suite import evaluate as run_suite
from wholegrain.evaluation.tasks.branch_choice import choose_branch
from wholegrain.evaluation.tasks.branches import branches
from wholegrain.evaluation.tasks.zero_shot import scores_with
from wholegrain.features import ImageFeatures, TextFeatures

WAYS = ("mean", "max", "concat", "selector:0", "selector:2")
HEAD = type("Head", (), {"branches": 3})()


def branched(image_of, text_of, **more):
    model = FakeModel(image_of, text_of, **more)
    model.head = HEAD
    return model


def case(seed=0):
    g = torch.Generator().manual_seed(seed)
    branches = torch.randn(5, 3, 8, generator=g) * torch.rand(5, 3, 1, generator=g) * 4
    return ImageFeatures(branches.mean(1), branches), TextFeatures(torch.randn(7, 8, generator=g))


def by_definition(how, branches, text):
    """One image and one text, in float64."""

    def cosine(a, b):
        return float(a @ b / np.sqrt((a @ a) * (b @ b)))

    each = [cosine(branch, text) for branch in branches]
    if how == "concat":
        return cosine(np.concatenate(list(branches)), np.concatenate([text] * len(branches)))
    return {"mean": np.mean(each), "max": max(each)}[how] if ":" not in how else each[int(how[-1])]


@pytest.mark.parametrize("how", WAYS)
def test_scores_are_those_of_the_definition(how):
    image, text = case()
    model = BranchInference(branched(vector, vector), how)
    found = similarity(image, text, model)
    branches, texts = image.branches_BHD.double().numpy(), text.pooled_ND.double().numpy()
    wanted = [[by_definition(how, own, t) for t in texts] for own in branches]
    assert found.numpy() == pytest.approx(np.array(wanted), abs=1e-6)
    pairs = Scorer(image, text, model).pairs(torch.tensor([4, 0, 4]), torch.tensor([1, 6, 0]))
    assert pairs.numpy() == pytest.approx([wanted[4][1], wanted[0][6], wanted[4][0]], abs=1e-6)


def test_what_is_equal_and_what_is_not():
    image, text = case(1)
    model = branched(vector, vector)
    found = {how: similarity(image, text, BranchInference(model, how)) for how in WAYS}
    assert found["mean"].equal(similarity(image, text, model))
    selectors = torch.stack([similarity(image, text, BranchInference(model, f"selector:{h}")) for h in range(3)])
    assert torch.allclose(found["max"], selectors.amax(0))
    assert torch.allclose(found["mean"], selectors.mean(0), atol=1e-6)
    assert not torch.allclose(found["concat"], found["mean"], atol=1e-2)
    unit = torch.nn.functional.normalize(image.branches_BHD, dim=-1)
    same = ImageFeatures(image.pooled_BD, unit)
    assert torch.allclose(similarity(same, text, BranchInference(model, "concat")), found["mean"], atol=1e-6)


def test_classes_are_ensembles_of_their_sentences_as_for_any_two_towers():
    image, text = case(2)
    text = TextFeatures(text.pooled_ND[:6])
    model = branched(vector, vector)
    plain = scores_with(model, image, text, 3, 2)
    assert torch.allclose(scores_with(BranchInference(model, "mean"), image, text, 3, 2), plain, atol=1e-6)
    sentences = torch.nn.functional.normalize(text.pooled_ND, dim=-1).unflatten(0, (3, 2)).mean(1)
    branch = torch.nn.functional.normalize(image.branches_BHD[:, 1], dim=-1)
    wanted = branch @ torch.nn.functional.normalize(sentences, dim=-1).T
    assert torch.allclose(scores_with(BranchInference(model, "selector:1"), image, text, 3, 2), wanted, atol=1e-6)


def test_what_a_model_cannot_do_is_one_sentence():
    model = branched(vector, vector)
    with pytest.raises(UserError, match="no branch inference 'maximum'"):
        BranchInference(model, "maximum")
    with pytest.raises(UserError, match="branches 0 to 2"):
        BranchInference(model, "selector:3")
    with pytest.raises(UserError, match="write mean, max, concat"):
        BranchInference(model, "max:1")
    with pytest.raises(UserError, match="needs the branch that it selects"):
        BranchInference(model, "selector")
    with pytest.raises(UserError, match="one vector an image"):
        BranchInference(FakeModel(vector, vector), "max")
    model.score = similarity
    with pytest.raises(UserError, match="jointly already"):
        BranchInference(model, "max")


def specialist(kept):
    """Three branches of which ``kept`` knows the pictures of FakeDataset, and the others are of nothing."""

    def image_of(key):
        own = [vector(f"about {int(key.removeprefix('key'))}") if h == kept else vector(f"nothing {h}") * 3 for h in range(3)]
        branches = torch.stack(own)
        return {"pooled_BD": branches.mean(0), "branches_BHD": branches}

    return branched(image_of, lambda text: vector(f"about {text.split()[-1]}"))


def test_the_selector_is_chosen_on_other_data_and_finds_what_that_branch_finds():
    data = FakeDataset([record(n, [f"picture {n}"], split=("val", "test")[n % 2]) for n in range(12)])
    model = specialist(1)
    found = choose_branch(model, data)
    assert (found.branch, found.how) == (1, "selector:1")
    assert found.tried[1] == 1.0 > max(found.tried[0], found.tried[2])
    options = EvaluationOptions(progress=False)
    chosen = run_suite(BranchInference(model, found.how), data, options, tasks="retrieval")[0]
    assert chosen.metrics["image_retrieval_recall@1"] == 1.0
    other = run_suite(BranchInference(model, "selector:0"), data, options, tasks="retrieval")[0]
    assert other.metrics["image_retrieval_recall@1"] < 0.5


def test_results_of_another_inference_are_other_results():
    model = specialist(1)
    names: set = {weights_of(model), *(weights_of(BranchInference(model, how)) for how in WAYS)}
    assert len(names) == 1 + len(WAYS)
    assert all(model.content_hash in name for name in names)


def test_the_table_of_branches_has_the_mean_however_the_model_is_scored():
    g = torch.Generator().manual_seed(5)
    image, text, more = torch.randn(4, 8, generator=g), torch.randn(4, 8, generator=g), torch.randn(4, 3, 8, generator=g)
    features, model = encoded(image, text, [0, 1, 2, 3], branches=more), branched(vector, vector)
    assert branches(features, model=BranchInference(model, "selector:0")).metrics == branches(features, model=model).metrics


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    from tiny_training import make_dataset, make_model

    from wholegrain.towers import save_model
    from wholegrain.towers.convert import convert_head
    from wholegrain.towers.heads.registry import HeadConfig

    place = tmp_path_factory.mktemp("branches")
    data = make_dataset(place / "data", 12, ("train", "val", "test"))
    model = convert_head(make_model(data, image_size=32), HeadConfig("branches", branches=3, noise=1.0))
    save_model(model, place / "model")
    return place


@pytest.mark.slow
def test_the_command_and_a_models_name(saved, tmp_path, capsys):
    def facts(name, **more):
        out = tmp_path / name
        given = {"model": str(saved / "model"), "data": saved / "data", "split": "train", "suite": "retrieval", "device": "cpu"}
        evaluate(EvaluateArguments(**{**given, **more}, out=out))
        return json.loads((out / "results.json").read_text())["meta"], load_results(out)[0][0].metrics

    meta, plain = facts("plain", branch_inference="mean")
    best, found = facts("max", branch_inference="max")
    assert "branch_inference" not in meta["model"]
    assert best["model"].endswith(",branch_inference=max")
    assert best["weights"] == f"{meta['weights']} branches by max"
    assert found != plain
    named, again = facts("named", model=f"{saved / 'model'},branch_inference=max")
    assert (named["weights"], again) == (best["weights"], found)
    assert load_any(f"{saved / 'model'},branch_inference=concat").how == "concat"
    chosen, _ = facts("chosen", branch_inference="selector", split="test")
    assert ",branch_inference=selector:" in chosen["model"]
    assert "of all branches" in capsys.readouterr().out
    for more, said in (
        ({"branch_inference": "selector", "split": "val"}, "reports on another one"),
        ({"branch_inference": "max", "grain": "1"}, "two ways to score"),
        ({"branch_inference": "mxa"}, "did you mean"),
    ):
        with pytest.raises(UserError, match=said):
            facts("none", **more)
