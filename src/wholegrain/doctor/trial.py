"""A few steps of the real recipe on a few real images, after which the model is as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from torch import Tensor

from wholegrain.data.batch import Batch, collate
from wholegrain.data.dataset import Dataset
from wholegrain.errors import UserError
from wholegrain.features import ImageFeatures, TextFeatures
from wholegrain.objectives.objective import Objective, choose_terms
from wholegrain.objectives.schema import Recipe
from wholegrain.towers.model import Model
from wholegrain.training.encoder import MADE_HERE, Encoder
from wholegrain.training.loading.loader import DrawnSamples, Names, names_of
from wholegrain.training.loading.plan import Plan
from wholegrain.training.memory.patch_dropout import make_dropping
from wholegrain.training.memory.precision import autocast, resolve_precision
from wholegrain.training.run import offers, phrases_for
from wholegrain.training.step import NonFiniteLossError, Outcome, StepOptions, make_optimiser, seed_everything, take_step
from wholegrain.training.teacher import make_teacher

SEARCHED = 4000
"""Images that are gone through for one batch of different captions."""
Features = TypeVar("Features", ImageFeatures, TextFeatures)


@dataclass
class Trial:
    """What steps are tried with.

    Attributes:
        recipe: with the device's precision.
        dataset, model: as in training; the model is on the device, fitted to the recipe.
        names: of roles and kinds.
        device: where it runs.
    """

    recipe: Recipe
    dataset: Dataset
    model: Model
    names: Names
    device: torch.device

    @classmethod
    def of(cls, recipe: Recipe, dataset: Dataset, model: Model, device: torch.device) -> Trial:
        """Moves the model to the device."""
        precision = resolve_precision(recipe.optimiser.precision, device)
        kept, _ = choose_terms(recipe, names_of(dataset, recipe.data).roles, offers(recipe, dataset, model))
        recipe = replace(recipe, terms=kept, optimiser=replace(recipe.optimiser, precision=precision))
        return cls(recipe, dataset, model.to(device).train(), names_of(dataset, recipe.data), device)

    def batch(self, images: int, turn: int = 0) -> Batch:
        """Images whose texts are all different, in the plan's order; of other images in another turn.

        Raises:
            UserError: there are not so many of them among the first 4000.
        """
        keys = self.dataset.layout(self.recipe.data.split).keys
        order = Plan(keys, 1, self.recipe.seed)
        samples = DrawnSamples(self.dataset, self.model.preprocess, self.recipe.data, self.names, self.recipe.seed)
        chosen, said, passed = [], set(), turn * images
        for step in range(min(len(keys), SEARCHED)):
            sample = samples[order.batch(step)[0]]
            texts = {text.text for text in sample.texts if text.negative_of < 0}
            if not texts or texts & said:
                continue
            said |= texts
            if passed:
                passed -= 1
                continue
            chosen.append(sample)
            if len(chosen) == images:
                phrases = phrases_for(Objective(self.recipe.terms))
                return collate(chosen, self.model.tokenizer, self.names.roles, self.names.kinds, phrases=phrases).to(self.device)
        raise UserError(
            f"Among {min(len(keys), SEARCHED):,} images there are not {images * (turn + 1)} with captions of their own; "
            "most captions are the same: check the caption field."
        )

    @contextmanager
    def steps(self, lr: float) -> Iterator[Stepper]:
        """Steps from the model as it is; afterwards it is so again."""
        state = {name: value.detach().clone() for name, value in _moving(self.model).items()}
        try:
            seed_everything(self.recipe.seed)
            yield Stepper(self, lr)
        finally:
            with torch.no_grad():
                for name, value in _moving(self.model).items():
                    value.copy_(state[name])
            self.model.zero_grad(set_to_none=True)

    def encoder(self) -> Encoder:
        """The model as it is trained: with a fresh teacher and without the patches that are dropped, if the recipe says so."""
        dropping = make_dropping(self.recipe, self.model, Objective(self.recipe.terms).needs - MADE_HERE)
        return Encoder(self.model, teacher=make_teacher(self.model, self.recipe.teacher), dropping=dropping)

    def loss(self, batch: Batch, blind: bool = False) -> Tensor:
        """The objective on a batch. Blind: as if the model gave the same for every image, and the same for every text."""
        objective, encoder = Objective(self.recipe.terms), self.encoder()
        seed_everything(self.recipe.seed)
        with autocast(self.device, self.recipe.optimiser.precision):
            image, text, scale, bias = encoder(batch, objective.needs)
            if blind:
                image, text = _the_same(image), _the_same(text)
            return objective(image, text, batch.pairing, scale, bias).value


class Stepper:
    """Steps with AdamW as the recipe has it, without weight decay."""

    def __init__(self, trial: Trial, lr: float) -> None:
        self.trial, settings = trial, replace(trial.recipe.optimiser, weight_decay=0.0, lr=lr)
        self.encoder, self.objective = trial.encoder(), Objective(trial.recipe.terms)
        self.optimiser, self.taken = make_optimiser(trial.model, settings), 0

    def __call__(self, batch: Batch, lr: float) -> Outcome | None:
        """Takes a step; ``None`` if the loss is not a finite number."""
        settings, seed = self.trial.recipe.optimiser, self.trial.recipe.seed
        precision = "bf16" if settings.precision == "fp16" else settings.precision  # without a scaler
        seed_everything(seed, self.taken)
        try:
            options = StepOptions(settings.grad_clip, precision)
            outcome = take_step(self.encoder, self.objective, self.optimiser, batch, step=self.taken, lr=lr, options=options)
        except NonFiniteLossError:
            return None
        if self.encoder.teacher is not None:
            self.encoder.teacher.follow(self.trial.model)
        self.taken += 1
        return outcome


def _moving(model: Model) -> dict[str, Tensor]:
    """Trained parameters and buffers."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad} | dict(model.named_buffers())


def _the_same(features: Features) -> Features:
    """The mean of all in the place of each; parameters, masks and what has no graph stay."""
    same: dict[str, object] = {}
    for part in fields(features):
        value = getattr(features, part.name)
        if isinstance(value, Tensor) and value.is_floating_point():
            same[part.name] = value.mean(0, keepdim=True).expand_as(value)
        elif part.name == "views":
            same[part.name] = tuple(_the_same(view) for view in value)  # pyright: ignore[reportArgumentType]
    return replace(features, **same)  # type: ignore[arg-type]
