"""What a run is made of: recipe, data and model checked against each other, and what a checkpoint holds of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from wholegrain.data.dataset import Dataset
from wholegrain.errors import UserError
from wholegrain.objectives.objective import Objective, choose_terms
from wholegrain.objectives.schema import ModelRecipe, Recipe, closest
from wholegrain.towers.convert import convert_head
from wholegrain.towers.heads.registry import HeadConfig
from wholegrain.towers.lora import add_lora
from wholegrain.towers.model import Model
from wholegrain.training.checkpoints import checkpoint
from wholegrain.training.checkpoints.identity import RunIdentity
from wholegrain.training.checkpoints.run_folder import RunFolder
from wholegrain.training.distributed.processes import Place
from wholegrain.training.distributed.sharded import Shards, load_shards, read_shards, refuse_shard
from wholegrain.training.encoder import MADE_HERE, Encoder
from wholegrain.training.loading.frozen import drawable_texts, freeze_images, freeze_texts
from wholegrain.training.loading.loader import Names, PlanSampler, names_of
from wholegrain.training.loading.plan import Plan
from wholegrain.training.memory.accumulate import refuse_batchnorm
from wholegrain.training.memory.patch_dropout import PatchDropout, make_dropping
from wholegrain.training.memory.precision import make_scaler, resolve_precision
from wholegrain.training.memory.recompute import blocks_of
from wholegrain.training.step import (
    make_optimiser,
    seed_everything,
)
from wholegrain.training.teacher import Teacher, make_teacher


@dataclass
class Best:
    """The best evaluation so far."""

    metric: str = ""
    value: float = float("-inf")
    step: int = -1

    def improves(self, numbers: Mapping[str, float], wanted: str, step: int) -> bool:
        """Takes an evaluation in; whether it is the best yet. The first number counts if no metric is named."""
        self.metric = self.metric or wanted or next(iter(numbers))
        if self.metric not in numbers:
            raise UserError(f'saving.metric "{self.metric}" is not evaluated: {closest(self.metric, list(numbers))}')
        if numbers[self.metric] <= self.value:
            return False
        self.value, self.step = numbers[self.metric], step
        return True


@dataclass
class Run:
    """What a run is made of, and how far it is."""

    recipe: Recipe
    model: Model
    objective: Objective
    optimiser: torch.optim.Optimizer
    plan: Plan
    names: Names
    total: int
    notes: list[str]
    teacher: Teacher | None = None
    scaler: torch.amp.GradScaler | None = None  # pyright: ignore[reportPrivateImportUsage]
    dropping: PatchDropout | None = None
    best: Best = field(default_factory=Best)
    shards: Shards | None = None
    step: int = 0
    skipped: int = 0  # in succession

    @property
    def kept(self) -> Model:
        """The model that is evaluated and saved to be used; of one that is shared out every process asks for it."""
        if self.shards is not None:
            return self.shards.whole(self.model)
        return self.model if self.teacher is None or self.recipe.teacher.keep == "student" else self.teacher.model


def assemble(recipe: Recipe, dataset: Dataset, model: Model, place: Place) -> Run:
    """Everything that a run needs, checked against each other before anything is written."""
    seed_everything(recipe.seed)
    fit_model(model, recipe)
    model.to(place.device).train()
    precision = resolve_precision(recipe.optimiser.precision, place.device)
    recipe = replace(recipe, optimiser=replace(recipe.optimiser, precision=precision))
    for key, asked in (("micro_batch", recipe.optimiser.micro_batch), ("recompute", recipe.optimiser.recompute)):
        if asked:
            refuse_batchnorm(model, f"optimiser.{key}")
    if recipe.optimiser.shard:
        refuse_shard(recipe, model)
    names = names_of(dataset, recipe.data)
    terms, notes = choose_terms(recipe, names.roles, offers(recipe, dataset, model))
    layout, drawn = dataset.layout(recipe.data.split), recipe.data
    share, twin_of = drawn.twin_share, twins_of(dataset, recipe)
    plan = Plan(layout, recipe.optimiser.batch, recipe.seed, share, twin_of, drawn.shuffle_window, drawn.per_source)
    PlanSampler(plan, 0, 0, place.rank, place.world)  # refuses a batch that the processes cannot share
    total = recipe.optimiser.steps or max(1, round(recipe.optimiser.epochs * plan.steps_per_epoch))
    optimiser, teacher = make_optimiser(model, recipe.optimiser), make_teacher(model, recipe.teacher)
    scaler, objective = make_scaler(place.device, precision), Objective(terms)
    dropping = make_dropping(recipe, model, objective.needs - MADE_HERE)
    return Run(recipe, model, objective, optimiser, plan, names, total, list(notes), teacher, scaler, dropping)


def fit_model(model: Model, recipe: Recipe) -> None:
    """Gives the model what the recipe asks for: what is tuned, the head, a bias for a sigmoid. Twice is as good as once."""
    wanted: ModelRecipe = recipe.model
    for tower, how in ((model.image_tower, wanted.tune_image), (model.text_tower, wanted.tune_text)):
        if how:
            tower.tune(how)
    branches = {"branches": wanted.branches} if wanted.head == "branches" else {}
    try:
        convert_head(model, HeadConfig(wanted.head, **{**wanted.head_settings, **branches}))
    except UserError as problem:
        raise UserError(f"model.head of recipe {recipe.name} does not fit: {problem}.") from None
    if "bias" in Objective(recipe.terms).needs:
        model.add_bias(wanted.sigmoid_bias, wanted.sigmoid_scale)
    for name, tower in (("image", model.image_tower), ("text", model.text_tower)):
        if wanted.lora.rank and name in wanted.lora.towers:
            add_lora(tower, blocks_of(tower), wanted.lora.rank, wanted.lora.alpha, wanted.lora.parts, recipe.seed)


def offers(recipe: Recipe, dataset: Dataset, model: Model) -> frozenset[str]:
    """What data and model give to losses, out of ``losses.contract.NEEDS``."""
    given = {"patches", "tokens"} | model.head.gives
    if recipe.data.negatives.count and dataset.negative_kinds:
        given.add("negatives")
    if model.head.kind == "branches":
        given.add("branches")
    if model.bias is not None:
        given.add("bias")
    if recipe.teacher.kind != "none":
        given.add("teacher")
    if recipe.data.views:
        given.add("views")
    return frozenset(given)


def twins_of(dataset: Dataset, recipe: Recipe) -> dict[str, str]:
    """Key -> key of its twin, both ways, where a dose of twins is asked for."""
    if not recipe.data.twin_share:
        return {}
    return {a: b for twin in dataset.twins for a, b in (twin.keys, twin.keys[::-1])}


def make_encoder(
    model: Model,
    recipe: Recipe,
    dataset: Dataset,
    keys: Sequence[str],
    needs: frozenset[str],
    total: int,
    workers: int,
    say: Callable[[str], None],
    cache: Path | None = None,
) -> Encoder:
    """The model, with raw features of frozen towers computed beforehand where that saves work and they fit into memory."""
    drawn, precision = total * recipe.optimiser.batch, recipe.optimiser.precision
    images = texts = None
    still = recipe.data.crop_scale == (1.0, 1.0) and not recipe.data.views
    needs = needs - MADE_HERE
    if model.image_frozen and still and drawn >= len(keys):
        images = freeze_images(model, dataset, keys, needs, precision, workers, say, cache)
    if model.text_frozen and not any(draw.sentences[1] for draw in recipe.data.captions):  # these are too many to list
        wanted = drawable_texts(dataset, keys, recipe.data)
        if drawn * sum(draw.count for draw in recipe.data.captions) * (1 + recipe.data.negatives.count) >= len(wanted):
            texts = freeze_texts(model, sorted(wanted), needs, precision, say, cache)
    return Encoder(model, images, texts)


def packed(run: Run) -> checkpoint.Checkpoint:
    """All that the run's next step depends on."""
    facts: dict[str, Any] = {"best": vars(run.best), "skipped": run.skipped}
    if run.scaler is not None:
        facts["scaler"] = run.scaler.state_dict()
    return checkpoint.pack(run.step, run.model, run.optimiser, run.objective, run.teacher, **facts)


def go_on(run: Run, folder: RunFolder, dataset: Dataset, place: Place) -> checkpoint.Checkpoint | None:
    """The newest intact checkpoint, whose step is taken up, or ``None`` if there is none and the run begins anew.

    Raises:
        UserError: the run began with another recipe or other data, or there is nothing to go on from.
    """
    folder.check(RunIdentity(run.recipe, dataset.content_hash, seconds=folder.made.seconds))
    load = load_shards(place) if run.recipe.optimiser.shard else checkpoint.load

    def load_fitting(path: Path) -> checkpoint.Checkpoint:
        saved = load(path)
        checkpoint.check_fit(saved, run.model, run.optimiser, run.objective, run.teacher, run.names.kinds)
        if saved.step > run.total:
            raise ValueError(f"it says step {saved.step} of {run.total}")
        return saved

    saved, broken = checkpoint.load_newest(folder.checkpoints, load_fitting)
    run.notes += broken
    if saved is None:
        folder.check_beginning(run.model)
    else:
        run.best, run.step, run.skipped = Best(**saved.facts["best"]), saved.step, saved.facts.get("skipped", 0)
    return saved


def take_up(run: Run, saved: checkpoint.Checkpoint, folder: RunFolder, place: Place) -> None:
    """Puts a checkpoint's tensors and random states into the run."""
    if run.recipe.optimiser.shard:
        saved = read_shards(saved, folder.checkpoints, run.model, place)
    checkpoint.unpack(saved, run.model, run.optimiser, run.objective, run.teacher)
    if run.scaler is not None and "scaler" in saved.facts:
        run.scaler.load_state_dict(saved.facts["scaler"])
