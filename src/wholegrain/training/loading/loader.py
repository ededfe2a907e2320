"""The ordinary torch DataLoader over the plan, beginning at any step.

A sample is a function of (seed, position): captions, negatives and crop are drawn from its own random streams, so batches are the
same with any number of workers, and the loader's state is the step.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from wholegrain.data.batch import Batch, Phrases, Sample, Text, collate
from wholegrain.data.dataset import BrokenImageError, Dataset
from wholegrain.data.preprocess import Box, Preprocess
from wholegrain.data.record import Record
from wholegrain.data.slots import Slots
from wholegrain.errors import MachineError, UserError
from wholegrain.objectives.schema import DataRecipe, selects
from wholegrain.suggest import closest
from wholegrain.text.tokenizer import Tokenizer
from wholegrain.training.loading.draw import Negatives, draw_texts
from wholegrain.training.loading.plan import Plan
from wholegrain.training.loading.shards_ahead import ShardsAhead
from wholegrain.training.loading.streams import stream, streams

Loaded = TypeVar("Loaded")
OnBroken = Callable[[Mapping[str, str], Mapping[str, str]], None]
_AHEAD = 4  # batches that each worker prepares beforehand
_REPLACEMENTS = 20  # images in succession that cannot be read
_TEXTS, _CROP, _INSTEAD, _VIEWS = 0, 1, 2, 100  # purposes of a sample's random streams; view n of the further ones has _VIEWS + n


@dataclass(frozen=True)
class Names:
    """The names of roles and kinds that index a batch's pairing: those that the recipe can draw, sorted."""

    roles: tuple[str, ...]
    kinds: tuple[str, ...]


def names_of(dataset: Dataset, recipe: DataRecipe) -> Names:
    """Which roles and kinds of negatives the recipe can draw from these data.

    Raises:
        UserError: the data have none of the roles of a draw, not a negative of the kinds asked for, or units are drawn and no negative has edits.
    """
    known = sorted(dataset.roles or _scanned_roles(dataset, recipe.split))
    for draw in recipe.captions:
        if not draw.optional and not any(selects(draw.roles, role) for role in known):
            wanted = ", ".join(draw.roles)
            raise UserError(f"data.captions asks for the roles {wanted} and the data have {', '.join(known)}; {closest(draw.roles[0], known)}")
    edited = any(row.edits for rows in dataset.negatives.values() for row in rows) if any(draw.units for draw in recipe.captions) else True
    if not edited:
        raise UserError(
            "data.captions asks for units, and no hard negative of the data says what it changes; make some that do: wholegrain enrich DATA --negatives."
        )
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
        keys: of the plan: one of them, drawn by seed and position, takes the place of an image that cannot be read. Empty: none does.
    """

    def __init__(
        self,
        dataset: Dataset,
        preprocess: Preprocess | None,
        recipe: DataRecipe,
        names: Names,
        seed: int,
        keys: Sequence[str] = (),
    ) -> None:
        self.dataset, self.preprocess, self.recipe, self.seed, self.keys = dataset, preprocess, recipe, seed, keys
        self.roles = {name: index for index, name in enumerate(names.roles)}
        self.kinds = {name: index for index, name in enumerate(names.kinds)}
        self.negatives: Negatives = dataset.negatives if recipe.negatives.count else {}
        twins = dataset.twins if recipe.twin_share else ()
        self.side = {key: side for twin in twins for side, key in enumerate(twin.keys)}
        self.of_twins = {key: text for twin in twins for key, text in zip(twin.keys, twin.captions, strict=True)}

    def __getitem__(self, item: tuple[str, int]) -> Sample:
        return self.__getitems__([item])[0]

    def __getitems__(self, items: list[tuple[str, int]]) -> list[Sample]:
        """The samples of a batch; the DataLoader calls this."""
        scales = [self.recipe.crop_scale, *(view.crop_scale for view in self.recipe.views for _ in range(view.count))]
        purposes = [_TEXTS] if self.preprocess is None else [_TEXTS, _CROP, *(_VIEWS + n for n in range(len(scales) - 1))]
        randoms = streams(self.seed, [position for _, position in items], purposes)
        # All that is not pixels first: between two pictures the same lines would find the processor's caches full of pixels.
        drafts = [self._draft(*item, random, scales) for item, random in zip(items, randoms, strict=True)]
        if self.preprocess is None:
            return [
                Sample(
                    draft.record.key, None, _floats((0, 0, *draft.record.size)), draft.texts, broken=draft.broken,
                    side=self._side(draft.record.key),
                )
                for draft in drafts
            ]
        return [self._shown(draft, position, scales) for draft, (_, position) in zip(drafts, items, strict=True)]

    def _draft(
        self,
        key: str,
        position: int,
        random: list[np.random.Generator],
        scales: list[tuple[float, float]],
        broken: tuple[tuple[str, str], ...] = (),
    ) -> _Draft:
        """A sample without its pixels; of another image of the same data set where the record cannot be read."""
        while True:
            try:
                record = self.dataset.record(key)
                break
            except BrokenImageError as error:
                broken, key = self._instead(key, position, broken, error)
        texts = draw_texts(record, self.negatives, self.recipe, self.roles, self.kinds, random[0], self._of_twin(record.key))
        boxes = []
        if self.preprocess is not None:
            for scale, own in zip(scales, random[1:], strict=True):
                still = scale == (1.0, 1.0)
                boxes.append(None if still else self.preprocess.random_box(own, *record.size, scale))
        return _Draft(record, texts, boxes, broken)

    def _shown(self, draft: _Draft, position: int, scales: list[tuple[float, float]]) -> Sample:
        """A sample with its pixels; of another image of the same data set where they cannot be read."""
        preprocess = self.preprocess
        assert preprocess is not None
        while True:
            key, (width, height) = draft.record.key, draft.record.size
            try:
                pixels_HWC = self.dataset.pixels(key)
                if pixels_HWC.shape[:2] == (height, width):
                    break
                shape = f"{pixels_HWC.shape[1]} x {pixels_HWC.shape[0]} pixels, not {width} x {height} as its record says"
                raise BrokenImageError(f"image {key} has {shape}; prepare the data set again")
            except BrokenImageError as error:
                broken, key = self._instead(key, position, draft.broken, error)
                purposes = [_TEXTS, _CROP, *(_VIEWS + n for n in range(len(scales) - 1))]
                draft = self._draft(key, position, [stream(self.seed, position, purpose) for purpose in purposes], scales, broken)
        looks = []
        for box in draft.boxes:
            shown = preprocess.visible_box(width, height) if box is None else box
            looks.append((preprocess.quick(pixels_HWC, box), _floats(shown)))
        pixels, shown = looks[0]
        return Sample(key, pixels, shown, draft.texts, tuple(looks[1:]), draft.broken, self._side(key))

    def _side(self, key: str) -> int | None:
        return self.side.get(key, 0) if self.recipe.twin_share else None

    def _of_twin(self, key: str) -> tuple[str, ...]:
        return (self.of_twins[key],) if key in self.of_twins else ()

    def _instead(
        self, key: str, position: int, broken: tuple[tuple[str, str], ...], error: BrokenImageError
    ) -> tuple[tuple[tuple[str, str], ...], str]:
        """What could not be read so far, and the image to try next: a function of seed, position and how many came before."""
        broken = (*broken, (key, str(error)))
        if not self.keys or len(broken) > _REPLACEMENTS:
            raise error
        random, source = np.random.default_rng([self.seed, position, _INSTEAD, len(broken)]), key.rpartition(":")[0]
        while True:
            other = self.keys[int(random.integers(len(self.keys)))]
            if other.rpartition(":")[0] == source:
                return broken, other


def _floats(box: Box) -> Box:
    x0, y0, x1, y1 = box
    return float(x0), float(y0), float(x1), float(y1)


@dataclass(frozen=True)
class _Draft:
    """All of a sample but its pixels; a box for each view, or ``None`` for the model's own way to show a whole image."""

    record: Record
    texts: tuple[Text, ...]
    boxes: list[tuple[int, int, int, int] | None]
    broken: tuple[tuple[str, str], ...]


class PlanSampler(Sampler[list[tuple[str, int]]]):
    """The batches of steps ``start`` to ``stop``: of each global batch the slice of process ``rank`` of ``world``."""

    def __init__(self, plan: Plan, start: int, stop: int, rank: int = 0, world: int = 1) -> None:
        if plan.size % world:
            near = max(world, plan.size // world * world)
            raise UserError(f"optimiser.batch is {plan.size} and must be a multiple of the {world} processes; set it to {near}.")
        self.plan, self.start, self.stop = plan, start, stop
        self.ahead: ShardsAhead | None = None
        share = plan.size // world
        self.slice = slice(rank * share, (rank + 1) * share)

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[tuple[str, int]]]:
        for step in range(self.start, self.stop):
            if self.ahead is not None:
                self.ahead.at(step)
            yield self.plan.batch(step)[self.slice]


class Loader:
    """Batches in the plan's order; every error is one sentence, and comes between two batches.

    Attributes:
        broken: images that could not be read so far, and why.
        failed: whether loading has come to its end by an error.
    """

    def __init__(self, batches: DataLoader[Batch], allowed: int, on_broken: OnBroken | None) -> None:
        self.batches, self.allowed, self.on_broken = batches, allowed, on_broken
        self.broken: dict[str, str] = {}
        self.failed = False

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        try:
            for batch in plainly(self.batches):
                self._look_at(batch)
                yield batch
        except (UserError, MachineError):
            self.failed = True
            raise

    def _look_at(self, batch: Batch) -> None:
        new = {key: reason for key, reason in batch.broken if key not in self.broken}
        self.broken |= new
        if len(self.broken) > self.allowed:
            what = f"{len(self.broken)} unreadable images are more than data.broken_share allows ({self.allowed}); the last"
            raise UserError(f"{what}: {list(self.broken.values())[-1]}.")
        if new and self.on_broken is not None:
            self.on_broken(new, self.broken)


def plainly(batches: DataLoader[Loaded]) -> Iterator[Loaded]:
    """The batches of a DataLoader, whose workers' errors keep their one sentence, and whose dead workers get one.

    torch's own handler would raise the death of a worker at any point of a step; without it the next batch is where it shows.
    """
    before = signal.getsignal(signal.SIGCHLD) if threading.current_thread() is threading.main_thread() else None
    iterator = iter(batches)
    if before is not None:
        signal.signal(signal.SIGCHLD, before)
    while True:
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except (UserError, MachineError) as error:
            raise _plain(error) from None
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise MachineError(
                f"A process that loads data was killed, most likely because memory ran out: set --workers to {batches.num_workers // 2} (now "
                f"{batches.num_workers}), and go on with: wholegrain train --resume RUN."
            ) from error
        yield batch


def _plain(error: UserError | MachineError) -> UserError | MachineError:
    """The sentence alone, of an error to which a worker has added where it was."""
    name = type(error).__name__
    for line in reversed(str(error).splitlines()):
        _, found, sentence = line.partition(f"{name}: ")
        if found:
            return type(error)(sentence)
    return error


class OnDevice:
    """Batches on a device: on CUDA the next one is copied, on a stream of its own, while the present one is computed with."""

    def __init__(self, batches: Iterable[Batch], device: torch.device) -> None:
        self.batches, self.device = batches, device

    def __iter__(self) -> Iterator[Batch]:
        if self.device.type != "cuda":
            yield from self.batches
            return
        side, waiting = torch.cuda.Stream(self.device), None
        for batch in self.batches:
            with torch.cuda.stream(side):
                coming = batch.to(self.device, non_blocking=True), side.record_event(), batch  # kept until it is copied
            if waiting is not None:
                yield self._arrived(*waiting)
            waiting = coming
        if waiting is not None:
            yield self._arrived(*waiting)

    def _arrived(self, batch: Batch, copied: torch.Event, _: Batch) -> Batch:
        stream = torch.cuda.current_stream(self.device)
        stream.wait_event(copied)
        batch.record_stream(stream)
        return batch


def make_loader(
    samples: DrawnSamples,
    sampler: PlanSampler,
    tokenizer: Tokenizer | None,
    names: Names,
    *,
    workers: int = 0,
    pin: bool = False,
    on_broken: OnBroken | None = None,
    phrases: Phrases | None = None,
) -> Loader:
    """A loader of :class:`~wholegrain.data.batch.Batch` in the plan's order: torch's DataLoader.

    Args:
        samples, sampler, names: what to load, and in which order.
        tokenizer: the model's; ``None`` leaves the tokens out (the text tower's raw features are known).
        workers: processes that load; 0 loads in this one.
        pin: page-locked memory, for a CUDA device.
        on_broken: called with images that could not be read (key -> why): those that are new, and all so far.
        phrases: gives the noun phrases of texts, where a loss needs them.
    """
    slots = None
    if workers and samples.preprocess is not None:
        views, images = 1 + sum(view.count for view in samples.recipe.views), len(range(sampler.plan.size)[sampler.slice])
        slots = Slots(workers, _AHEAD, (views, images, 3, samples.preprocess.size, samples.preprocess.size))
    if workers:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads do not survive the fork
    if samples.dataset.far:
        sampler.ahead = ShardsAhead(samples.dataset, sampler.plan)
    batches: DataLoader[Batch] = DataLoader(
        samples,
        batch_sampler=sampler,  # pyright: ignore[reportArgumentType]
        collate_fn=partial(collate, tokenizer=tokenizer, roles=names.roles, kinds=names.kinds, slots=slots, phrases=phrases),
        num_workers=workers,
        prefetch_factor=_AHEAD if workers else None,
        pin_memory=pin,
        worker_init_fn=_quiet_worker,
        generator=torch.Generator(),  # workers draw nothing from torch; without this, starting them would move its global stream
    )
    share = samples.recipe.broken_share
    return Loader(batches, max(1, int(share * len(sampler.plan.keys))) if share else 0, on_broken)


def _quiet_worker(_: int) -> None:
    """Ctrl-C is for the main process, which saves and then ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
