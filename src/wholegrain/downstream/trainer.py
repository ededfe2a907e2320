"""Trains the head of any task: one loop for all.

Everything random is a function of the seed and the step, so a training that was killed at any step goes on as if it had not been: on a CPU bit
for bit. Two processes take the steps of one to rounding: every term of a loss is a sum and a count (:class:`~wholegrain.downstream.task.Term`),
counts are added over processes before, gradients after the backward pass.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import tee
from pathlib import Path
from typing import Generic

import torch
import torch.distributed as dist
from torch import Tensor, nn

from wholegrain.downstream.pictures import TowerTokens, prepared_model, read_ahead
from wholegrain.downstream.run_folder import HeadFolder, HeadIdentity
from wholegrain.downstream.settings import HeadTraining, to_table, to_toml
from wholegrain.downstream.task import ExampleT, HeadTask, PictureData, TargetsT, Term
from wholegrain.errors import UserError
from wholegrain.files import digest
from wholegrain.objectives.schema import Optimiser
from wholegrain.towers.identity import model_digest
from wholegrain.towers.model import Model
from wholegrain.training.checkpoints import checkpoint
from wholegrain.training.checkpoints.saver import Saver
from wholegrain.training.distributed.grad_norm import clip_gradients
from wholegrain.training.distributed.processes import DistributedContext
from wholegrain.training.interrupts import Interrupts
from wholegrain.training.loading.plan import Plan
from wholegrain.training.loading.streams import stream
from wholegrain.training.memory.precision import autocast
from wholegrain.training.memory.repeatable import repeatable
from wholegrain.training.meters import Meters, Reporter, Silent
from wholegrain.training.schedule import learning_rate
from wholegrain.training.step import Outcome, seed_everything

_TARGETS = 17  # purpose of the examples' random streams

OnStep = Callable[[Outcome], None]


@dataclass(frozen=True)
class HeadOptions:
    """What is no part of the recipe.

    Attributes:
        out: the folder (:mod:`wholegrain.downstream.run_folder`).
        cache: a folder that keeps features of frozen towers from run to run.
        quiet: no progress.
        origin: further facts for ``run.json``, such as the model's name.
        on_step: is told of every step.
    """

    out: Path
    cache: Path | None = None
    quiet: bool = False
    origin: Mapping[str, object] = field(default_factory=dict)
    on_step: OnStep | None = None


class Trained(nn.Module):
    """A task's head and what is tuned of its model's image tower: all that is trained and saved.

    Attributes:
        head: the task's.
        image_tower: the tower, where some of it is tuned; else ``None``.
    """

    def __init__(self, head: nn.Module, model: Model) -> None:
        super().__init__()
        self.head = head
        self.image_tower = None if model.image_frozen else model.image_tower

    def saved(self) -> dict[str, Tensor]:
        """Trained parameters and all buffers, by name."""
        trained = {name for name, parameter in self.named_parameters() if not parameter.requires_grad}
        return {name: value for name, value in self.state_dict().items() if name not in trained}

    def load_saved(self, tensors: Mapping[str, Tensor]) -> None:
        """Puts back what :meth:`saved` gave.

        Raises:
            UserError: they are of another head.
        """
        own = self.saved()
        odd = sorted(own.keys() ^ tensors.keys()) or [name for name in own if own[name].shape != tensors[name].shape]
        if odd:
            raise UserError(f'head.safetensors does not fit this head at "{odd[0]}"; delete it to train the head again.')
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(tensors[name])


def train_head(
    task: HeadTask[ExampleT, TargetsT],
    model: Model,
    pictures: PictureData,
    examples: Sequence[ExampleT],
    options: HeadOptions,
    context: DistributedContext,
) -> tuple[nn.Module, HeadFolder]:
    """Trains a head, or goes on, or takes the one that is finished in the folder.

    Args:
        task: what is trained; its settings are the recipe.
        model: on top of whose image tower; changed in place (frozen, its tower tuned where the recipe says so, moved to the device).
        pictures: of the examples.
        examples: to train on, in an order that depends on the data alone.
        options: the folder and the like.
        context: this process among all (:func:`~wholegrain.training.distributed.processes.init_distributed`).

    Returns:
        the trained head in eval mode, in every process, and the folder.

    Raises:
        UserError: the folder holds another run; too few examples; the loss is not finite.
        KeyboardInterrupt, SystemExit: after SIGINT or SIGTERM, once a checkpoint is saved.
    """
    settings = task.settings.training
    _check(settings, len(examples), context)
    data = digest([pictures.content_hash, [repr(example) for example in examples]])
    identity = HeadIdentity(task.name, to_table(task.settings), data, model_digest(model))
    folder = context.on_all_processes(lambda: HeadFolder(options.out, identity))
    prepared_model(model.to(context.device), task.view, settings.tune)
    seed_everything(settings.seed)
    head = context.on_all_processes(lambda: task.make_head(model)).to(context.device)
    trained = Trained(head, model)
    with ExitStack() as stack:
        context.on_main_process(lambda: stack.enter_context(folder.lock()))
        finished = context.on_all_processes(folder.load_head)
        if finished is not None:
            trained.load_saved(finished)
        else:
            context.on_main_process(lambda: folder.begin(to_toml(task.settings), options.origin))
            HeadTrainer(task, trained, TowerTokens(model, pictures, task.needs, settings.precision), folder, context).fit(examples, options)
    trained.eval()  # the tuned tower, too
    return head, folder


def _check(settings: HeadTraining, examples: int, context: DistributedContext) -> None:
    if settings.batch > examples:
        raise UserError(
            f"There are {examples:,} examples to train on and a batch takes {settings.batch}; give more data, or --training.batch {max(1, examples)}."
        )
    if settings.batch < context.world_size:
        raise UserError(f"A batch of {settings.batch} is less than one example for each of {context.world_size} processes; raise training.batch.")


class HeadTrainer(Generic[ExampleT, TargetsT]):
    """One head while it trains.

    Args:
        task, trained, tokens: what is trained, its parts, and where its pictures come from.
        folder: of the run, which has begun.
        context: this process among all.
    """

    def __init__(
        self,
        task: HeadTask[ExampleT, TargetsT],
        trained: Trained,
        tokens: TowerTokens,
        folder: HeadFolder,
        context: DistributedContext,
    ) -> None:
        self.task, self.trained, self.tokens, self.folder, self.context = task, trained, tokens, folder, context
        self.settings = task.settings.training
        self.rates = Optimiser(lr=self.settings.lr, warmup_steps=self.settings.warmup_steps) if self.settings.lr else None
        self.optimiser = make_optimiser(trained, self.settings)
        self.step = 0

    def fit(self, examples: Sequence[ExampleT], options: HeadOptions) -> None:
        """Takes all steps that are left; the head is in the folder then."""
        saved, notes = self.context.on_all_processes(lambda: checkpoint.load_newest(self.folder.checkpoints))
        if saved is not None:
            checkpoint.unpack(saved, self.trained, self.optimiser, None)
            self.step = saved.step
        self.context.agree({"number of steps taken": str(self.step), "recipe, data and model (hash)": digest(vars(self.folder.identity))[:12]})
        with closing(self._meters(options.quiet)) as meters:
            for note in notes:
                meters.say(note)
            self.tokens.keep([example.key for example in examples], meters.say, options.cache)
            meters.pause()
            with Interrupts() as interrupts:
                self._take_steps(examples, meters, interrupts, options.on_step)
        self.context.on_main_process(lambda: self.folder.save_head(self.trained.saved()))

    def _meters(self, quiet: bool) -> Meters:
        if not self.context.is_main_process:
            return Silent()
        return Reporter(self.folder.path, self.step, self.settings.steps, quiet=quiet)

    def _take_steps(self, examples: Sequence[ExampleT], meters: Meters, interrupts: Interrupts, on_step: OnStep | None) -> None:
        settings, context = self.settings, self.context
        plan = Plan([str(number) for number in range(len(examples))], settings.batch, settings.seed)
        mine, again = tee(plan.batch(step)[context.rank :: context.world_size] for step in range(self.step, settings.steps))
        keys = ([examples[int(number)].key for number, _ in part] for part in again)
        saver, every = Saver(self.folder.checkpoints, 1, context), settings.save_every or settings.steps
        self.trained.train()
        began = time.perf_counter()
        for part, (_, pixels) in zip(mine, read_ahead(self.tokens, keys), strict=True):
            waited = time.perf_counter() - began
            outcome = self._take_step([examples[int(number)] for number, _ in part], [position for _, position in part], pixels)
            meters.step(outcome, waited)
            if on_step is not None:
                on_step(outcome)
            self.step += 1
            done = self.step == settings.steps
            (interrupted,) = context.any(interrupts.signal is not None)
            if interrupted or (self.step % every == 0 and not done):
                saver.save(lambda: checkpoint.pack(self.step, self.trained, self.optimiser, None))
            if interrupted and not done:
                meters.say(f"Interrupted after step {self.step}; a checkpoint is saved, the same command goes on from there.")
                interrupts.end()
                raise SystemExit(143)  # the signal came to another process
            began = time.perf_counter()

    def _take_step(self, examples: Sequence[ExampleT], positions: Sequence[int], pixels: Tensor | None) -> Outcome:
        settings, context, device = self.settings, self.context, self.context.device
        lr = 0.0 if self.rates is None else learning_rate(self.step, settings.steps, self.rates)
        for group in self.optimiser.param_groups:
            group["lr"] = lr * group["lr_share"]
        targets = self.task.targets(examples, [stream(settings.seed, position, _TARGETS) for position in positions]).to(device)
        seed_everything(settings.seed, self.step, context.rank)
        with repeatable(device):
            image = self.tokens.raw([example.key for example in examples], pixels)
            with autocast(device, settings.precision):
                terms = self.task.loss(self.trained.head, image, targets)
            share, parts = joined(terms, context.group)
            share.backward()
        norm = self._share_gradients()
        loss = sum(terms[name].weight * value for name, value in parts.items())
        if not (math.isfinite(loss) and math.isfinite(norm)):
            keys = ", ".join(example.key for example in examples[:3])
            raise UserError(
                f"The loss is not a finite number at step {self.step} (pictures {keys}, …); nothing was updated: look at them, or begin anew "
                f"with a lower training.lr, such as {settings.lr / 3:.1g} (now {settings.lr:g})."
            )
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return Outcome(self.step, loss, parts, lr, norm, 1.0, settings.batch, 0)

    def _share_gradients(self) -> float:
        """Adds the processes' gradients up and clips them; gives their norm before. A parameter without one has zeros, so that all processes
        take the same step whatever their examples had."""
        parameters = [parameter for group in self.optimiser.param_groups for parameter in group["params"]]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.context.group is not None:
            flat = torch.cat([parameter.grad.flatten() for parameter in parameters])
            dist.all_reduce(flat, group=self.context.group)
            for parameter, part in zip(parameters, flat.split([parameter.numel() for parameter in parameters]), strict=True):
                parameter.grad.copy_(part.view_as(parameter))
        return float(clip_gradients(parameters, self.settings.grad_clip or math.inf))


def joined(terms: Mapping[str, Term], group: dist.ProcessGroup | None) -> tuple[Tensor, dict[str, float]]:
    """This process's share of the loss (the shares add up to it), and each term's value over all processes, without its weight."""
    totals = [float(term.total.detach()) for term in terms.values()]
    device = next(iter(terms.values())).total.device
    both = torch.tensor([*totals, *(term.count for term in terms.values())], dtype=torch.float64, device=device)
    if group is not None:
        dist.all_reduce(both, group=group)
    total, count = (part.tolist() for part in both.split(len(terms)))
    counts = [max(1.0, number) for number in count]
    share = torch.stack([term.weight * term.total / number for term, number in zip(terms.values(), counts, strict=True)]).sum()
    return share, {name: value / number for name, value, number in zip(terms, total, counts, strict=True)}


def make_optimiser(trained: Trained, settings: HeadTraining) -> torch.optim.AdamW:
    """Fused AdamW in groups of a ``lr_share`` each: 1 for the head, ``tower_lr`` for the tower; what has less than two axes does not decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trained.named_parameters():
        if parameter.requires_grad:
            share = 1.0 if name.startswith("head.") else settings.tower_lr
            groups.setdefault((share, settings.weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    made = [{"params": group, "weight_decay": decay, "lr_share": share} for (share, decay), group in groups.items()]
    return torch.optim.AdamW(made, lr=settings.lr, betas=settings.betas, fused=True)
