"""A batch in parts: the gradient, the loss and the carried state are those of the whole."""

import gloo
import pytest
import torch
from float64_models import OWN, model_of
from tiny_training import make_dataset, make_model, make_recipe, train
from torch import nn

from wholegrain.data.dataset import Dataset
from wholegrain.errors import UserError
from wholegrain.features import join
from wholegrain.objectives.objective import Objective, choose_terms
from wholegrain.objectives.recipe import recipe_names
from wholegrain.towers.sources.timm import timm_tower
from wholegrain.training.distributed.processes import DistributedContext
from wholegrain.training.encoder import Encoder
from wholegrain.training.loading.loader import DrawnSamples, PlanSampler, make_loader, names_of
from wholegrain.training.loading.plan import Plan
from wholegrain.training.memory.accumulate import split
from wholegrain.training.run import offers, phrases_for
from wholegrain.training.step import StepOptions, seed_everything, take_step
from wholegrain.training.teacher import make_teacher

TWICE = ("cosmos", "wholegrain", "whole_and_grain", "flair", "fusion", "siglip")  # in two processes


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data"), splits=("train",))


class Catch(torch.optim.SGD):
    """Keeps the gradients of a step and changes nothing."""

    def step(self, closure=None):
        self.seen = [p.grad.clone() for group in self.param_groups for p in group["params"] if p.grad is not None]


def step_of(dataset, name, micro, rank=0, world=1, group=None, prepare=None, **sizes):
    """Two steps of a recipe in ``micro`` images at once: losses, parts, gradients, carried state."""
    recipe = make_recipe(name, "--optimiser.batch", "14", *OWN.get(name, ()))
    model = model_of(dataset, recipe, **sizes)
    if prepare:
        prepare(model)
    names = names_of(dataset, recipe.data)
    terms, _ = choose_terms(recipe, names.roles, offers(recipe, dataset, model))
    samples = DrawnSamples(dataset, model.preprocess, recipe.data, names, 0)
    plan = PlanSampler(Plan(dataset.keys("train"), 14, 0), 0, 2, rank, world)
    loader = make_loader(samples, plan, model.tokenizer, names, phrases=phrases_for(Objective(terms)))
    inner = Encoder(model, teacher=make_teacher(model_of(dataset, recipe, seed=1), recipe.teacher))
    encoder = DistributedContext(torch.device("cpu"), rank, world, group).wrap(inner)
    objective, optimiser = Objective(terms), Catch(model.parameters(), lr=1.0)
    seen = []
    for step, batch in enumerate(loader):
        seed_everything(0, step, rank)
        outcome = take_step(encoder, objective, optimiser, batch, step=step, lr=1.0, options=StepOptions(micro_batch=micro, group=group))
        seen += [torch.tensor([outcome.loss, outcome.grad_norm, outcome.scale, *outcome.parts.values()]), *optimiser.seen]
    return seen + list(objective.state_dict().values())


def same(one, other, within=1e-12):
    assert len(one) == len(other) > 3
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=within, atol=within * max(1.0, b.abs().max().item()), check_dtype=False)


@pytest.mark.parametrize("name", recipe_names())
def test_parts_make_the_whole(dataset, name):
    whole = step_of(dataset, name, 0)
    assert max(gradient.abs().max() for gradient in whole[1:]) > 1e-4
    same(step_of(dataset, name, 5), whole)


def test_one_image_at_a_time_and_other_sizes(dataset):
    whole = step_of(dataset, "wholegrain", 0)
    for micro in (1, 7, 13):
        same(step_of(dataset, "wholegrain", micro), whole)


def test_a_teacher_and_views_are_among_what_is_tested():
    recipes = {name: make_recipe(name, *OWN.get(name, ())) for name in recipe_names()}
    assert any(recipe.teacher.kind == "ema" and recipe.data.views for recipe in recipes.values())
    heads = {recipe.model.head for recipe in recipes.values()}
    assert {"plain", "sparc", "branches", "filip", "pacl", "mgca", "flair", "llip", "fusion", "cosmos", "grain"} <= heads


def drop(model):
    """Dropout in both towers and before the head."""
    model.image_tower.net.pos_drop = nn.Dropout(0.3)
    for block in model.text_tower.blocks:
        block.dropout1.p = 0.3


def test_dropout_falls_the_same_in_both_passes(dataset, monkeypatch):
    """Compared with the same parts encoded once, with an ordinary graph."""
    sizes = {"reader": "transformer", "text_layers": 2}
    replayed = step_of(dataset, "ce_clip", 5, prepare=drop, **sizes)
    monkeypatch.setattr("wholegrain.training.memory.accumulate._set_random_state", lambda *_: None)
    again = step_of(dataset, "ce_clip", 5, prepare=drop, **sizes)
    assert replayed[0][0] == again[0][0], "the loss comes from the first pass"
    assert replayed[0][1] != again[0][1]
    monkeypatch.undo()
    monkeypatch.setattr("wholegrain.training.step.backward_in_parts", one_graph)
    same(replayed, step_of(dataset, "ce_clip", 5, prepare=drop, **sizes))


def one_graph(encoder, objective, batch, size, *, cast, root, group):
    """What parts must equal with dropout: the same parts, encoded once, and one ordinary graph through all of them."""
    parts, place_U = split(batch, size)
    seen = [encoder(part.batch, objective.needs) for part in parts]
    image, text = join([s[0] for s in seen]), join([s[1] for s in seen])
    output = objective(image, batch.laid_out(text, place_U), batch.pairing, seen[0][2], seen[0][3], group=group)
    root(output.value).backward()
    return output, seen[0][2]


def test_texts_are_encoded_once_and_sorted_by_length(dataset):
    recipe = make_recipe("wholegrain", "--optimiser.batch", "14")
    model, names = model_of(dataset, recipe), names_of(dataset, recipe.data)
    samples = DrawnSamples(dataset, model.preprocess, recipe.data, names, 0)
    plan = PlanSampler(Plan(dataset.keys("train"), 14, 0), 0, 1)
    (batch,) = make_loader(samples, plan, model.tokenizer, names)
    parts, place_U = split(batch, 4)
    said = [text for part in parts for text in part.batch.texts]
    assert sorted(said) == sorted(batch.texts)
    assert [said[place] for place in place_U] == list(batch.texts)
    assert [key for part in parts for key in part.batch.keys] == list(batch.keys)
    assert all(part.batch.tokens_UL.shape[1] == part.batch.length_U.max() for part in parts)
    lengths = [length for part in parts for length in part.batch.length_U.tolist()]
    assert lengths == sorted(lengths)


def two_here(rank, group, data):
    """Every recipe of ``TWICE``, whole and in parts, in this process."""
    dataset = Dataset(data)
    return {(name, micro): step_of(dataset, name, micro, rank, 2, group) for name in TWICE for micro in (0, 3)}


@pytest.mark.slow
def test_parts_in_two_processes_are_the_whole_in_one(dataset):
    both = gloo.run(2, two_here, [(dataset.folder,)] * 2)
    for name in TWICE:
        alone = step_of(dataset, name, 0)
        for seen in both:
            same(seen[name, 3], seen[name, 0])
            same(seen[name, 3], alone, within=1e-9)


@pytest.mark.slow
def test_features_kept_from_frozen_towers_come_in_parts_too(dataset, tmp_path):
    losses = {}
    for micro in ("0", "3"):
        seen = losses.setdefault(micro, [])
        recipe = make_recipe("pacl", "--data.crop_scale", "[1.0, 1.0]", "--optimiser.micro_batch", micro)
        model = make_model(dataset)
        run = {"device": "cpu", "quiet": True, "on_step": lambda outcome, seen=seen: seen.append(outcome.loss)}
        train(recipe, dataset, model, tmp_path / micro, **run)
    assert losses["3"] == pytest.approx(losses["0"], rel=1e-5)
    assert len(set(losses["0"])) == 10


def test_batch_normalisation_is_refused(dataset, tmp_path):
    model = make_model(dataset)
    model.image_tower = timm_tower("resnet10t", 16, fixed_batchnorm=False)
    recipe = make_recipe("clip", "--optimiser.micro_batch", "2")
    with pytest.raises(UserError, match=r"optimiser.micro_batch cannot be exact with image_tower.*batch"):
        train(recipe, dataset, model, tmp_path / "run", device="cpu", quiet=True)
