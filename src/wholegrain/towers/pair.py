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
import tomllib
from pathlib import Path
from typing import Any

from wholegrain.data.preprocess import Preprocess
from wholegrain.errors import UserError
from wholegrain.text.tokenizer import FileTokenizer
from wholegrain.towers.head import PlainHead, Widths
from wholegrain.towers.hf_text import hf_text_tower
from wholegrain.towers.model import Model
from wholegrain.towers.timm_image import timm_tower

_KEYS: dict[str, dict[str, type]] = {
    "image": {"timm": str, "weights": str, "kwargs": dict, "tune": str, "fixed_batchnorm": bool},
    "text": {"hf": str, "pool": str, "context": int, "tune": str},
    "shared": {"width": int},
    "preprocess": {"size": int, "resize": str, "interpolation": str, "mean": list, "std": list},
}
_REQUIRED = {"image": "timm", "text": "hf", "preprocess": "size"}


def load_pair(path: str | Path) -> Model:
    """The model that a TOML file describes; projections are fresh, from torch's global random state.

    Raises:
        UserError: a key that does not exist, a value of the wrong type, a file that is missing, weights that do not fit.
    """
    path = Path(path)
    image, text, shared, preprocess = (read_pair(path)[name] for name in _KEYS)
    prepared = Preprocess.from_json(preprocess)
    weights = _find(path, image["weights"]) if "weights" in image else None
    image_tower = timm_tower(
        image["timm"],
        prepared.size,
        image.get("kwargs"),
        weights=weights,
        fixed_batchnorm=image.get("fixed_batchnorm", True),
    )
    folder = _find(path, text["hf"])
    text_tower = hf_text_tower(folder, text.get("pool", "mean"), text.get("context"))
    tokenizer = FileTokenizer.from_folder(folder, text_tower.context_length)
    image_tower.tune(image.get("tune", "all"))
    text_tower.tune(text.get("tune", "all"))
    head = PlainHead(Widths(image_tower.width, text_tower.width, shared.get("width", 512)))
    return Model(image_tower, text_tower, head, prepared, tokenizer)


def read_pair(path: Path) -> dict[str, dict[str, Any]]:
    """The checked sections of a pair's TOML file."""
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML ({error}); correct it") from error
    _refuse_unknown(path, given, _KEYS, "section")
    for section, keys in _KEYS.items():
        values = given.setdefault(section, {})
        if not isinstance(values, dict):
            raise UserError(f"{path}: {section} is not a section; write [{section}] on a line of its own")
        _refuse_unknown(path, values, keys, f"key of [{section}]")
        for key, value in values.items():
            if not isinstance(value, keys[key]) or (keys[key] is int and isinstance(value, bool)):
                raise UserError(f"{path}: [{section}] {key} is {value!r}; it must be of the type {keys[key].__name__}")
        if section in _REQUIRED and _REQUIRED[section] not in values:
            raise UserError(f"{path}: [{section}] lacks {_REQUIRED[section]}; add it")
    return given


def _refuse_unknown(path: Path, given: dict[str, Any], known: dict[str, Any], what: str) -> None:
    for name in given:
        if name not in known:
            raise UserError(f"{path}: {name!r} is no {what}; use {', '.join(known)}")


def _find(path: Path, name: str) -> Path:
    places = [path.parent / name]
    if folder := os.environ.get("WHOLEGRAIN_WEIGHTS"):
        places.append(Path(folder) / name)
    for place in places:
        if place.exists():
            return place
    looked = " and ".join(str(p.parent) for p in places)
    raise UserError(f"{path}: {name!r} is not in {looked}; put it there, or name its folder in WHOLEGRAIN_WEIGHTS")
