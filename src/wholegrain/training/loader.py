"""The ordinary torch DataLoader over the plan, beginning at any step.

A sample is a function of (seed, position): captions, negatives and crop are drawn from its own random streams, so batches are the
same with any number of workers, and the loader's state is the step.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from wholegrain.data.batch import Batch, Sample, collate
from wholegrain.data.dataset import Dataset
from wholegrain.data.preprocess import Box, Preprocess
from wholegrain.data.slots import Slots
from wholegrain.errors import UserError
from wholegrain.objectives.schema import DataRecipe, closest, selects
from wholegrain.text.tokenizer import Tokenizer
from wholegrain.training.draw import Negatives, draw_texts
from wholegrain.training.plan import Plan
from wholegrain.training.streams import streams

_AHEAD = 4  # batches that each worker prepares beforehand
_TEXTS, _CROP, _VIEWS = 0, 1, 100  # purposes of a sample's random streams; view n of the further ones has _VIEWS + n


@dataclass(frozen=True)
class Names:
    """The names of roles and kinds that index a batch's pairing: those that the recipe can draw, sorted."""

    roles: tuple[str, ...]
    kinds: tuple[str, ...]


def names_of(dataset: Dataset, recipe: DataRecipe) -> Names:
    """Which roles and kinds of negatives the recipe can draw from these data.

    Raises:
        UserError: the data have none of the roles of a draw, or not a negative of the kinds asked for.
    """
    known = sorted(dataset.manifest.get("roles") or _scanned_roles(dataset, recipe.split))
    for draw in recipe.captions:
        if not draw.optional and not any(selects(draw.roles, role) for role in known):
            wanted = ", ".join(draw.roles)
            raise UserError(f"data.captions asks for the roles {wanted} and the data have {', '.join(known)}; change the roles.")
    own = {role for role in known if any(not draw.name and selects(draw.roles, role) for draw in recipe.captions)}
    named = {d.name for d in recipe.captions if d.name and any(selects(d.roles, role) for role in known)}
    drawable = tuple(sorted(own | named))
    kinds = dataset.negative_kinds if recipe.negatives.count else ()
    for kind in recipe.negatives.kinds:
        if recipe.negatives.count and kinds and kind not in kinds:
            raise UserError(f'data.negatives.kinds asks for "{kind}", which the data do not have: {closest(kind, kinds)}')
    return Names(drawable, tuple(kind for kind in kinds if not recipe.negatives.kinds or kind in recipe.negatives.kinds))


def _scanned_roles(dataset: Dataset, split: str) -> set[str]:
    return {caption.role for key in dataset.keys(split) for caption in dataset.record(key).captions}


class DrawnSamples(torch.utils.data.Dataset):
    """(key, position) -> :class:`Sample`.

    Args:
        dataset: where records and pixels come from.
        preprocess: the model's; ``None`` leaves the pixels out (the image tower's raw features are known).
        recipe: what to draw.
        names: see :func:`names_of`.
        seed: the recipe's.
    """

    def __init__(self, dataset: Dataset, preprocess: Preprocess | None, recipe: DataRecipe, names: Names, seed: int) -> None:
        self.dataset, self.preprocess, self.recipe, self.seed = dataset, preprocess, recipe, seed
        self.roles = {name: index for index, name in enumerate(names.roles)}
        self.kinds = {name: index for index, name in enumerate(names.kinds)}
        self.negatives: Negatives = dataset.negatives if recipe.negatives.count else {}

    def __getitem__(self, item: tuple[str, int]) -> Sample:
        return self.__getitems__([item])[0]

    def __getitems__(self, items: list[tuple[str, int]]) -> list[Sample]:
        """The samples of a batch; the DataLoader calls this."""
        scales = [self.recipe.crop_scale, *(view.crop_scale for view in self.recipe.views for _ in range(view.count))]
        purposes = [_TEXTS] if self.preprocess is None else [_TEXTS, _CROP, *(_VIEWS + n for n in range(len(scales) - 1))]
        randoms = streams(self.seed, [position for _, position in items], purposes)
        return [self._sample(key, random, scales) for (key, _), random in zip(items, randoms, strict=True)]

    def _sample(self, key: str, random: list[np.random.Generator], scales: list[tuple[float, float]]) -> Sample:
        record = self.dataset.record(key)
        texts = draw_texts(record, self.negatives, self.recipe, self.roles, self.kinds, random[0])
        if self.preprocess is None:
            return Sample(key, None, (0.0, 0.0, float(record.size[0]), float(record.size[1])), texts)
        pixels_HWC = self.dataset.pixels(key)
        looks = [_look(self.preprocess, pixels_HWC, own, scale) for own, scale in zip(random[1:], scales, strict=True)]
        return Sample(key, *looks[0], texts, tuple(looks[1:]))


def _look(
    preprocess: Preprocess, pixels_HWC: np.ndarray, random: np.random.Generator, scale: tuple[float, float]
) -> tuple[Tensor, Box]:
    """One view: pixels of the tower's size, and which part of the image they show."""
    height, width = pixels_HWC.shape[:2]
    if scale == (1.0, 1.0):
        return preprocess.quick(pixels_HWC), preprocess.visible_box(width, height)
    box = preprocess.random_box(random, width, height, scale)
    x0, y0, x1, y1 = box
    return preprocess.quick(pixels_HWC, box), (float(x0), float(y0), float(x1), float(y1))


class PlanSampler(Sampler[list[tuple[str, int]]]):
    """The batches of steps ``start`` to ``stop``: of each global batch the slice of process ``rank`` of ``world``."""

    def __init__(self, plan: Plan, start: int, stop: int, rank: int = 0, world: int = 1) -> None:
        if plan.size % world:
            raise UserError(f"optimiser.batch is {plan.size} and must be a multiple of the {world} processes; change it.")
        self.plan, self.start, self.stop = plan, start, stop
        share = plan.size // world
        self.slice = slice(rank * share, (rank + 1) * share)

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[tuple[str, int]]]:
        for step in range(self.start, self.stop):
            yield self.plan.batch(step)[self.slice]


def make_loader(
    samples: DrawnSamples,
    sampler: PlanSampler,
    tokenizer: Tokenizer | None,
    names: Names,
    *,
    workers: int = 0,
    pin: bool = False,
) -> DataLoader[Batch]:
    """A loader of :class:`~wholegrain.data.batch.Batch` in the plan's order.

    Args:
        samples, sampler, names: what to load, and in which order.
        tokenizer: the model's; ``None`` leaves the tokens out (the text tower's raw features are known).
        workers: processes that load; 0 loads in this one.
        pin: page-locked memory, for a CUDA device.
    """
    slots = None
    if workers and samples.preprocess is not None:
        views, images = 1 + sum(view.count for view in samples.recipe.views), len(range(sampler.plan.size)[sampler.slice])
        slots = Slots(workers, _AHEAD, (views, images, 3, samples.preprocess.size, samples.preprocess.size))
    if workers:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads do not survive the fork
    return DataLoader(
        samples,
        batch_sampler=sampler,  # pyright: ignore[reportArgumentType]
        collate_fn=partial(collate, tokenizer=tokenizer, roles=names.roles, kinds=names.kinds, slots=slots),
        num_workers=workers,
        prefetch_factor=_AHEAD if workers else None,
        pin_memory=pin,
        worker_init_fn=_quiet_worker,
        generator=torch.Generator(),  # workers draw nothing from torch; without this, starting them would move its global stream
    )


def _quiet_worker(_: int) -> None:
    """Ctrl-C is for the main process, which saves and then ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
