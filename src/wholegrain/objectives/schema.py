"""The fields of a recipe: frozen dataclasses are the one source of its keys, types, defaults and help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from wholegrain.structure import JsonTable
from wholegrain.suggest import closest

Settings: TypeAlias = JsonTable
"""Of a loss or head, whose fields say which there are."""
HEADS = ("plain", "sparc", "branches", "filip", "pacl", "mgca", "flair", "llip", "fusion", "cosmos", "grain")
SCHEDULES = ("cosine", "constant", "wsd")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
TEACHERS = ("none", "ema", "frozen")


def require(fine: bool, key: str, value: object, wanted: str) -> None:
    if not fine:
        raise ValueError(f"{key} = {value!r} is not allowed; it must be {wanted}")


def require_scale(scale: tuple[float, float]) -> None:
    low, high = scale
    require(0 < low <= high <= 1, "crop_scale", [low, high], "two shares of the area with 0 < smallest <= largest <= 1")


def choose(key: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f'{key} = "{value}" is not known; {closest(value, choices)}')


@dataclass(frozen=True)
class CaptionDraw:
    """Captions drawn for each image and step.

    Attributes:
        roles: any of these roles; ``any`` is every role, ``-phrase`` is every role but ``phrase``.
        count: how many, without replacement; fewer where the record has fewer.
        spread: one of each role first, then a second of each; else every caption has the same chance.
        optional: data that have none of these roles at all are no error.
        sentences: least and greatest number of random sentences, out of all captions of these roles, that make up a text; (0, 0) draws
            whole captions. Where one sentence makes a text, none comes twice in a step before all have come. These texts have no
            negatives, follow the whole captions, and are always ``count``.
        lead: so many first sentences of each drawn whole caption of these roles, at most ``count`` of them, as a text without negatives.
        units: parts of the whole captions that the step has drawn for this image and these roles take, each with its false version: what a
            hard negative of the caption changes, with whole noun phrases at both ends (an entity, or two and their relation).
        of_twins: of an image with a twin (``data.twin_share``) those captions alone that are false of the twin, if these roles have such.
        name: the role that these texts have for the terms; empty is the caption's own. Needed with ``sentences``, ``lead`` and ``units``.
    """

    roles: tuple[str, ...] = ("any",)
    count: int = 1
    spread: bool = False
    optional: bool = False
    sentences: tuple[int, int] = (0, 0)
    lead: int = 0
    units: bool = False
    of_twins: bool = False
    name: str = ""

    @property
    def whole(self) -> bool:
        """Whether whole captions are drawn, not parts of them."""
        return not self.sentences[1] and not self.lead and not self.units

    def __post_init__(self) -> None:
        require(self.count >= 1, "count", self.count, "at least 1")
        least, most = self.sentences
        fine = self.sentences == (0, 0) or 1 <= least <= most
        require(fine, "sentences", [least, most], "two numbers with 1 <= least <= greatest, or [0, 0] for whole captions")
        require(self.whole or not self.of_twins, "of_twins", self.of_twins, "false where parts of captions are drawn")
        require(not self.units or not (self.lead or most), "units", self.units, "false where sentences are drawn")
        require(self.lead >= 0 and not (self.lead and most), "lead", self.lead, "0 or more, and 0 where sentences are drawn")
        require(bool(self.name) or self.whole, "name", self.name, 'given with sentences, lead or units, such as name = "crop"')
        require(len(self.roles) > 0, "roles", list(self.roles), 'at least one role, or "any"')


@dataclass(frozen=True)
class NegativeDraw:
    """Hard negatives drawn for each drawn caption.

    Attributes:
        count: how many per caption, one of each kind first; fewer where the caption has fewer.
        kinds: only these kinds; empty means any.
        dose: the share of captions, in [0, 1], that get negatives at all.
    """

    count: int = 0
    kinds: tuple[str, ...] = ()
    dose: float = 1.0

    def __post_init__(self) -> None:
        require(self.count >= 0, "count", self.count, "0 or more")
        require(0 <= self.dose <= 1, "dose", self.dose, "between 0 and 1")


@dataclass(frozen=True)
class ViewDraw:
    """Further views of each image beside the first, each a random crop of its own, resized to the tower's input.

    Attributes:
        count: how many.
        crop_scale: smallest and largest share of the image's area that a crop keeps.
    """

    count: int = 1
    crop_scale: tuple[float, float] = (0.4, 1.0)

    def __post_init__(self) -> None:
        require(self.count >= 1, "count", self.count, "at least 1")
        require_scale(self.crop_scale)


@dataclass(frozen=True)
class DataRecipe:
    """What is drawn from the data at every step.

    Attributes:
        captions: the draws; an image never gives the same caption to two draws.
        negatives: hard negatives per drawn caption.
        crop_scale: smallest and largest share of the image's area that a random crop keeps; (1, 1) is no augmentation.
        views: further views of each image, for terms that need "views"; the first view is cropped by ``crop_scale``.
        twin_share: share of images, in [0, 1], whose twin is in the same batch (see ``training/loading/plan.py``).
        split: the split to train on.
        shuffle_window: how many shards are in use, and their images mixed, at a time; 0 mixes all images. For data that lie far away or are
            too large for memory.
        per_source: where several data sets are mixed, every batch is of one of them.
        broken_share: the share of the split's images that may turn out to be unreadable: another image, drawn by seed and position, takes the
            place, and the run says so; more of them stop it. With 0 the first one does.
    """

    captions: tuple[CaptionDraw, ...] = (CaptionDraw(),)
    negatives: NegativeDraw = NegativeDraw()
    crop_scale: tuple[float, float] = (1.0, 1.0)
    views: tuple[ViewDraw, ...] = ()
    twin_share: float = 0.0
    split: str = "train"
    shuffle_window: int = 0
    per_source: bool = False
    broken_share: float = 0.001

    def __post_init__(self) -> None:
        require_scale(self.crop_scale)
        require(0 <= self.broken_share <= 1, "broken_share", self.broken_share, "between 0 and 1")
        require(self.shuffle_window >= 0, "shuffle_window", self.shuffle_window, "0 or more")
        require(0 <= self.twin_share <= 1, "twin_share", self.twin_share, "between 0 and 1")
        wanted = self.negatives.count > 0 or not any(draw.units for draw in self.captions)
        require(wanted, "negatives.count", self.negatives.count, "1 or more where units are drawn, which are made of negatives")
        require(len(self.captions) > 0, "captions", [], 'at least one draw, such as [{ roles = ["any"], count = 1 }]')


@dataclass(frozen=True)
class LoraRecipe:
    """Low-rank adapters (``towers/lora.py``): the towers stay as they are, and small products learn what is added to their matrices.

    Attributes:
        rank: of the products; 0 is no adapters.
        alpha: what is added is ``alpha / rank`` times the product.
        towers: ``image``, ``text`` or both.
        parts: the matrices of ``attention``, of ``mlp``, or both.
    """

    rank: int = 0
    alpha: float = 16.0
    towers: tuple[str, ...] = ("image", "text")
    parts: tuple[str, ...] = ("attention", "mlp")

    def __post_init__(self) -> None:
        require(self.rank >= 0, "rank", self.rank, "0 or more")
        require(self.alpha > 0, "alpha", self.alpha, "above 0")
        for key, values, known in (("towers", self.towers, ("image", "text")), ("parts", self.parts, ("attention", "mlp"))):
            require(len(values) > 0, key, list(values), f"one of {', '.join(known)} or both")
            for value in values:
                choose(key, value, known)


@dataclass(frozen=True)
class ModelRecipe:
    """What the method asks of the model.

    Attributes:
        head: ``plain`` (one projection), ``sparc`` (adapters for patches and tokens), ``branches`` (several image vectors),
            ``filip``, ``pacl``, ``flair``, ``llip`` (what these methods learn, and their score of a pair), ``mgca`` (prototypes),
            ``fusion`` (a network that reads image and text together), ``cosmos`` (images and words that attend to each other),
            ``grain`` (noun phrases against patches, beside the whole).
        branches: number of image branches with ``head = "branches"``.
        head_settings: settings of that head, such as ``mixtures`` of ``llip`` (fields of its ``Settings`` in ``towers``); others are refused.
        tune_image, tune_text: what is trained in each tower: ``all``, ``none``, ``last:N`` (the last N stages), or empty for what
            the model itself says. Heads are always trained.
        lora: adapters in place of the towers' own weights.
        patch_dropout: share of its patches, in [0, 1), that an image loses in training, other ones at every step (FLIP).
        sigmoid_scale, sigmoid_bias: where scale and bias of a model without a bias begin, if a term is a sigmoid loss (SigLIP's values).
    """

    head: str = "plain"
    branches: int = 0
    head_settings: Settings = field(default_factory=Settings)
    tune_image: str = ""
    tune_text: str = ""
    lora: LoraRecipe = LoraRecipe()
    patch_dropout: float = 0.0
    sigmoid_scale: float = 10.0
    sigmoid_bias: float = -10.0

    def __post_init__(self) -> None:
        require(self.sigmoid_scale > 0, "sigmoid_scale", self.sigmoid_scale, "above 0")
        choose("head", self.head, HEADS)
        require(0 <= self.patch_dropout < 1, "patch_dropout", self.patch_dropout, "0 or more and below 1")
        for tower, how in (("image", self.tune_image), ("text", self.tune_text)):
            adapted = self.lora.rank > 0 and tower in self.lora.towers
            require(not (adapted and how), f"tune_{tower}", how, "left out for a tower that is in model.lora.towers")
        require("branches" not in self.head_settings, "head_settings.branches", self.head_settings.get("branches"), "model.branches")
        wanted = self.branches >= 1 if self.head == "branches" else self.branches == 0
        require(wanted, "branches", self.branches, '1 or more with head = "branches", and 0 with any other head')


@dataclass(frozen=True)
class TeacherRecipe:
    """A teacher: a copy of the model that is not trained, whose features stand beside the student's for terms that need them.

    Attributes:
        kind: ``ema`` (after every step an exponential moving average of the student's weights), ``frozen`` (the model as it was
            when training began), or ``none``.
        momentum: of ``ema``: the share of itself that the teacher keeps at every step.
        views: how many views of each image it sees, the first ones.
        student_views: how many of them the student sees, the first ones; 0 is all. For terms that compare the teacher's crops with the
            student's first view, so that the student does not encode what nothing asks it for.
        keep: which of the two is evaluated and becomes the run's model: ``student`` or ``teacher``.
    """

    kind: str = "none"
    momentum: float = 0.999
    views: int = 1
    student_views: int = 0
    keep: str = "student"

    def __post_init__(self) -> None:
        choose("kind", self.kind, TEACHERS)
        choose("keep", self.keep, ("student", "teacher"))
        require(0 <= self.momentum <= 1, "momentum", self.momentum, "between 0 and 1")
        require(self.views >= 1, "views", self.views, "at least 1")
        require(self.student_views >= 0, "student_views", self.student_views, "0 or more")
        alone = self.student_views == 0 or self.kind != "none"
        require(alone, "student_views", self.student_views, "0 without a teacher")
        require(self.keep == "student" or self.kind == "ema", "keep", self.keep, '"student", unless teacher.kind is "ema"')


@dataclass(frozen=True)
class Term:
    """One weighted loss.

    Attributes:
        loss: a name in ``wholegrain.losses`` (``own_negatives`` is ``losses/own_negatives.py:OwnNegativesLoss``), or ``module:attribute``, or
            ``file.py:attribute``.
        weight: its factor in the sum.
        roles: the texts that it sees, as in :class:`CaptionDraw`; empty means all.
        settings: fields of the loss's dataclass.
        name: what the log calls it; the loss's name unless given.
        optional: leave the term out, and say so, where the data lack what it needs.
    """

    loss: str
    weight: float = 1.0
    roles: tuple[str, ...] = ()
    settings: Settings = field(default_factory=Settings)
    name: str = ""
    optional: bool = False

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.loss.rpartition(":")[2])


@dataclass(frozen=True)
class Optimiser:
    """AdamW with one cycle of learning rate, and how a step is computed. Gains, biases and the temperature never decay.

    Attributes:
        lr: peak learning rate.
        layer_decay: factor on the learning rate from each stage of a tower to the one before it: the last stage has ``lr * layer_decay``,
            the one before that ``lr * layer_decay ** 2``, and so on; what is in no tower (head, temperature, bias) has ``lr``. 1 is the
            same everywhere.
        head_lr: factor on the learning rate of what is new in a fine-tuned model: a head's parameters beside its two projections (attention
            maps, prototypes, read-outs, a fusion network), and class tokens that it put into an image tower without one. Where it
            is not 1, ``layer_decay`` does not touch these.
        weight_decay, betas, eps: AdamW's.
        warmup_steps: linear warm-up; at most half of all steps are used for it.
        schedule: after the warm-up ``cosine`` to zero, ``constant``, or ``wsd``: constant until ``decay_share`` of all steps are left, then
            to zero (``training/schedule.py``).
        decay_share: of all steps, in which the rate of ``wsd`` falls.
        grad_clip: largest gradient norm; 0 is no clipping.
        epochs: passes over the images of the training split, not over their captions: an image comes once an epoch, with as many of its
            captions as ``data.captions`` draws. Ignored if ``steps`` is given.
        steps: optimiser steps; 0 means ``epochs``.
        batch: images per step over all processes together.
        micro_batch: images that one process encodes at once; 0 is all of them. Smaller ones need less memory and a second forward
            pass; the step is the same to rounding (``training/memory/accumulate.py``).
        recompute: towers keep only what enters each block, and compute the rest again in the backward pass: less memory, about a third
            more time, the same step bit for bit on a CPU.
        compile: blocks of the towers go through torch.compile: for GPUs; on a CPU it takes a minute to begin and gains little.
        shard: every process keeps a part of weights, gradients and moments (``fully_shard``), for models that do not fit otherwise; the
            step is the same to rounding.
        precision: ``auto`` is bf16 where the device computes it faster, else fp32; ``fp16``, with a scaler, is for CUDA devices without
            bf16.
        skip_nonfinite: leave a step out, and go on, where the loss is not a finite number (never more than ten steps in succession);
            otherwise training stops there. The batch's keys are saved either way.
    """

    lr: float = 5e-4
    layer_decay: float = 1.0
    head_lr: float = 1.0
    weight_decay: float = 0.2
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    warmup_steps: int = 100
    schedule: str = "cosine"
    decay_share: float = 0.2
    grad_clip: float = 1.0
    epochs: float = 5
    steps: int = 0
    batch: int = 256
    micro_batch: int = 0
    recompute: bool = False
    shard: bool = False
    compile: bool = False
    precision: str = "auto"
    skip_nonfinite: bool = False

    def __post_init__(self) -> None:
        choose("schedule", self.schedule, SCHEDULES)
        choose("precision", self.precision, PRECISIONS)
        for name in ("lr", "head_lr", "batch", "epochs", "eps"):
            require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        for name in ("weight_decay", "warmup_steps", "grad_clip", "steps", "micro_batch"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        require(0 < self.decay_share <= 1, "decay_share", self.decay_share, "above 0 and at most 1")
        require(0 < self.layer_decay <= 1, "layer_decay", self.layer_decay, "above 0 and at most 1")
        require(all(0 <= beta < 1 for beta in self.betas), "betas", list(self.betas), "two numbers in [0, 1)")


@dataclass(frozen=True)
class Saving:
    """When to save and what is best.

    Attributes:
        every: steps between checkpoints; 0 is once per epoch.
        keep: how many checkpoints stay.
        asynchronous: training goes on while a checkpoint is written; takes the memory of one more copy of it.
        evaluate_every: steps between evaluations, where there is something to evaluate with; 0 is once per epoch.
        metric: the evaluation's number, higher is better, by which the best model is kept; empty is the first number.
    """

    every: int = 0
    keep: int = 2
    asynchronous: bool = False
    evaluate_every: int = 0
    metric: str = ""

    def __post_init__(self) -> None:
        for name, low in (("every", 0), ("keep", 1), ("evaluate_every", 0)):
            require(getattr(self, name) >= low, name, getattr(self, name), f"{low} or more")


@dataclass(frozen=True)
class Recipe:
    """A method: its losses, what it draws from the data, what it asks of the model, how it is optimised."""

    terms: tuple[Term, ...]
    model: ModelRecipe = field(default_factory=ModelRecipe)
    teacher: TeacherRecipe = TeacherRecipe()
    data: DataRecipe = DataRecipe()
    optimiser: Optimiser = Optimiser()
    saving: Saving = Saving()
    seed: int = 0
    name: str = ""
    paper: str = ""

    def __post_init__(self) -> None:
        require(len(self.terms) > 0, "terms", [], "at least one [[terms]] table")
        wanted = not (self.model.lora.rank and self.optimiser.shard)
        require(wanted, "optimiser.shard", True, "false with model.lora, whose adapters take little memory anyway")
        names = [term.name for term in self.terms]
        twice = next((name for name in names if names.count(name) > 1), None)
        require(twice is None, "terms", twice, 'terms of different names (set name = "…" in one of them)')


def selects(roles: Sequence[str], role: str) -> bool:
    """Whether a list of roles takes this role: ``any`` takes all, ``-x`` refuses ``x``; a list of refusals takes the rest.

    Example:
        >>> [selects(["-phrase"], r) for r in ("web", "phrase")]
        [True, False]
    """
    if f"-{role}" in roles:
        return False
    wanted = [name for name in roles if not name.startswith("-")]
    return not wanted or "any" in wanted or role in wanted
