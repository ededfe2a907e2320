"""Training, from top to bottom: recipe, data and model in, a run's folder out.

Everything random is a function of the seed and the step, so a run that was interrupted at any step goes on as if it had not been:
on a CPU bit for bit, whatever the number of loading workers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wholegrain.data.batch import Batch
from wholegrain.data.dataset import Dataset
from wholegrain.errors import MachineError, UserError
from wholegrain.objectives.objective import Objective, choose_terms
from wholegrain.objectives.schema import ModelRecipe, Recipe, closest
from wholegrain.towers.heads import HeadConfig, convert_head
from wholegrain.towers.lora import add_lora
from wholegrain.towers.model import Model
from wholegrain.training import checkpoint
from wholegrain.training.accumulate import refuse_batchnorm
from wholegrain.training.agreement import facts_to_agree_on
from wholegrain.training.compiled import compiled
from wholegrain.training.distributed import TIMEOUT, Place, processes
from wholegrain.training.encoder import MADE_HERE, Encoder
from wholegrain.training.frozen import drawable_texts, freeze_images, freeze_texts
from wholegrain.training.interrupts import Interrupts
from wholegrain.training.loader import DrawnSamples, Loader, Names, OnDevice, PlanSampler, Tell, make_loader, names_of
from wholegrain.training.meters import Meters, Reporter, Silent
from wholegrain.training.patch_dropout import PatchDropout, make_dropping
from wholegrain.training.plan import Plan
from wholegrain.training.precision import autocast, make_scaler, resolve_precision
from wholegrain.training.recompute import blocks_of, recomputed
from wholegrain.training.run_folder import RunFolder
from wholegrain.training.saver import Saver
from wholegrain.training.sharded import Shards, load_shards, read_shards, refuse_shard
from wholegrain.training.step import (
    NonFiniteLossError,
    Outcome,
    learning_rate,
    make_optimiser,
    seed_everything,
    take_step,
)
from wholegrain.training.teacher import Teacher, make_teacher
from wholegrain.training.trackers import Tracker
from wholegrain.training.work import matrix_peak, peak_megabytes, step_work

Evaluate = Callable[[Model], Mapping[str, float]]
OnStep = Callable[[Outcome], bool | None]
SKIPPED_MOST = 10  # steps in succession whose loss is not a finite number, before training stops all the same


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


def train(
    recipe: Recipe,
    dataset: Dataset,
    model: Model,
    run_folder: Path,
    *,
    evaluate: Evaluate | None = None,
    on_step: OnStep | None = None,
    resume: bool = False,
    workers: int = 0,
    device: str | None = None,
    origin: Mapping[str, Any] | None = None,
    quiet: bool = False,
    cache: Path | None = None,
    tracker: tuple[str, str] | None = None,
    timeout: float = TIMEOUT,
) -> Path:
    """Trains a model by a recipe.

    Args:
        recipe: the method; its batch is that of all processes together.
        dataset: prepared data.
        model: where to start; it is changed in place and moved to the device. To resume, the model of the run (``RUN/model``; a run with
            adapters begins again from its own ``RUN/start``).
        run_folder: a new folder, or that of the run to resume.
        evaluate: model -> numbers, higher is better for the one by which the best model is kept (``saving.metric``).
        on_step: called after every step; a true answer ends the training there, as if it were the last step.
        resume: go on from the newest intact checkpoint in ``run_folder``.
        workers: processes that load data, per training process.
        device: such as ``cpu``; by default CUDA where there is one.
        origin: further facts for ``run.json``, such as the command.
        quiet: no progress.
        cache: a folder that keeps raw features of frozen towers from run to run.
        tracker: ``wandb`` or ``trackio``, and the project there.
        timeout: seconds to wait for another process before it is taken for lost.

    Returns:
        the folder of the trained model, ``run_folder/model``: the best by ``evaluate`` if there is one, else the last.

    Raises:
        UserError: data, model and recipe do not fit each other, or those of the processes differ, or the loss is not finite (the
            batch's keys are then saved).
        MachineError: the disk is full, or another process was lost.
        KeyboardInterrupt, SystemExit: after SIGINT or SIGTERM, once a checkpoint is saved.
    """
    with processes(device, timeout) as place:
        path = Path(place.of_all(str(run_folder))[0])
        folder = place.together(lambda: RunFolder(path, resume))
        model = place.together(folder.beginning) or model
        run = place.together(lambda: _assemble(recipe, dataset, model, place))
        saved = place.together(lambda: _go_on(run, folder, dataset, place)) if resume else None
        if place.world > 1:
            place.agree(facts_to_agree_on(run.recipe, dataset.content_hash, model, run.total, saved, resume))
        if not resume:
            place.first_alone(lambda: folder.begin(run.recipe, model, dataset, origin or {}))
        follow = Tracker(*tracker, folder.path) if tracker is not None and place.first else None
        meters = Reporter(folder.path, run.step, run.total, quiet=quiet, tracker=follow) if place.first else Silent()
        shared = run.recipe.optimiser.shard and place.world > 1
        saver = Saver(folder.checkpoints, run.recipe.saving.keep, place, run.recipe.saving.asynchronous, shared)
        try:
            for sentence in run.notes:
                meters.say(sentence)
            needs = run.objective.needs
            encoder = make_encoder(model, run.recipe, dataset, run.plan.keys, needs, run.total, workers, meters.say, cache)
            encoder.teacher, encoder.dropping = run.teacher, run.dropping
            settings = run.recipe.optimiser
            cast = partial(autocast, place.device, settings.precision)
            if shared:
                run.shards = Shards(encoder, place)
                run.optimiser = make_optimiser(model, settings)
            if saved is not None:
                place.together(lambda: _take_up(run, saved, folder, place))
            loader = _batches(encoder, run, dataset, place, workers, partial(_tell_broken, folder, meters, place))
            batches = _timed(OnDevice(loader, place.device))
            if place.first and not shared:
                batches = _measured(batches, encoder, run, place, cast, meters)
            with (
                Interrupts() as interrupts,
                compiled(model, settings.compile, cast),
                recomputed(model, settings.recompute),
                _saved_if_loading_fails(loader, run, place, saver),
            ):
                _loop(
                    run,
                    encoder if shared else place.wrap(encoder),
                    batches,
                    place,
                    folder,
                    saver,
                    meters,
                    interrupts,
                    evaluate,
                    on_step,
                )
            if evaluate is None:
                kept = run.kept
                place.first_alone(lambda: folder.save_model(kept))
        finally:
            saver.close()
            meters.close()
    return folder.model


def _loop(
    run: Run,
    encoder: nn.Module,
    batches: Iterable[tuple[Batch, float]],
    place: Place,
    folder: RunFolder,
    saver: Saver,
    meters: Meters,
    interrupts: Interrupts,
    evaluate: Evaluate | None,
    on_step: OnStep | None,
) -> None:
    """Step after step: draw, learn, report; now and then evaluate and save; stop when it is time, or asked."""
    saving = run.recipe.saving
    save_every = saving.every or run.plan.steps_per_epoch
    evaluate_every = saving.evaluate_every or run.plan.steps_per_epoch
    for batch, waited in batches:
        outcome = _step(run, encoder, batch, place, folder, meters)
        stopped = False
        if outcome is not None:
            if run.teacher is not None:
                run.teacher.follow(run.model)
            meters.step(outcome, waited)
            stopped = on_step is not None and bool(on_step(outcome))
        run.step += 1
        stopped, interrupted, failed = place.any(stopped, interrupts.asked is not None, saver.failed)
        done = run.step == run.total or stopped
        if failed:
            saver.finish()  # says what failed
        if evaluate is not None and not interrupted and (done or run.step % evaluate_every == 0):
            _evaluate(run, evaluate, folder, meters, place)
        if done or interrupted or run.step % save_every == 0:
            saver.save(lambda: _packed(run))
        if done or interrupted:
            saver.finish()
            place.first_alone(partial(folder.save_last, run.kept, evaluate is None or run.best.step == run.step))
        if done:
            return
        if interrupted:
            meters.say(
                f"Interrupted after step {run.step}; a checkpoint is saved, go on with: wholegrain train --resume {folder.path}"
            )
            interrupts.obey()
            raise SystemExit(143)  # another process was asked


def _step(run: Run, encoder: nn.Module, batch: Batch, place: Place, folder: RunFolder, meters: Meters) -> Outcome | None:
    """One step; ``None`` if its loss is not a finite number and it is to be left out."""
    settings = run.recipe.optimiser
    seed_everything(run.recipe.seed, run.step, place.rank)
    if run.dropping is not None:
        run.dropping.step = run.step
    try:
        outcome = take_step(
            encoder,
            run.objective,
            run.optimiser,
            batch.to(place.device, non_blocking=True),
            step=run.step,
            lr=learning_rate(run.step, run.total, settings),
            grad_clip=settings.grad_clip,
            precision=settings.precision,
            micro_batch=settings.micro_batch,
            scaler=run.scaler,
            group=place.group,
        )
    except NonFiniteLossError:
        run.skipped += 1
        if not settings.skip_nonfinite or run.skipped > SKIPPED_MOST:
            raise _explained(folder, run.step, batch, run.recipe, place) from None
        path = _noted(folder, run.step, batch, place, f"nonfinite-{run.step}")
        meters.say(f"Step {run.step} is left out: its loss is not a finite number; the batch is in {path}.")
        return None
    run.skipped = 0
    return outcome


def _packed(run: Run) -> checkpoint.Checkpoint:
    """All that the run's next step depends on."""
    facts: dict[str, Any] = {"best": vars(run.best), "skipped": run.skipped}
    if run.scaler is not None:
        facts["scaler"] = run.scaler.state_dict()
    return checkpoint.pack(run.step, run.model, run.optimiser, run.objective, run.teacher, **facts)


def _evaluate(run: Run, evaluate: Evaluate, folder: RunFolder, meters: Meters, place: Place) -> None:
    """By the first process; the others help to encode where ``evaluate`` can share that, and else wait.

    What can has a method ``shared(model, group)``: all processes call it, and the first one calls what it gives.
    """
    kept = run.kept if run.shards is None else run.kept.to(place.device)
    shared, count = getattr(evaluate, "shared", None), partial(evaluate, kept)
    if shared is not None and place.group is not None:
        count = place.together(lambda: shared(kept, place.group))

    def act() -> None:
        numbers = count()
        meters.evaluation(run.step, numbers)
        if run.best.improves(numbers, run.recipe.saving.metric, run.step):
            folder.save_model(kept)

    place.first_alone(act)
    run.model.train()


# ---- before the loop --------------------------------------------------------------------------------------------------------


def _assemble(recipe: Recipe, dataset: Dataset, model: Model, place: Place) -> Run:
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


def _go_on(run: Run, folder: RunFolder, dataset: Dataset, place: Place) -> checkpoint.Checkpoint | None:
    """The newest intact checkpoint, whose step is taken up, or ``None`` if there is none yet."""
    folder.check(dataset)
    load = load_shards(place) if run.recipe.optimiser.shard else None
    saved, broken = checkpoint.load_newest(folder.checkpoints, load)
    run.notes += broken
    if saved is not None:
        run.best, run.step, run.skipped = Best(**saved.facts["best"]), saved.step, saved.facts.get("skipped", 0)
    return saved


def _take_up(run: Run, saved: checkpoint.Checkpoint, folder: RunFolder, place: Place) -> None:
    """Puts a checkpoint's tensors and random states into the run."""
    if run.recipe.optimiser.shard:
        saved = read_shards(saved, folder.checkpoints, run.model, place)
    checkpoint.unpack(saved, run.model, run.optimiser, run.objective, run.teacher)
    if run.scaler is not None and "scaler" in saved.facts:
        run.scaler.load_state_dict(saved.facts["scaler"])


def fit_model(model: Model, recipe: Recipe) -> None:
    """Gives the model what the recipe asks for: what is tuned, the head, a bias for a sigmoid. Twice is as good as once."""
    wanted: ModelRecipe = recipe.model
    for tower, how in ((model.image_tower, wanted.tune_image), (model.text_tower, wanted.tune_text)):
        if how:
            tower.tune(how)
    try:
        settings = dict(wanted.head_settings)
        if wanted.head == "branches":
            settings["branches"] = wanted.branches
        head = HeadConfig(kind=wanted.head, **settings)  # pyright: ignore[reportArgumentType]
    except TypeError as problem:
        raise UserError(f"model.head_settings of recipe {recipe.name} do not fit: {problem}.") from None
    convert_head(model, head)
    if "bias" in Objective(recipe.terms).needs:
        model.add_bias()
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


def _batches(encoder: Encoder, run: Run, dataset: Dataset, place: Place, workers: int, tell: Tell) -> Loader:
    """The batches that remain; what raw features make needless is left out."""
    preprocess = run.model.preprocess if encoder.images is None else None
    tokenizer = run.model.tokenizer if encoder.texts is None else None
    samples = DrawnSamples(dataset, preprocess, run.recipe.data, run.names, run.recipe.seed, run.plan.keys)
    sampler = PlanSampler(run.plan, run.step, run.total, place.rank, place.world)
    return make_loader(samples, sampler, tokenizer, run.names, workers=workers, pin=place.device.type == "cuda", tell=tell)


def _tell_broken(folder: RunFolder, meters: Meters, place: Place, new: Mapping[str, str], known: Mapping[str, str]) -> None:
    """Images that could not be read: a sentence for each, and a file with all."""
    whose = "" if place.world == 1 else f"-process{place.rank}"
    folder.note(f"broken_images{whose}.json", known)
    for reason in new.values():
        meters.say(f"Another image takes the place of one: {reason}.")


@contextmanager
def _saved_if_loading_fails(loader: Loader, run: Run, place: Place, saver: Saver) -> Iterator[None]:
    """A checkpoint before leaving, where the data or a process that loads them fail, which shows between two steps.

    One of several processes cannot save alone: there the last checkpoint counts.
    """
    try:
        yield
    except (UserError, MachineError):
        if loader.failed and place.world == 1:
            saver.save(lambda: _packed(run))
            saver.finish()
        raise


def _timed(batches: Iterable[Batch]) -> Iterator[tuple[Batch, float]]:
    """Each batch, and the seconds that were spent waiting for it."""
    started = time.perf_counter()
    for batch in batches:
        yield batch, time.perf_counter() - started
        started = time.perf_counter()


def _measured(
    batches: Iterable[tuple[Batch, float]],
    encoder: Encoder,
    run: Run,
    place: Place,
    cast: Callable[[], torch.autocast],
    meters: Meters,
) -> Iterator[tuple[Batch, float]]:
    """The same; at the first batch, meters are told what a step is and what the device can do."""
    device, precision = place.device, run.recipe.optimiser.precision
    for number, (batch, waited) in enumerate(batches):
        if number == 0:
            work = step_work(encoder, run.objective, batch.to(device), cast, alone=place.alone)
            meters.device(work, matrix_peak(device, precision), partial(peak_megabytes, device))
        yield batch, waited


def _explained(folder: RunFolder, step: int, batch: Batch, recipe: Recipe, place: Place) -> UserError:
    path = _noted(folder, step, batch, place, "nonfinite")
    first = ", ".join(batch.keys[:3])
    return UserError(
        f"The loss is not a finite number at step {step} (images {first}, …; all are in {path}); nothing was updated: look at "
        f"them, or lower optimiser.lr (now {recipe.optimiser.lr}) and resume from the last checkpoint."
    )


def _noted(folder: RunFolder, step: int, batch: Batch, place: Place, name: str) -> Path:
    """Writes down this process's part of a batch."""
    whose = "" if place.world == 1 else f"-process{place.rank}"
    return folder.note(f"{name}{whose}.json", {"step": step, "keys": list(batch.keys), "texts": list(batch.texts)})
