"""Training, from top to bottom: recipe, data and model in, a run's folder out.

Everything random is a function of the seed and the step, so a run that was interrupted at any step goes on as if it had not been:
on a CPU bit for bit, whatever the number of loading workers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wholegrain.data.batch import Batch
from wholegrain.data.dataset import Dataset
from wholegrain.errors import MachineError, UserError
from wholegrain.objectives.schema import Recipe
from wholegrain.towers.model import Model
from wholegrain.training.checkpoints import checkpoint
from wholegrain.training.checkpoints.run_folder import RunFolder
from wholegrain.training.checkpoints.saver import Saver
from wholegrain.training.distributed.agreement import facts_to_agree_on
from wholegrain.training.distributed.processes import TIMEOUT, DistributedContext, init_distributed
from wholegrain.training.distributed.sharded import Shards
from wholegrain.training.encoder import Encoder
from wholegrain.training.interrupts import Interrupts
from wholegrain.training.loading.loader import DrawnSamples, Loader, OnDevice, PlanSampler, Tell, make_loader
from wholegrain.training.memory.compiled import compiled
from wholegrain.training.memory.precision import autocast
from wholegrain.training.memory.recompute import recomputed
from wholegrain.training.meters import Meters, Reporter, Silent
from wholegrain.training.run import Run, assemble, go_on, make_encoder, packed, take_up
from wholegrain.training.step import (
    NonFiniteLossError,
    Outcome,
    learning_rate,
    make_optimiser,
    seed_everything,
    take_step,
)
from wholegrain.training.trackers import Tracker
from wholegrain.training.work import matrix_peak, peak_megabytes, step_work

Evaluate = Callable[[Model], Mapping[str, float]]
OnStep = Callable[[Outcome], bool | None]
SKIPPED_MOST = 10  # steps in succession whose loss is not a finite number, before training stops all the same


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
    with init_distributed(device, timeout) as context, ExitStack() as held:
        path = Path(context.all_gather(str(run_folder))[0])
        folder = context.on_all_processes(lambda: RunFolder(path, resume))
        if resume:
            context.on_main_process(lambda: held.enter_context(folder.held()))
        model = context.on_all_processes(folder.beginning) or model
        run = context.on_all_processes(lambda: assemble(recipe, dataset, model, context))
        saved = context.on_all_processes(lambda: go_on(run, folder, dataset, context)) if resume else None
        if context.world_size > 1:
            context.agree(facts_to_agree_on(run.recipe, dataset.content_hash, model, run.total, saved, resume))
        if not resume:
            context.on_main_process(lambda: (held.enter_context(folder.held()), folder.begin(run.recipe, model, dataset, origin or {})))
        follow = Tracker(*tracker, folder.path) if tracker is not None and context.is_main_process else None
        meters = Reporter(folder.path, run.step, run.total, quiet=quiet, tracker=follow) if context.is_main_process else Silent()
        shared = run.recipe.optimiser.shard and context.world_size > 1
        saver = Saver(folder.checkpoints, run.recipe.saving.keep, context, run.recipe.saving.asynchronous, shared)
        try:
            for sentence in run.notes:
                meters.say(sentence)
            needs = run.objective.needs
            encoder = make_encoder(model, run.recipe, dataset, run.plan.keys, needs, run.total, workers, meters.say, cache)
            encoder.teacher, encoder.dropping = run.teacher, run.dropping
            settings = run.recipe.optimiser
            cast = partial(autocast, context.device, settings.precision)
            if shared:
                run.shards = Shards(encoder, context)
                run.optimiser = make_optimiser(model, settings)
            if saved is not None:
                context.on_all_processes(lambda: take_up(run, saved, folder, context))
            loader = _batches(encoder, run, dataset, context, workers, partial(_tell_broken, folder, meters, context))
            batches = _timed(OnDevice(loader, context.device))
            if context.is_main_process and not shared:
                batches = _measured(batches, encoder, run, context, cast, meters)
            with (
                Interrupts() as interrupts,
                compiled(model, settings.compile, cast),
                recomputed(model, settings.recompute),
                _saved_if_loading_fails(loader, run, context, saver),
            ):
                _loop(
                    run,
                    encoder if shared else context.wrap(encoder),
                    batches,
                    context,
                    folder,
                    saver,
                    meters,
                    interrupts,
                    evaluate,
                    on_step,
                )
            if evaluate is None:
                kept = run.kept
                context.on_main_process(lambda: folder.save_model(kept))
            context.on_main_process(folder.tidy)
        finally:
            saver.close()
            meters.close()
    return folder.model


def _loop(
    run: Run,
    encoder: nn.Module,
    batches: Iterable[tuple[Batch, float]],
    context: DistributedContext,
    folder: RunFolder,
    saver: Saver,
    meters: Meters,
    interrupts: Interrupts,
    evaluate: Evaluate | None,
    on_step: OnStep | None,
) -> None:
    """Step after step: draw, learn, report; now and then evaluate and save; stop when it is time, or asked."""
    saving = run.recipe.saving
    if run.step == run.total:  # killed after the last checkpoint
        context.on_main_process(partial(_end, run, folder, run.kept, evaluate is None))
    save_every = saving.every or run.plan.steps_per_epoch
    evaluate_every = saving.evaluate_every or run.plan.steps_per_epoch
    for batch, waited in batches:
        outcome = _step(run, encoder, batch, context, folder, meters)
        stopped = False
        if outcome is not None:
            if run.teacher is not None:
                run.teacher.follow(run.model)
            meters.step(outcome, waited)
            stopped = on_step is not None and bool(on_step(outcome))
        run.step += 1
        stopped, interrupted, failed = context.any(stopped, interrupts.asked is not None, saver.failed)
        done = run.step == run.total or stopped
        if failed:
            saver.finish()  # says what failed
        if evaluate is not None and not interrupted and (done or run.step % evaluate_every == 0):
            _evaluate(run, evaluate, folder, meters, context)
        if done or interrupted or run.step % save_every == 0:
            saver.save(lambda: packed(run))
        if done or interrupted:
            saver.finish()
            context.on_main_process(partial(_end, run, folder, run.kept, evaluate is None))
        if done:
            return
        if interrupted:
            meters.say(
                f"Interrupted after step {run.step}; a checkpoint is saved, go on with: wholegrain train --resume {folder.path}"
            )
            interrupts.obey()
            raise SystemExit(143)  # another process was asked


def _end(run: Run, folder: RunFolder, last: Model, unevaluated: bool) -> None:
    folder.save_last(last, same=unevaluated or run.best.step == run.step)
    checkpoint.keep_newest(folder.checkpoints, run.recipe.saving.keep)
    if not run.recipe.model.lora.rank:
        folder.drop_beginning()


def _step(run: Run, encoder: nn.Module, batch: Batch, context: DistributedContext, folder: RunFolder, meters: Meters) -> Outcome | None:
    """One step; ``None`` if its loss is not a finite number and it is to be left out."""
    settings = run.recipe.optimiser
    seed_everything(run.recipe.seed, run.step, context.rank)
    if run.dropping is not None:
        run.dropping.step = run.step
    try:
        outcome = take_step(
            encoder,
            run.objective,
            run.optimiser,
            batch.to(context.device, non_blocking=True),
            step=run.step,
            lr=learning_rate(run.step, run.total, settings),
            grad_clip=settings.grad_clip,
            precision=settings.precision,
            micro_batch=settings.micro_batch,
            scaler=run.scaler,
            group=context.group,
        )
    except NonFiniteLossError:
        run.skipped += 1
        if not settings.skip_nonfinite or run.skipped > SKIPPED_MOST:
            raise _explained(folder, run.step, batch, run.recipe, context) from None
        path = _noted(folder, run.step, batch, context, f"nonfinite-{run.step}")
        meters.say(f"Step {run.step} is left out: its loss is not a finite number; the batch is in {path}.")
        return None
    run.skipped = 0
    return outcome


def _evaluate(run: Run, evaluate: Evaluate, folder: RunFolder, meters: Meters, context: DistributedContext) -> None:
    """By the first process; the others help to encode where ``evaluate`` can share that, and else wait.

    What can has a method ``shared(model, group)``: all processes call it, and the first one calls what it gives.
    """
    kept = run.kept if run.shards is None else run.kept.to(context.device)
    shared, count = getattr(evaluate, "shared", None), partial(evaluate, kept)
    if shared is not None and context.group is not None:
        count = context.on_all_processes(lambda: shared(kept, context.group))

    def act() -> None:
        numbers = count()
        meters.evaluation(run.step, numbers)
        if run.best.improves(numbers, run.recipe.saving.metric, run.step):
            folder.keep_beginning()
            folder.save_model(kept)

    context.on_main_process(act)
    run.model.train()


def _batches(encoder: Encoder, run: Run, dataset: Dataset, context: DistributedContext, workers: int, tell: Tell) -> Loader:
    """The batches that remain; what raw features make needless is left out."""
    preprocess = run.model.preprocess if encoder.images is None else None
    tokenizer = run.model.tokenizer if encoder.texts is None else None
    samples = DrawnSamples(dataset, preprocess, run.recipe.data, run.names, run.recipe.seed, run.plan.keys)
    sampler = PlanSampler(run.plan, run.step, run.total, context.rank, context.world_size)
    return make_loader(samples, sampler, tokenizer, run.names, workers=workers, pin=context.device.type == "cuda", tell=tell)


def _tell_broken(folder: RunFolder, meters: Meters, context: DistributedContext, new: Mapping[str, str], known: Mapping[str, str]) -> None:
    """Images that could not be read: a sentence for each, and a file with all."""
    whose = "" if context.world_size == 1 else f"-process{context.rank}"
    folder.note(f"broken_images{whose}.json", known)
    for reason in new.values():
        meters.say(f"Another image takes the place of one: {reason}.")


@contextmanager
def _saved_if_loading_fails(loader: Loader, run: Run, context: DistributedContext, saver: Saver) -> Iterator[None]:
    """A checkpoint before leaving, where the data or a process that loads them fail, which shows between two steps.

    One of several processes cannot save alone: there the last checkpoint counts.
    """
    try:
        yield
    except (UserError, MachineError):
        if loader.failed and context.world_size == 1:
            saver.save(lambda: packed(run))
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
    context: DistributedContext,
    cast: Callable[[], torch.autocast],
    meters: Meters,
) -> Iterator[tuple[Batch, float]]:
    """The same; at the first batch, meters are told what a step is and what the device can do."""
    device, precision = context.device, run.recipe.optimiser.precision
    for number, (batch, waited) in enumerate(batches):
        if number == 0:
            work = step_work(encoder, run.objective, batch.to(device), cast, alone=context.main_group)
            meters.device(work, matrix_peak(device, precision), partial(peak_megabytes, device))
        yield batch, waited


def _explained(folder: RunFolder, step: int, batch: Batch, recipe: Recipe, context: DistributedContext) -> UserError:
    path = _noted(folder, step, batch, context, "nonfinite")
    first = ", ".join(batch.keys[:3])
    return UserError(
        f"The loss is not a finite number at step {step} (images {first}, …; all are in {path}); nothing was updated: look at "
        f"them, or begin anew with a lower --lr, such as {recipe.optimiser.lr / 3:.1g} (now {recipe.optimiser.lr:g})."
    )


def _noted(folder: RunFolder, step: int, batch: Batch, context: DistributedContext, name: str) -> Path:
    """Writes down this process's part of a batch."""
    whose = "" if context.world_size == 1 else f"-process{context.rank}"
    return folder.note(f"{name}{whose}.json", {"step": step, "keys": list(batch.keys), "texts": list(batch.texts)})
