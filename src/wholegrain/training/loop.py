"""Training, from top to bottom: recipe, data and model in, a run's folder out.

Everything random is a function of the seed and the step, so a run that was interrupted at any step goes on as if it had not been:
on a CPU bit for bit, whatever the number of loading workers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from wholegrain.data.batch import Batch
from wholegrain.errors import UserError
from wholegrain.objectives.objective import Objective, choose_terms
from wholegrain.objectives.schema import ModelRecipe, Recipe, closest
from wholegrain.towers.heads import HeadConfig, convert_head
from wholegrain.towers.model import Model
from wholegrain.training import checkpoint
from wholegrain.training.distributed import Place, processes
from wholegrain.training.encoder import Encoder
from wholegrain.training.frozen import drawable_texts, freeze_images, freeze_texts
from wholegrain.training.interrupts import Interrupts
from wholegrain.training.loader import DrawnSamples, Names, PlanSampler, Source, make_loader, names_of
from wholegrain.training.meters import Meters, Reporter, Silent
from wholegrain.training.plan import Plan
from wholegrain.training.run_folder import RunFolder
from wholegrain.training.step import (
    NonFiniteLossError,
    Outcome,
    learning_rate,
    make_optimiser,
    resolve_precision,
    seed_everything,
    take_step,
)

Evaluate = Callable[[Model], Mapping[str, float]]


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


def train(
    recipe: Recipe,
    dataset: Source,
    model: Model,
    run_folder: Path,
    *,
    evaluate: Evaluate | None = None,
    on_step: Callable[[Outcome], bool | None] | None = None,
    resume: bool = False,
    workers: int = 0,
    device: str | None = None,
    origin: Mapping[str, Any] | None = None,
    quiet: bool = False,
) -> Path:
    """Trains a model by a recipe.

    Args:
        recipe: the method; its batch is that of all processes together.
        dataset: prepared data.
        model: where to start; it is changed in place and moved to the device. To resume, the model of the run (``RUN/model``).
        run_folder: a new folder, or that of the run to resume.
        evaluate: model -> numbers, higher is better for the one by which the best model is kept (``saving.metric``).
        on_step: called after every step; a true answer ends the training there, as if it were the last step.
        resume: go on from the newest intact checkpoint in ``run_folder``.
        workers: processes that load data, per training process.
        device: such as ``cpu``; by default CUDA where there is one.
        origin: further facts for ``run.json``, such as the command.
        quiet: no progress.

    Returns:
        the folder of the trained model, ``run_folder/model``: the best by ``evaluate`` if there is one, else the last.

    Raises:
        UserError: data, model and recipe do not fit each other; or the loss is not finite (the batch's keys are then saved).
        KeyboardInterrupt, SystemExit: after SIGINT or SIGTERM, once a checkpoint is saved.
    """
    folder = RunFolder(Path(run_folder), resume)
    with processes(device) as place:
        seed_everything(recipe.seed)
        fit_model(model, recipe)
        model.to(place.device).train()
        precision = resolve_precision(recipe.optimiser.precision, place.device)
        recipe = replace(recipe, optimiser=replace(recipe.optimiser, precision=precision))

        names = names_of(dataset, recipe.data)
        terms, notes = choose_terms(recipe, names.roles, offers(recipe, dataset, model))
        objective = Objective(terms)
        keys = dataset.keys(recipe.data.split)
        plan = Plan(keys, recipe.optimiser.batch, recipe.seed, recipe.data.twin_share, twins_of(dataset, recipe))
        total = recipe.optimiser.steps or max(1, round(recipe.optimiser.epochs * plan.steps_per_epoch))
        optimiser = make_optimiser(model, recipe.optimiser)

        best, step = Best(), 0
        if resume:
            folder.check(dataset)
            saved, broken = checkpoint.load_newest(folder.checkpoints)
            notes += broken
            if saved is not None:
                checkpoint.unpack(saved, model, optimiser, objective)
                best, step = Best(**saved.facts["best"]), saved.step
        elif place.first:
            folder.begin(recipe, model, dataset, origin or {})
        place.wait()

        meters = _meters(folder, step, total, place, quiet)
        for sentence in notes:
            meters.say(sentence)
        encoder = make_encoder(model, recipe, dataset, keys, objective.needs, total, workers, meters.say)
        batches = _batches(encoder, recipe, dataset, plan, names, (step, total), place, workers)
        encoder = place.wrap(encoder)
        save_every = recipe.saving.every or plan.steps_per_epoch
        evaluate_every = recipe.saving.evaluate_every or plan.steps_per_epoch

        try:
            with Interrupts() as interrupts:
                done = step >= total
                for batch, waited in _timed(batches):
                    if done:
                        break
                    seed_everything(recipe.seed, step, place.rank)
                    try:
                        outcome = take_step(
                            encoder,
                            objective,
                            optimiser,
                            batch.to(place.device, non_blocking=True),
                            step=step,
                            lr=learning_rate(step, total, recipe.optimiser),
                            grad_clip=recipe.optimiser.grad_clip,
                            precision=precision,
                            group=place.group,
                        )
                    except NonFiniteLossError:
                        raise _explained(folder, step, batch, recipe) from None
                    meters.step(outcome, waited)
                    stopped = on_step is not None and bool(on_step(outcome))
                    step += 1
                    done = place.any(stopped) or step == total
                    interrupted = place.any(interrupts.asked is not None)

                    if evaluate is not None and place.first and not interrupted and (done or step % evaluate_every == 0):
                        numbers = evaluate(model)
                        model.train()
                        meters.evaluation(step, numbers)
                        if best.improves(numbers, recipe.saving.metric, step):
                            folder.save_model(model)
                    if place.first and (done or interrupted or step % save_every == 0):
                        saved = checkpoint.pack(step, model, optimiser, objective, best=vars(best))
                        checkpoint.save(saved, folder.checkpoints, recipe.saving.keep)
                    place.wait()
                    if interrupted and not done:
                        meters.say(f"Interrupted after step {step}; a checkpoint is saved, resume with --resume {folder.path}.")
                        interrupts.obey()
                        raise SystemExit(143)  # another process was asked
            if evaluate is None and place.first:
                folder.save_model(model)
            place.wait()
        finally:
            meters.close()
    return folder.model


def fit_model(model: Model, recipe: Recipe) -> None:
    """Gives the model what the recipe asks for: what is tuned, the head, a bias where a sigmoid needs one. Twice is as good as once."""
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


def offers(recipe: Recipe, dataset: Source, model: Model) -> frozenset[str]:
    """What data and model give to losses, out of ``losses.contract.NEEDS``."""
    given = {"patches", "tokens"}
    if recipe.data.negatives.count and dataset.negative_kinds:
        given.add("negatives")
    if model.head.kind == "branches":
        given.add("branches")
    if model.bias is not None:
        given.add("bias")
    return frozenset(given)


def twins_of(dataset: Source, recipe: Recipe) -> dict[str, str]:
    """Key -> key of its twin, both ways, where a dose of twins is asked for."""
    if not recipe.data.twin_share:
        return {}
    return {a: b for twin in dataset.twins for a, b in (twin.keys, twin.keys[::-1])}


def make_encoder(
    model: Model,
    recipe: Recipe,
    dataset: Source,
    keys: list[str],
    needs: frozenset[str],
    total: int,
    workers: int,
    say: Callable[[str], None],
) -> Encoder:
    """The model, with raw features of frozen towers computed beforehand where that saves work and they fit into memory."""
    drawn, precision = total * recipe.optimiser.batch, recipe.optimiser.precision
    images = texts = None
    if model.image_frozen and recipe.data.crop_scale == (1.0, 1.0) and drawn >= len(keys):
        say(f"The image tower is frozen: {len(keys):,} images are encoded once.")
        images = freeze_images(model, dataset, keys, needs, precision, workers)
    if model.text_frozen:
        wanted = drawable_texts(dataset, keys, recipe.data)
        if drawn * sum(draw.count for draw in recipe.data.captions) * (1 + recipe.data.negatives.count) >= len(wanted):
            say(f"The text tower is frozen: {len(wanted):,} texts are encoded once.")
            texts = freeze_texts(model, sorted(wanted), needs, precision)
    return Encoder(model, images, texts)


def _batches(
    encoder: Encoder,
    recipe: Recipe,
    dataset: Source,
    plan: Plan,
    names: Names,
    steps: tuple[int, int],
    place: Place,
    workers: int,
) -> Iterable[Batch]:
    model = encoder.model
    preprocess = model.preprocess if encoder.images is None else None
    tokenizer = model.tokenizer if encoder.texts is None else None
    samples = DrawnSamples(dataset, preprocess, recipe.data, names, recipe.seed)
    sampler = PlanSampler(plan, *steps, place.rank, place.world)
    return make_loader(samples, sampler, tokenizer, names, workers=workers, pin=place.device.type == "cuda")


def _timed(batches: Iterable[Batch]) -> Iterator[tuple[Batch, float]]:
    """Each batch, and the seconds that were spent waiting for it."""
    started = time.perf_counter()
    for batch in batches:
        yield batch, time.perf_counter() - started
        started = time.perf_counter()


def _meters(folder: RunFolder, step: int, total: int, place: Place, quiet: bool) -> Meters:
    if not place.first:
        return Silent()
    return Reporter(folder.path, step, total, quiet=quiet)


def _explained(folder: RunFolder, step: int, batch: Batch, recipe: Recipe) -> UserError:
    path = folder.note("nonfinite.json", {"step": step, "keys": list(batch.keys), "texts": list(batch.texts)})
    first = ", ".join(batch.keys[:3])
    return UserError(
        f"The loss is not a finite number at step {step} (images {first}, …; all are in {path}); nothing was updated: look at them, "
        f"or lower optimiser.lr (now {recipe.optimiser.lr}) and resume from the last checkpoint."
    )
