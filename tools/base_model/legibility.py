"""Do the pictures show what they should? A small network that is taught the noun of every object, and read on scenes it has not seen.

This asks of the pictures, not of a model that is to be compared: the base may see badly what is drawn well. The reader is given the
object's place (a crop around it) and every label, so what it cannot tell apart is not there to be told apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy

from wholegrain.data.scenes.draw import draw
from wholegrain.data.scenes.world import SIZES, Thing, World, draw_scene

SIDE = 32  # pixels of a crop
_MARGIN = 3  # pixels around an object's box
_JITTER = 2  # pixels by which a crop may lie beside the box, so that no object is known by its place in the crop


@dataclass(frozen=True)
class Legibility:
    """Shares of objects whose noun is read rightly, 0..1, on scenes that the reader has not seen."""

    mean: float
    by_noun: dict[str, float]
    by_size: dict[str, float]
    by_fill: dict[str, float]

    @property
    def worst(self) -> tuple[str, float]:
        """The noun that is read worst, and its share."""
        noun = min(self.by_noun, key=lambda name: self.by_noun[name])
        return noun, self.by_noun[noun]


@dataclass(frozen=True)
class _Crops:
    pixels_N3SS: torch.Tensor  # uint8
    noun_N: torch.Tensor  # int64, place in world.nouns
    things: list[Thing]


def legibility(
    world: World, *, train: int = 16_000, test: int = 6_000, epochs: int = 1, batch: int = 64, seed: int = 0
) -> Legibility:
    """Teaches a convolutional reader the nouns of ``world`` on single objects and reads it on others.

    Scenes come from streams of their own: no split of a data set shares them.

    Args:
        world: whose objects are read.
        train: objects to learn from.
        test: objects to be read.
        epochs: how often the reader sees each of the former.
        batch: objects a step; at most ``train``.
        seed: of the reader's first weights and of its order. The caller's random state is left as it was.
    """
    learned, held = (_draw_crops(world, f"legibility {split}", count) for split, count in (("train", train), ("test", test)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reader = _teach(learned, len(world.nouns), epochs, min(batch, train))
    right = _read(reader, held.pixels_N3SS).eq(held.noun_N).numpy()
    return Legibility(
        float(right.mean()),
        _shares(right, [t.noun for t in held.things]),
        _shares(right, [t.size for t in held.things]),
        _shares(right, [t.fill for t in held.things]),
    )


def _draw_crops(world: World, split: str, count: int) -> _Crops:
    """``count`` objects of random scenes, each in a square of its box and a little margin, resized to ``SIDE``."""
    place = {noun: n for n, noun in enumerate(world.nouns)}
    crops: list[np.ndarray] = []
    things: list[Thing] = []
    index = 0
    while len(things) < count:
        rng = world.rng(split, index)
        scene = draw_scene(world, rng)
        picture = draw(scene, world.size)
        crops += [_crop(picture, thing, rng) for thing in scene.things]
        things += scene.things
        index += 1
    pixels = torch.from_numpy(np.stack(crops[:count])).permute(0, 3, 1, 2).contiguous()
    return _Crops(pixels, torch.tensor([place[t.noun] for t in things[:count]]), things[:count])


def _crop(picture: np.ndarray, thing: Thing, rng: np.random.Generator) -> np.ndarray:
    size = len(picture)
    side = round(SIZES[thing.size] * size) + 2 * _MARGIN
    left, top = (
        int(np.clip(round(centre * size - side / 2) + shift, 0, size - side))
        for centre, shift in zip((thing.x, thing.y), rng.integers(-_JITTER, _JITTER + 1, 2), strict=True)
    )
    own = Image.fromarray(picture[top : top + side, left : left + side])
    return np.asarray(own.resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def _layer(width_in: int, width: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]


def _network(classes: int, width: int = 24) -> nn.Sequential:
    layers = [*_layer(3, width, 2), *_layer(width, 2 * width), nn.MaxPool2d(2), *_layer(2 * width, 4 * width), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, *_layer(4 * width, 4 * width), nn.Flatten(), nn.Linear(4 * width * 16, classes))


def _prepare(pixels_N3SS: torch.Tensor) -> torch.Tensor:
    pixels = pixels_N3SS.float() / 255
    return 3 * (pixels - pixels.mean((2, 3), keepdim=True))


def _teach(crops: _Crops, classes: int, epochs: int, batch: int) -> nn.Module:
    reader, count = _network(classes), len(crops.things)
    optimiser = torch.optim.AdamW(reader.parameters(), weight_decay=0.02)
    steps = epochs * (count // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps, pct_start=0.2)
    for _ in range(epochs):
        order = torch.randperm(count)
        for chosen in order[: count - count % batch].split(batch):
            loss = cross_entropy(reader(_prepare(crops.pixels_N3SS[chosen])), crops.noun_N[chosen], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return reader.eval()


@torch.inference_mode()
def _read(reader: nn.Module, pixels_N3SS: torch.Tensor) -> torch.Tensor:
    return torch.cat([reader(_prepare(part)).argmax(1) for part in pixels_N3SS.split(500)])


def _shares(right: np.ndarray, names: Iterable[str]) -> dict[str, float]:
    found = np.array(list(names))
    return {str(name): float(right[found == name].mean()) for name in np.unique(found)}
