"""A pair of towers from two sources, described in a TOML file: any timm image model beside any Hugging Face text encoder.

::

    [image]
    timm = "mobilenetv2_100"
    weights = "mobilenet_v2_imagenet.safetensors"    # none: random weights
    kwargs = { pad_type = "same" }                   # for timm.create_model
    tune = "none"                                    # none | all | last:N
    fixed_batchnorm = true                           # BatchNorm in eval mode while training (default)

    [text]
    hf = "all-MiniLM-L6-v2"                          # a folder
    pool = "mean"                                    # mean | first
    context = 77                                     # longest row of tokens
    tune = "all"

    [shared]
    width = 512

    [preprocess]
    size = 160
    resize = "squash"
    mean = [0.5, 0.5, 0.5]
    std = [0.5, 0.5, 0.5]

Paths are looked for beside the TOML file, then in the folder that the environment variable ``WHOLEGRAIN_WEIGHTS`` names.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from wholegrain.data.preprocess import Preprocess
from wholegrain.errors import UserError
from wholegrain.files import read_toml
from wholegrain.structure import StructureError, structure
from wholegrain.text.tokenizer import FileTokenizer
from wholegrain.towers.heads.base import PlainHead, Widths
from wholegrain.towers.model import Model
from wholegrain.towers.sources.hf_text import hf_text_tower
from wholegrain.towers.sources.timm import timm_tower

MOST_WIDTH = 2**14

@dataclass(frozen=True)
class ImagePart:
    """``[image]``; see the module."""

    timm: str
    weights: str | None = None
    kwargs: dict[str, object] = field(default_factory=dict)
    tune: str = "all"
    fixed_batchnorm: bool = True


@dataclass(frozen=True)
class TextPart:
    """``[text]``; a context of ``None`` is 77, or as many as the model has positions."""

    hf: str
    pool: Literal["mean", "first"] = "mean"
    context: int | None = None
    tune: str = "all"


@dataclass(frozen=True)
class SharedPart:
    """``[shared]``."""

    width: int = 512


@dataclass(frozen=True)
class Pair:
    """The sections of a pair's file."""

    image: ImagePart
    text: TextPart
    preprocess: Preprocess
    shared: SharedPart = SharedPart()


def load_pair(path: str | Path) -> Model:
    """The model that a TOML file describes; projections are fresh, from torch's global random state.

    Raises:
        UserError: a key that does not exist, a value of the wrong type, a file that is missing, weights that do not fit.
    """
    path = Path(path)
    pair = read_pair(path)
    image, text, prepared, width = pair.image, pair.text, pair.preprocess, pair.shared.width
    if not 1 <= width <= MOST_WIDTH:
        raise UserError(f"{path}: [shared] width is {width:,}; it must be from 1 to {MOST_WIDTH:,}")
    weights = None if image.weights is None else _find(path, image.weights)
    try:
        image_tower = timm_tower(
            image.timm, prepared.size, image.kwargs, weights=weights, fixed_batchnorm=image.fixed_batchnorm
        )
        folder = _find(path, text.hf)
        text_tower = hf_text_tower(folder, text.pool, text.context)
        tokenizer = FileTokenizer.from_folder(folder, text_tower.context_length)
        image_tower.tune(image.tune)
        text_tower.tune(text.tune)
    except UserError as error:
        message = str(error)
        raise UserError(message if message.startswith(str(path)) else f"{path}: {message}") from error
    head = PlainHead(Widths(image_tower.width, text_tower.width, width))
    return Model(image_tower, text_tower, head, prepared, tokenizer)


def read_pair(path: Path) -> Pair:
    """The checked sections of a pair's TOML file."""
    advice = "correct it"
    sections = read_toml(path, advice)
    try:
        return structure(sections, Pair)
    except (StructureError, UserError) as error:
        raise UserError(f"{path} {error}; {advice}" if isinstance(error, StructureError) else f"{path}: {error}") from None


def _find(path: Path, name: str) -> Path:
    places = [path.parent / name]
    if folder := os.environ.get("WHOLEGRAIN_WEIGHTS"):
        places.append(Path(folder) / name)
    for place in places:
        if place.exists():
            return place
    looked = " and ".join(str(p.parent) for p in places)
    raise UserError(f"{path}: {name!r} is not in {looked}; put it there, or name its folder in WHOLEGRAIN_WEIGHTS")
