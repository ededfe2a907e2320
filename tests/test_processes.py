"""Steps in several processes are the steps of one."""

import gloo
import pytest
import torch
from tiny_training import make_dataset, make_model, make_recipe
from torch.nn.parallel import DistributedDataParallel

from wholegrain.data.dataset import Dataset
from wholegrain.objectives.objective import Objective
from wholegrain.training.encoder import Encoder
from wholegrain.training.loader import DrawnSamples, PlanSampler, make_loader, names_of
from wholegrain.training.plan import Plan
from wholegrain.training.step import make_optimiser, take_step

STEPS = 4


def steps_here(rank, group, world, data):
    """This process's part of a few steps; the losses, gradient norms and final weights that it sees."""
    dataset, recipe = Dataset(data), make_recipe("ce_clip", "--optimiser.eps", "1e-3")
    model = make_model(dataset)
    names = names_of(dataset, recipe.data)
    samples = DrawnSamples(dataset, model.preprocess, recipe.data, names, 0)
    loader = make_loader(samples, PlanSampler(Plan(dataset.keys("train"), 8, 0), 0, STEPS, rank, world), model.tokenizer, names)
    encoder = Encoder(model) if group is None else DistributedDataParallel(Encoder(model), process_group=group)
    objective, optimiser = Objective(recipe.terms), make_optimiser(model, recipe.optimiser)
    seen = []
    for step, batch in enumerate(loader):
        outcome = take_step(encoder, objective, optimiser, batch, step=step, lr=1e-3, grad_clip=1.0, group=group)
        seen += [outcome.loss, outcome.grad_norm, *outcome.parts.values(), float(outcome.images), float(outcome.texts)]
    return seen, {name: value.tolist() for name, value in model.state_dict().items()}


@pytest.mark.slow
def test_two_processes_step_like_one(tmp_path):
    dataset = make_dataset(tmp_path / "data", splits=("train",))
    alone, weights = steps_here(0, None, 1, dataset.folder)
    both = gloo.run(2, steps_here, [(2, dataset.folder)] * 2)
    assert both[0] == both[1]
    torch.testing.assert_close(torch.tensor(both[0][0]), torch.tensor(alone), rtol=1e-4, atol=1e-5)
    for name, value in weights.items():
        torch.testing.assert_close(torch.tensor(both[0][1][name]), torch.tensor(value), rtol=1e-3, atol=1e-5, msg=name)
