"""What a run is made of: recipe, data and model, fitted to each other and checked before anything is written; and how far it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from wholegrain.data.batch import Phrases
from wholegrain.data.dataset import Dataset
from wholegrain.errors import UserError
from wholegrain.objectives.objective import Objective, choose_terms
from wholegrain.objectives.schema import ModelRecipe, Optimiser, Recipe
from wholegrain.suggest import closest
from wholegrain.text.words.phrases import NounPhrases
from wholegrain.towers.convert import convert_head
from wholegrain.towers.heads.registry import HeadConfig
from wholegrain.towers.lora import add_lora
from wholegrain.towers.model import Model
from wholegrain.training.checkpoints import checkpoint
from wholegrain.training.checkpoints.checkpoint import Checkpoint
from wholegrain.training.checkpoints.identity import RunIdentity
from wholegrain.training.checkpoints.run_folder import RunFolder
from wholegrain.training.checkpoints.sharded import load_shards
from wholegrain.training.distributed.processes import DistributedContext
from wholegrain.training.distributed.sharded import refuse_shard
from wholegrain.training.encoder import MADE_HERE, Encoder
from wholegrain.training.loading.frozen import drawable_texts, encode_images_once, encode_texts_once
from wholegrain.training.loading.loader import Names, PlanSampler, names_of
from wholegrain.training.loading.plan import Plan
from wholegrain.training.memory.accumulate import refuse_batchnorm
from wholegrain.training.memory.patch_dropout import PatchDropout, make_dropping
from wholegrain.training.memory.precision import resolve_precision
from wholegrain.training.step import seed_everything
from wholegrain.training.teacher import Teacher, make_teacher


@dataclass
class Best:
    """The best evaluation so far."""

    metric: str = ""
    value: float = float("-inf")
    step: int = -1

    def improves(self, numbers: Mapping[str, float], wanted: str, step: int) -> bool:
        """Notes an evaluation if it is the best yet, and says whether it was. Without a named metric the first number counts."""
        self.metric = self.metric or wanted or next(iter(numbers))
        if self.metric not in numbers:
            raise UserError(f'saving.metric "{self.metric}" is not evaluated: {closest(self.metric, list(numbers))}')
        if numbers[self.metric] <= self.value:
            return False
        self.value, self.step = numbers[self.metric], step
        return True


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        step: how many steps have been taken or left out.
        skipped: how many were left out in succession, just now.
        best: the best evaluation so far.
        evaluation_due: whether a signal came before the evaluation that belongs after this step.
    """

    step: int = 0
    skipped: int = 0
    best: Best = field(default_factory=Best)
    evaluation_due: bool = False

    @classmethod
    def of(cls, saved: Checkpoint) -> Progress:
        """That of a checkpoint."""
        facts = saved.facts
        return cls(saved.step, facts.get("skipped", 0), Best(**facts["best"]), facts.get("evaluation_due", False))


@dataclass(frozen=True)
class Run:
    """What a run is made of. While it trains, weights move, and what the teacher and the objective carry; nothing else.

    Attributes:
        recipe: resolved: the precision is the device's.
        dataset: of the recipe's split and other ones.
        model: fitted to the recipe, on its device, in training mode.
        objective: of the terms that data and model can serve.
        plan: which images each step has.
        names: of roles and kinds of negatives.
        total: the number of steps.
        notes: what the user should know, a sentence each.
        teacher, dropping: if the recipe asks for them.
    """

    recipe: Recipe
    dataset: Dataset
    model: Model
    objective: Objective
    plan: Plan
    names: Names
    total: int
    notes: tuple[str, ...] = ()
    teacher: Teacher | None = None
    dropping: PatchDropout | None = None


def make_run(recipe: Recipe, dataset: Dataset, model: Model, context: DistributedContext) -> Run:
    """Everything that a run needs, checked against each other before anything is written.

    Raises:
        UserError: recipe, data, model and the processes do not fit each other.
    """
    recipe = adapt_to_recipe(model, recipe, context.device)
    model.to(context.device).train()
    for key, wanted in (("micro_batch", recipe.optimiser.micro_batch), ("recompute", recipe.optimiser.recompute)):
        if wanted:
            refuse_batchnorm(model, f"optimiser.{key}")
    if recipe.optimiser.shard:
        refuse_shard(recipe, model)
    names = names_of(dataset, recipe.data)
    terms, notes = choose_terms(recipe, names.roles, offers(recipe, dataset, model))
    plan = Plan(
        dataset.layout(recipe.data.split),
        recipe.optimiser.batch,
        recipe.seed,
        twin_share=recipe.data.twin_share,
        twin_of=twins_of(dataset, recipe),
        window=recipe.data.shuffle_window,
        per_source=recipe.data.per_source,
    )
    PlanSampler(plan, 0, 0, context.rank, context.world_size)  # refuses a batch that the processes cannot share
    total = total_steps(recipe.optimiser, plan)
    teacher, objective = make_teacher(model, recipe.teacher), Objective(terms)
    dropping = make_dropping(recipe, model, objective.needs - MADE_HERE)
    return Run(recipe, dataset, model, objective, plan, names, total, notes, teacher, dropping)


def total_steps(settings: Optimiser, plan: Plan) -> int:
    """How many steps a run takes."""
    return settings.steps or max(1, round(settings.epochs * plan.steps_per_epoch))


def adapt_to_recipe(model: Model, recipe: Recipe, device: torch.device) -> Recipe:
    """Fits a model to a recipe, with what is new in it drawn by the recipe's seed, and the recipe to the device that it will run on."""
    seed_everything(recipe.seed)
    adapt_model(model, recipe)
    precision = resolve_precision(recipe.optimiser.precision, device)
    return replace(recipe, optimiser=replace(recipe.optimiser, precision=precision))


def adapt_model(model: Model, recipe: Recipe) -> None:
    """Gives the model what the recipe asks for: what is tuned, the head, a bias for a sigmoid. Idempotent."""
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
            add_lora(tower, wanted.lora.rank, wanted.lora.alpha, wanted.lora.parts, recipe.seed)


def offers(recipe: Recipe, dataset: Dataset, model: Model) -> frozenset[str]:
    """What data and model give to losses, out of ``losses.core.contract.NEEDS``."""
    offered = {"patches", "tokens", "phrases"} | model.head.gives
    if recipe.data.negatives.count and dataset.negative_kinds:
        offered.add("negatives")
    if model.bias is not None:
        offered.add("bias")
    if recipe.teacher.kind != "none":
        offered.add("teacher")
    if recipe.data.views:
        offered.add("views")
    if recipe.data.twin_share and dataset.twins:
        offered.add("twins")
    return frozenset(offered)


def phrases_for(objective: Objective) -> Phrases | None:
    """What finds the noun phrases of captions, if a term needs them: the built-in tagger."""
    return NounPhrases() if "phrases" in objective.needs else None


def twins_of(dataset: Dataset, recipe: Recipe) -> dict[str, str]:
    """Key -> key of its twin, both ways, where a dose of twins is asked for."""
    if not recipe.data.twin_share:
        return {}
    return {a: b for twin in dataset.twins for a, b in (twin.keys, twin.keys[::-1])}


def make_encoder(run: Run, say: Callable[[str], None], workers: int = 0, cache: Path | None = None) -> Encoder:
    """The model, with raw features of frozen towers computed beforehand where that saves work and they fit into memory.

    Args:
        run: of whose model, data and recipe.
        say: is told what is encoded.
        workers: processes that load.
        cache: a folder that keeps raw features.
    """
    model, keys, needs, precision = run.model, run.plan.keys, run.objective.needs - MADE_HERE, run.recipe.optimiser.precision
    images = texts = None
    early_images, early_texts = precomputes(run, run.total)
    if early_images:
        images = encode_images_once(model, run.dataset, keys, needs, precision, workers, say, cache)
    if early_texts:
        texts = encode_texts_once(model, sorted(texts_to_encode(run)), needs, precision, say, cache)
    return Encoder(model, images, texts, run.teacher, run.dropping)


def precomputes(run: Run, total: int) -> tuple[bool, bool]:
    """Whether images, and texts, are encoded before the first of so many steps: towers are frozen, and the steps draw more than there are."""
    recipe, drawn = run.recipe.data, total * run.recipe.optimiser.batch
    images = texts = False
    if run.model.image_frozen and recipe.crop_scale == (1.0, 1.0) and not recipe.views:
        images = drawn >= len(run.plan.keys)
    if run.model.text_frozen and not any(draw.sentences[1] or draw.units for draw in recipe.captions):  # these are too many to list
        each = sum(draw.count for draw in recipe.captions) * (1 + recipe.negatives.count)
        texts = drawn * each >= len(texts_to_encode(run))
    return images, texts


def texts_to_encode(run: Run) -> set[str]:
    """Every text that a step may draw, and the noun phrases of all where a loss asks for them."""
    texts, phrases = drawable_texts(run.dataset, run.plan.keys, run.recipe.data), phrases_for(run.objective)
    return texts if phrases is None else texts | {phrase for spoken in phrases(sorted(texts)) for phrase in spoken}


def find_checkpoint(run: Run, folder: RunFolder, context: DistributedContext) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """The newest intact checkpoint, or ``None`` if there is none and the run begins anew; and a sentence about each one that is broken.

    Raises:
        UserError: the run began with another recipe or other data, its ``recipe.toml`` was changed, a checkpoint is of a newer format, or
            there is neither a readable checkpoint nor the model before the first step.
    """
    folder.check(RunIdentity(run.recipe, run.dataset.content_hash, seconds=folder.identity.seconds))
    saved, broken = checkpoint.load_newest(folder.checkpoints, loader_for(run, context))
    if saved is None:
        folder.check_start(run.model)
    return saved, broken


def loader_for(run: Run, context: DistributedContext) -> Callable[[Path], Checkpoint]:
    """What reads a checkpoint, and refuses one that this run cannot have saved by an error of :data:`checkpoint.BROKEN`."""
    load = load_shards(context) if run.recipe.optimiser.shard else checkpoint.load

    def load_fitting(path: Path) -> Checkpoint:
        saved = load(path)
        checkpoint.check_fit(saved, run.model, run.objective, run.teacher, run.names.kinds)
        if saved.step > run.total:
            raise ValueError(f"it says step {saved.step} of {run.total}")
        return saved

    return load_fitting
