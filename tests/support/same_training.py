"""The same training in any number of processes, and how far apart two of them are."""

from dataclasses import dataclass

import gloo
import torch
import torch.distributed as dist
from float64_models import OWN, model_of
from tiny_training import make_recipe
from torch import Tensor

from wholegrain.data.dataset import Dataset
from wholegrain.objectives.objective import Objective, choose_terms
from wholegrain.training.checkpoints import checkpoint
from wholegrain.training.distributed.processes import DistributedContext
from wholegrain.training.encoder import Encoder
from wholegrain.training.loading.loader import DrawnSamples, PlanSampler, make_loader, names_of
from wholegrain.training.loading.plan import Plan
from wholegrain.training.run import offers, phrases_for
from wholegrain.training.step import StepOptions, make_optimiser, seed_everything, take_step
from wholegrain.training.teacher import make_teacher

RECIPES = ("clip", "siglip", "ce_clip", "sparc", "holistic", "wholegrain")
STEPS = 8


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
    for step, batch in enumerate(make_loader(samples, plan, model.tokenizer, names, phrases=phrases_for(objective)), start):
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
