"""The temperature: its cap holds in training, whatever the path, and nobody is caught at it."""

import itertools
import math

import gloo
import pytest
import torch
from tiny_training import make_dataset, make_model, make_recipe

from wholegrain.data.dataset import Dataset
from wholegrain.losses.core.contract import MAX_SCALE, capped_scale
from wholegrain.objectives.objective import Objective
from wholegrain.towers.convert import convert_head
from wholegrain.training.distributed.processes import DistributedContext
from wholegrain.training.distributed.sharded import ShardedModel
from wholegrain.training.encoder import Encoder
from wholegrain.training.loading.loader import DrawnSamples, PlanSampler, make_loader, names_of
from wholegrain.training.loading.plan import Plan
from wholegrain.training.run import adapt_model
from wholegrain.training.step import StepOptions, take_step

AT_CAP = torch.tensor(math.log(100.0)).item()  # float32's ln 100, whose exponential is above 100: OpenAI's weights have it


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data"), splits=("train",))


def model_at(dataset, start, name="clip"):
    recipe = make_recipe(name)
    model = make_model(dataset).train()
    adapt_model(model, recipe)
    with torch.no_grad():
        model.log_scale.fill_(start)
    return model, recipe


def steps(dataset, model, recipe, *, lr, count=4, encoder=None, rank=0, world=1, group=None, micro=0):
    """The scale's logarithm after each of some steps of gradient descent (ascent with a rate below zero)."""
    names = names_of(dataset, recipe.data)
    samples = DrawnSamples(dataset, model.preprocess, recipe.data, names, 0)
    plan = PlanSampler(Plan(dataset.keys("train"), 8, 0), 0, count, rank, world)
    optimiser = torch.optim.SGD([model.log_scale], lr=1.0)
    seen = []
    for step, batch in enumerate(make_loader(samples, plan, model.tokenizer, names)):
        make = encoder or Encoder(model)
        take_step(make, Objective(recipe.terms), optimiser, batch, step=step, lr=lr, options=StepOptions(micro_batch=micro, group=group))
        seen.append(model.log_scale.item())
    return seen


@pytest.mark.parametrize("start", [AT_CAP, 4.8])
@pytest.mark.parametrize("micro", [0, 3])
def test_a_scale_at_or_above_the_cap_comes_down(dataset, start, micro):
    model, recipe = model_at(dataset, start)
    assert model.scale.item() == 100.0
    seen = steps(dataset, model, recipe, lr=1e-3, micro=micro)
    assert seen[0] < AT_CAP if start == AT_CAP else seen[0] <= AT_CAP
    assert all(after < before for before, after in itertools.pairwise(seen))


@pytest.mark.parametrize(("lr", "limit"), [(-10.0, AT_CAP), (1e3, 0.0)])
def test_no_step_leaves_the_range(dataset, lr, limit):
    model, recipe = model_at(dataset, 2.0)
    assert steps(dataset, model, recipe, lr=lr, count=1) == [limit]
    assert model.scale.item() in (1.0, MAX_SCALE)


def test_a_sigmoid_model_has_no_cap(dataset):
    model, recipe = model_at(dataset, 4.9, "siglip")
    assert model.scale.item() == pytest.approx(math.exp(4.9))
    assert steps(dataset, model, recipe, lr=-1e-4)[-1] > 4.9 > AT_CAP


def test_a_frozen_scale_stays_what_it_was(dataset):
    model, _ = model_at(dataset, 5.0)
    model.log_scale.requires_grad_(False)
    model.keep_in_range()
    assert (model.log_scale.item(), model.scale.item()) == (5.0, 100.0)


@pytest.mark.parametrize("start", [AT_CAP, 7.0, 1e4])
def test_the_gradient_at_the_cap_and_above_is_that_at_100(dataset, start):
    model, _ = model_at(dataset, start)
    assert model.scale.item() == 100.0
    (3.0 * model.scale).backward()
    assert model.log_scale.grad.item() == pytest.approx(300.0, rel=1e-5)


def test_the_scale_of_cosmos_is_not_caught_either(dataset):
    model = convert_head(make_model(dataset), "cosmos")
    own = model.head.log_scale_1
    with torch.no_grad():
        own.fill_(9.0)
    model.keep_in_range()
    assert own.item() == AT_CAP
    capped_scale(own).sum().backward()  # as the loss reads it
    assert own.grad.item() == pytest.approx(100.0, rel=1e-5)


def in_a_process(rank, group, data, shard):
    dataset = Dataset(data)
    model, recipe = model_at(dataset, AT_CAP)
    context, inner = DistributedContext(torch.device("cpu"), rank, 2, group), Encoder(model)
    if shard:
        ShardedModel(inner, context)
    encoder = inner if shard else context.wrap(inner)
    return steps(dataset, model, recipe, lr=1e-3, encoder=encoder, rank=rank, world=2, group=group)


@pytest.mark.slow
@pytest.mark.parametrize("shard", [False, True])
def test_in_two_processes_as_in_one(dataset, shard):
    model, recipe = model_at(dataset, AT_CAP)
    alone = steps(dataset, model, recipe, lr=1e-3)
    for seen in gloo.run(2, in_a_process, [(dataset.folder, shard)] * 2):
        assert seen == pytest.approx(alone, rel=1e-6)
        assert seen[-1] < seen[0] < AT_CAP
