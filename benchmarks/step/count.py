"""The arithmetic of a recipe's step, with texts as they are or at the whole context."""

from __future__ import annotations

from pathlib import Path

import torch

from wholegrain.objectives.objective import Objective, choose_terms
from wholegrain.towers.model import Model
from wholegrain.towers.sources.open_clip import OpenClipTextTower, build_open_clip_text
from wholegrain.training.encoder import Encoder
from wholegrain.training.loading.loader import DrawnSamples, PlanSampler, make_loader, names_of
from wholegrain.training.loading.plan import Plan
from wholegrain.training.memory.precision import autocast
from wholegrain.training.run import offers, phrases_for
from wholegrain.training.start import load_inputs
from wholegrain.training.teacher import make_teacher
from wholegrain.training.work import step_work

SAMPLE = 8
"""Images on which it is counted."""


def padded(model: Model) -> None:
    """Gives the model a text tower that reads every text at the whole context, as open_clip's does.

    Raises:
        TypeError: the tower is none of open_clip's.
    """
    tower = model.text_tower
    if not isinstance(tower, OpenClipTextTower):
        raise TypeError("only open_clip's text towers can be padded")
    model.text_tower = build_open_clip_text(tower.config(), tower.pad_id, true_length=False)


def recipe_work(recipe: str, data: Path, model: str, batch: int, pad: bool) -> float:
    """Multiplications and additions of a step's matrix products, forward and backward."""
    chosen, dataset, start = load_inputs(recipe, data, model, [f"--optimiser.batch={batch}"])
    if pad:
        padded(start)
    names = names_of(dataset, chosen.data)
    terms, _ = choose_terms(chosen, names.roles, offers(chosen, dataset, start))
    samples = DrawnSamples(dataset, start.preprocess, chosen.data, names, chosen.seed)
    plan = Plan(dataset.keys("train"), batch, chosen.seed)
    sampler, phrases = PlanSampler(plan, 0, 1, 0, 1), phrases_for(Objective(terms))
    first = next(iter(make_loader(samples, sampler, start.tokenizer, names, phrases=phrases)))
    encoder = Encoder(start, teacher=make_teacher(start, chosen.teacher))
    return step_work(encoder, Objective(terms), first, lambda: autocast(torch.device("cpu"), "fp32"), SAMPLE)
