"""The same training in one, two and four processes: samples, losses, gradients and weights; and going on with another number."""

from dataclasses import dataclass

import gloo
import pytest
import torch
import torch.distributed as dist
from test_accumulate import OWN, model_of
from tiny_training import make_dataset, make_recipe
from torch import Tensor

from wholegrain.data.dataset import Dataset
from wholegrain.errors import UserError
from wholegrain.objectives.objective import Objective, choose_terms
from wholegrain.training.checkpoints import checkpoint
from wholegrain.training.distributed.processes import DistributedContext
from wholegrain.training.encoder import Encoder
from wholegrain.training.loading.loader import DrawnSamples, PlanSampler, make_loader, names_of
from wholegrain.training.loading.plan import Plan
from wholegrain.training.run import offers
from wholegrain.training.step import StepOptions, make_optimiser, seed_everything, take_step
from wholegrain.training.teacher import make_teacher

RECIPES = ("clip", "siglip", "ce_clip", "sparc", "holistic", "wholegrain")
STEPS = 20


@dataclass
class Seen:
    """What one process saw: keys and texts of its batches, and of every step the loss with its parts, and all gradients.

    Attributes:
        keys, texts: of each step.
        numbers: ``[steps, ...]`` loss, gradient norm, temperature, parts.
        gradients: ``[steps, P]``, of all parameters end to end.
        weights: ``[P]``, at the end.
    """

    keys: list
    texts: list
    numbers: Tensor
    gradients: Tensor
    weights: Tensor


def train_here(rank, group, world, data, name, start=0, stop=STEPS, here=None, there=None):
    """Steps ``start`` to ``stop`` of a recipe in float64, as process ``rank`` of ``world``; goes on from ``here``, saves to ``there``."""
    dataset, recipe = Dataset(data), make_recipe(name, "--optimiser.batch", "12", *OWN.get(name, ()))
    model = model_of(dataset, recipe)
    names = names_of(dataset, recipe.data)
    objective = Objective(choose_terms(recipe, names.roles, offers(recipe, dataset, model))[0])
    teacher, optimiser = make_teacher(model, recipe.teacher), make_optimiser(model, recipe.optimiser)
    if here is not None:
        saved, _ = checkpoint.load_newest(here)
        assert saved.step == start
        checkpoint.unpack(saved, model, optimiser, objective, teacher)
    samples = DrawnSamples(dataset, model.preprocess, recipe.data, names, 0)
    plan = PlanSampler(Plan(dataset.keys("train"), 12, 0), start, stop, rank, world)
    inner = Encoder(model, teacher=teacher)
    encoder = inner if world == 1 else DistributedContext(torch.device("cpu"), rank, world, group).wrap(inner)
    seen = Seen([], [], torch.zeros(0), torch.zeros(0), torch.zeros(0))
    numbers, gradients = [], []

    def keep(*_):
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
        gradients.append(torch.cat([gradient.flatten() for gradient in found]))

    optimiser.register_step_pre_hook(keep)
    for step, batch in enumerate(make_loader(samples, plan, model.tokenizer, names), start):
        seed_everything(0, step, rank)
        outcome = take_step(encoder, objective, optimiser, batch, step=step, lr=1e-3, options=StepOptions(1.0, group=group))
        if teacher is not None:
            teacher.follow(model)
        seen.keys.append(list(batch.keys))
        seen.texts.append([batch.texts[row] for row in batch.row_N.tolist()])
        numbers.append(
            torch.tensor([outcome.loss, outcome.grad_norm, outcome.scale, *outcome.parts.values()], dtype=torch.float64)
        )
    seen.numbers, seen.gradients = torch.stack(numbers), torch.stack(gradients)
    seen.weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    if there is not None and rank == 0:
        checkpoint.save(checkpoint.pack(stop, model, optimiser, objective, teacher), there, keep=1)
    return seen


def in_processes(world, data, *how, **more):
    """By rank."""
    return gloo.run(world, _named, [(world, data, how, more)] * world, seconds=400)


def _named(rank, group, world, data, how, more):
    return train_here(rank, group or dist.group.WORLD, world, data, *how, **more)


def apart(one, other):
    """Largest difference, relative to the largest value."""
    return ((one - other).abs().max() / other.abs().max()).item()


def differences(processes, alone):
    """Of losses, gradients and weights, between some processes and one."""
    return [max(apart(getattr(p, what), getattr(alone, what)) for p in processes) for what in ("numbers", "gradients", "weights")]


def joined(processes, what):
    """The global batches: what all processes had of each step, in the order of their ranks."""
    return [[item for part in parts for item in part] for parts in zip(*(getattr(p, what) for p in processes), strict=True)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("data"), splits=("train",)).folder


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_one_two_and_four_processes(data, name):
    (alone,) = in_processes(1, data, name)
    assert alone.gradients.abs().max() > 1e-3
    for world in (2, 4):
        processes = in_processes(world, data, name)
        assert joined(processes, "keys") == alone.keys
        assert joined(processes, "texts") == alone.texts
        assert max(differences(processes, alone)) < 1e-9
        for other in processes[1:]:
            assert torch.equal(other.weights, processes[0].weights)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wholegrain", "cosmos"])
def test_going_on_with_another_number_of_processes(data, tmp_path, name):
    """One, two, four and again one, of five steps each; recipes with carried state and with a teacher."""
    (alone,) = in_processes(1, data, name)
    before = None
    for start, world in ((0, 1), (5, 2), (10, 4), (15, 1)):
        after = tmp_path / str(start)
        processes = in_processes(world, data, name, start=start, stop=start + 5, here=before, there=after)
        assert joined(processes, "keys") == alone.keys[start : start + 5]
        assert apart(processes[0].numbers, alone.numbers[start : start + 5]) < 1e-9
        assert apart(processes[0].gradients, alone.gradients[start : start + 5]) < 1e-9
        before = after
    assert apart(processes[0].weights, alone.weights) < 1e-9


@pytest.mark.slow
def test_four_processes_go_on_bit_for_bit(data, tmp_path):
    """Sums of four depend on their order: in DDP's case on how gradients lie in its buckets."""
    whole = in_processes(4, data, "ce_clip", stop=12)
    in_processes(4, data, "ce_clip", stop=5, there=tmp_path)
    rest = in_processes(4, data, "ce_clip", start=5, stop=12, here=tmp_path)
    for one, other in zip(rest, whole, strict=True):
        assert torch.equal(one.numbers, other.numbers[5:])
        assert torch.equal(one.gradients, other.gradients[5:])
        assert torch.equal(one.weights, other.weights)


def test_a_batch_that_processes_cannot_share():
    with pytest.raises(UserError, match="10 and must be a multiple of the 4 processes"):
        PlanSampler(Plan([str(n) for n in range(20)], 10, 0), 0, 1, 0, 4)
