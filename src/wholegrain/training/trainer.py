"""Training. The path of a step, from the command to the loss's exponential, downward all the way:

1. ``cli/train.py``: the command's words. ``workflows/commands/train.py`` has ``training/start.py`` open the recipe, the data and the model that
   they name, makes the validation, and calls :func:`train`.
2. ``training/trainer.py``: :func:`train` builds a :class:`Trainer` (``training/run.py`` fits recipe, data and model to each other), which takes
   step after step, and saves and evaluates between them.
3. ``training/loading/loader.py``: the step's batch: which images (``plan.py``), which texts (``draw.py``), put together (``data/batch.py``).
4. ``training/step.py``: one step: forward, backward, clipping, AdamW.
5. ``training/encoder.py``: a batch -> features of images and texts, by the model's two towers and head.
6. ``objectives/objective.py``: features -> the weighted sum of the recipe's losses.
7. ``losses/clip.py``: one of them.
8. ``losses/core/contrastive.py``: the texts of all processes (``gather.py``), the logits, and the cross-entropy of both directions.
9. ``losses/core/tiled_softmax.py``: its exponentials, tile by tile.

Everything random is a function of the seed and the step, so a run that was interrupted at any step goes on as if it had not been:
on a CPU bit for bit, whatever the number of loading workers.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

from torch import nn

from wholegrain.data.batch import Batch
from wholegrain.data.dataset import Dataset
from wholegrain.errors import MachineError, UserError
from wholegrain.objectives.schema import Recipe
from wholegrain.towers.model import Model
from wholegrain.training.checkpoints import checkpoint
from wholegrain.training.checkpoints.agreement import facts_to_agree_on
from wholegrain.training.checkpoints.run_folder import STABLE, RunFolder
from wholegrain.training.checkpoints.saver import Saver
from wholegrain.training.checkpoints.sharded import read_shards
from wholegrain.training.distributed.processes import DistributedContext, init_distributed
from wholegrain.training.distributed.sharded import ShardedModel
from wholegrain.training.interrupts import Interrupts
from wholegrain.training.loading.loader import DrawnSamples, Loader, OnDevice, PlanSampler, make_loader
from wholegrain.training.memory.compiled import compiled
from wholegrain.training.memory.precision import autocast, make_scaler
from wholegrain.training.memory.recompute import recomputed
from wholegrain.training.meters import Meters, Reporter, Silent
from wholegrain.training.options import Evaluate, OnStep, SharedEvaluate, TrainOptions
from wholegrain.training.prefix import find_prefix
from wholegrain.training.run import Progress, Run, find_checkpoint, make_encoder, make_run, phrases_for
from wholegrain.training.schedule import decay_start, learning_rate
from wholegrain.training.step import (
    NonFiniteLossError,
    Outcome,
    StepOptions,
    make_optimiser,
    seed_everything,
    take_step,
)
from wholegrain.training.trackers import start_tracker
from wholegrain.training.work import matrix_peak, peak_megabytes, step_work

SKIPPED_MOST = 10  # steps in succession whose loss is not a finite number, before training stops all the same


def train(
    recipe: Recipe,
    dataset: Dataset,
    model: Model,
    options: TrainOptions,
    *,
    evaluate: Evaluate | None = None,
    on_step: OnStep | None = None,
) -> Path:
    """Trains a model by a recipe.

    Args:
        recipe: the method; its batch is that of all processes together.
        dataset: prepared data.
        model: where to start; it is changed in place and moved to the device. To resume, the model of the run (``RUN/model``);
            where there is a ``RUN/start`` (see ``training/checkpoints/run_folder.py``), that one is loaded in its place.
        options: the run's folder, device, workers and the like.
        evaluate: model -> numbers, higher is better for the one by which the best model is kept (``saving.metric``).
        on_step: called after every step; a true answer ends the training there, as if it were the last step.

    Returns:
        the folder of the trained model, ``out/model``: the best by ``evaluate`` if there is one, else the last.

    Raises:
        UserError: data, model and recipe do not fit each other, or those of the processes differ, or the loss is not finite (the
            batch's keys are then saved).
        MachineError: the disk is full, or another process was lost.
        KeyboardInterrupt, SystemExit: after SIGINT or SIGTERM, once a checkpoint is saved.
    """
    resume = options.resume
    if options.after is not None and evaluate is not None:
        raise ValueError("a run that goes on from another one is not evaluated on the way: the best model may be the other's")
    with init_distributed(options.device, options.timeout) as context, ExitStack() as stack:
        path = Path(context.all_gather(str(options.out))[0])
        folder = context.on_all_processes(lambda: RunFolder(path, resume))
        if resume:
            context.on_main_process(lambda: stack.enter_context(folder.lock()))
        model = (context.on_all_processes(folder.load_start) if resume else None) or model
        run = context.on_all_processes(lambda: make_run(recipe, dataset, model, context))
        saved, notes = context.on_all_processes(lambda: find_checkpoint(run, folder, context)) if resume else (None, ())
        after = options.after if saved is None else None
        if after is not None:
            saved, said = context.on_all_processes(lambda: find_prefix(run, after, context))
            notes = (*notes, *said)
        if context.world_size > 1:
            context.agree(facts_to_agree_on(run.recipe, dataset.content_hash, model, run.total, saved, resume))
        if not resume:
            context.on_main_process(lambda: (stack.enter_context(folder.lock()), folder.create(run.recipe, model, dataset, options.origin)))
        if after is not None and saved is not None:
            context.on_main_process(lambda: folder.begin_log(after))
        meters = stack.enter_context(closing(_make_meters(folder, 0 if saved is None else saved.step, run.total, context, options)))
        for sentence in (*run.notes, *notes):
            meters.say(sentence)
        trainer = Trainer(run, folder, context, meters, options, evaluate, on_step)
        if saved is not None:
            context.on_all_processes(lambda: trainer.load_state_dict(saved, None if after is None else after / STABLE))
        trainer.fit()
    return folder.model


def _make_meters(folder: RunFolder, start: int, total: int, context: DistributedContext, options: TrainOptions) -> Meters:
    if not context.is_main_process:
        return Silent()
    tracker = start_tracker(*options.tracker, folder.path) if options.tracker is not None else None
    return Reporter(folder.path, start, total, quiet=options.quiet, tracker=tracker)


class Trainer:
    """One run while it trains: all that it is made of, and the loop.

    Args:
        run: recipe, data and model, fitted to each other.
        folder: of the run, which has begun.
        context: this process among all.
        meters: where the run reports to.
        options, evaluate, on_step: as in :func:`train`.

    Attributes:
        progress: how far the run is.
        encoder: the model from batch to features.
        sharded_model: of a model that is shared out over the processes.
        optimiser, scaler: what moves the weights.
        saver: what writes checkpoints.
        decay_from, stable_saver: the step with which the rate of ``wsd`` begins to fall, and what keeps the checkpoint of it.
    """

    def __init__(
        self,
        run: Run,
        folder: RunFolder,
        context: DistributedContext,
        meters: Meters,
        options: TrainOptions,
        evaluate: Evaluate | None = None,
        on_step: OnStep | None = None,
    ) -> None:
        settings, saving = run.recipe.optimiser, run.recipe.saving
        sharded = settings.shard and context.world_size > 1
        self.run, self.folder, self.context, self.meters = run, folder, context, meters
        self.workers, self.evaluate, self.on_step = options.workers, evaluate, on_step
        self.progress = Progress()
        self.saver = Saver(folder.checkpoints, saving.keep, context, saving.asynchronous, sharded)
        self.decay_from = decay_start(run.total, settings) if settings.schedule == "wsd" else 0
        self.stable_saver = Saver(folder.stable, 1, context, sharded=sharded)
        self.encoder = make_encoder(run, meters.say, options.workers, options.cache)
        self.sharded_model = ShardedModel(self.encoder, context) if sharded else None
        self.optimiser = make_optimiser(run.model, settings)
        self.scaler = make_scaler(context.device, settings.precision)
        self.cast = partial(autocast, context.device, settings.precision)
        self.step_options = StepOptions(settings.grad_clip, settings.precision, settings.micro_batch, self.scaler, context.group)

    def fit(self) -> None:
        """Takes all steps that are left; the run's model is in its folder then. Raises as :func:`train`."""
        settings, loader = self.run.recipe.optimiser, self._make_loader()
        with closing(self.saver):
            with (
                Interrupts() as interrupts,
                compiled(self.run.model, settings.compile, self.cast),
                recomputed(self.run.model, settings.recompute),
                self._saving_if_loading_fails(loader),
            ):
                encoder = self.encoder if self.sharded_model is not None else self.context.wrap(self.encoder)
                self._take_steps(encoder, loader, interrupts)
            if self.evaluate is None:
                kept = self.gather_kept_model()
                self.context.on_main_process(lambda: self.folder.save_model(kept))
            self.context.on_main_process(self.folder.tidy)

    def _take_steps(self, encoder: nn.Module, loader: Loader, interrupts: Interrupts) -> None:
        """Step after step: draw, learn, report; now and then evaluate and save; stop when it is time, or at a signal."""
        run, progress, saver = self.run, self.progress, self.saver
        save_every = run.recipe.saving.every or run.plan.steps_per_epoch
        evaluate_every = run.recipe.saving.evaluate_every or run.plan.steps_per_epoch
        if progress.evaluation_due and self.evaluate is not None:
            self._evaluate(self.evaluate)
        if progress.step == run.total:  # killed after the last checkpoint
            self._save_last()
        for number, (batch, waited) in enumerate(_timed(OnDevice(loader, self.context.device))):
            if number == 0:
                self._measure(batch)
            outcome = self._step(encoder, batch)
            stopped = False
            if outcome is not None:
                self.meters.step(outcome, waited)
                stopped = self.on_step is not None and bool(self.on_step(outcome))
            progress.step += 1
            stopped, interrupted, failed = self.context.any(stopped, interrupts.signal is not None, saver.failed)
            done = progress.step == run.total or stopped
            if failed:
                saver.finish()  # raises what failed
            progress.evaluation_due = done or progress.step % evaluate_every == 0
            if self.evaluate is not None and progress.evaluation_due and (done or not interrupted):
                self._evaluate(self.evaluate)
            if progress.step == self.decay_from and not done:
                self.stable_saver.save(self.state_dict)
                self.meters.pause()
            if done or interrupted or progress.step % save_every == 0:
                saver.save(self.state_dict)
            if done or interrupted:
                saver.finish()
                self._save_last()
            if done:
                return
            if interrupted:
                command = f"wholegrain train --resume {self.folder.path}"
                self.meters.say(f"Interrupted after step {progress.step}; a checkpoint is saved, go on with: {command}")
                interrupts.end()
                raise SystemExit(143)  # the signal came to another process

    def _step(self, encoder: nn.Module, batch: Batch) -> Outcome | None:
        """One step; ``None`` if its loss is not a finite number and it is to be left out."""
        run, settings, step = self.run, self.run.recipe.optimiser, self.progress.step
        seed_everything(run.recipe.seed, step, self.context.rank)
        if run.dropping is not None:
            run.dropping.step = step
        on_device, lr = batch.to(self.context.device, non_blocking=True), learning_rate(step, run.total, settings)
        try:
            outcome = take_step(encoder, run.objective, self.optimiser, on_device, step=step, lr=lr, options=self.step_options)
        except NonFiniteLossError:
            self.progress.skipped += 1
            if not settings.skip_nonfinite or self.progress.skipped > SKIPPED_MOST:
                raise self._nonfinite(batch) from None
            path = self._note_batch(batch, f"nonfinite-{step}")
            self.meters.say(f"Step {step} is left out: its loss is not a finite number; the batch is in {path}.")
            return None
        self.progress.skipped = 0
        if run.teacher is not None:
            run.teacher.follow(run.model)
        return outcome

    def _evaluate(self, evaluate: Evaluate) -> None:
        """By the main process; the others help to encode where ``evaluate`` can share that, and else wait."""
        kept, group = self.gather_kept_model(), self.context.group
        kept = kept if self.sharded_model is None else kept.to(self.context.device)
        measure = partial(evaluate, kept)
        if isinstance(evaluate, SharedEvaluate) and group is not None:
            shared = evaluate.shared
            measure = self.context.on_all_processes(lambda: shared(kept, group))

        def act() -> None:
            numbers, step = measure(), self.progress.step
            self.meters.evaluation(step, numbers)
            if self.progress.best.improves(numbers, self.run.recipe.saving.metric, step):
                self.folder.keep_start()
                self.folder.save_model(kept)

        self.context.on_main_process(act)
        self.progress.evaluation_due = False
        self.run.model.train()

    # ---- what is saved ----

    def gather_kept_model(self) -> Model:
        """The model that is evaluated and saved to be used. If it is sharded, this gathers its weights, so every process must ask at once."""
        if self.sharded_model is not None:
            return self.sharded_model.full_model(self.run.model)
        teacher = self.run.teacher
        return self.run.model if teacher is None or self.run.recipe.teacher.keep == "student" else teacher.model

    def state_dict(self) -> checkpoint.Checkpoint:
        """All that the next step depends on."""
        run, progress = self.run, self.progress
        facts: dict[str, object] = {"best": vars(progress.best), "skipped": progress.skipped}
        if progress.evaluation_due and self.evaluate is not None:
            facts["evaluation_due"] = True
        if self.scaler is not None:
            facts["scaler"] = self.scaler.state_dict()
        return checkpoint.pack(progress.step, run.model, self.optimiser, run.objective, run.teacher, **facts)

    def load_state_dict(self, saved: checkpoint.Checkpoint, folder: Path | None = None) -> None:
        """Puts a checkpoint's tensors, random states and step into the run; ``folder`` is where it lies, by default the run's own."""
        run, self.progress = self.run, Progress.of(saved)
        if run.recipe.optimiser.shard:
            saved = read_shards(saved, folder or self.folder.checkpoints, run.model, self.context)
        checkpoint.unpack(saved, run.model, self.optimiser, run.objective, run.teacher)
        if self.scaler is not None and "scaler" in saved.facts:
            self.scaler.load_state_dict(saved.facts["scaler"])

    def _save_last(self) -> None:
        """Writes ``last/`` unless the best model is the last, keeps the newest checkpoints, and drops ``start/`` unless adapters need it."""
        last, run = self.gather_kept_model(), self.run

        def act() -> None:
            self.folder.save_last(last, same=self.evaluate is None or self.progress.best.step == self.progress.step)
            checkpoint.keep_newest(self.folder.checkpoints, run.recipe.saving.keep)
            if not run.recipe.model.lora.rank:
                self.folder.drop_start()

        self.context.on_main_process(act)

    @contextmanager
    def _saving_if_loading_fails(self, loader: Loader) -> Iterator[None]:
        """A checkpoint before leaving, where the data or a process that loads them fail, which shows between two steps.

        One of several processes cannot save alone: there the last checkpoint counts.
        """
        try:
            yield
        except (UserError, MachineError):
            if loader.failed and self.context.world_size == 1:
                self.saver.save(self.state_dict)
                self.saver.finish()
            raise

    # ---- batches ----

    def _make_loader(self) -> Loader:
        """The batches of the steps that remain; without pixels or tokens where cached features of a frozen tower stand for them."""
        run, context = self.run, self.context
        preprocess = run.model.preprocess if self.encoder.images is None else None
        tokenizer = run.model.tokenizer if self.encoder.texts is None else None
        samples = DrawnSamples(run.dataset, preprocess, run.recipe.data, run.names, run.recipe.seed, run.plan.keys)
        sampler = PlanSampler(run.plan, self.progress.step, run.total, context.rank, context.world_size)
        pin = context.device.type == "cuda"
        return make_loader(
            samples, sampler, tokenizer, run.names,
            workers=self.workers, pin=pin, on_broken=self._note_broken, phrases=phrases_for(run.objective),
        )  # fmt: skip

    def _note_broken(self, new: Mapping[str, str], known: Mapping[str, str]) -> None:
        """Images that could not be read: a sentence for each, and a file with all."""
        self.folder.note(self._file_name("broken_images"), known)
        for reason in new.values():
            self.meters.say(f"Another image takes the place of one: {reason}.")

    def _measure(self, batch: Batch) -> None:
        """Tells the meters, at the first batch, how much arithmetic a step is, and how fast the device multiplies matrices."""
        device, precision = self.context.device, self.run.recipe.optimiser.precision
        if self.context.is_main_process and self.sharded_model is None:
            work = step_work(self.encoder, self.run.objective, batch.to(device), self.cast, alone=self.context.main_group)
            self.meters.device(work, matrix_peak(device, precision), partial(peak_megabytes, device))

    def _nonfinite(self, batch: Batch) -> UserError:
        lr, path = self.run.recipe.optimiser.lr, self._note_batch(batch, "nonfinite")
        first = ", ".join(batch.keys[:3])
        return UserError(
            f"The loss is not a finite number at step {self.progress.step} (images {first}, …; all are in {path}); nothing was updated: look "
            f"at them, or begin anew with a lower --lr, such as {lr / 3:.1g} (now {lr:g})."
        )

    def _note_batch(self, batch: Batch, name: str) -> Path:
        """Writes down this process's part of a batch."""
        facts = {"step": self.progress.step, "keys": list(batch.keys), "texts": list(batch.texts)}
        return self.folder.note(self._file_name(name), facts)

    def _file_name(self, name: str) -> str:
        return f"{name}.json" if self.context.world_size == 1 else f"{name}-process{self.context.rank}.json"


def _timed(batches: Iterable[Batch]) -> Iterator[tuple[Batch, float]]:
    """Each batch, and the seconds that were spent waiting for it."""
    started = time.perf_counter()
    for batch in batches:
        yield batch, time.perf_counter() - started
        started = time.perf_counter()
