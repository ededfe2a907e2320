"""What ``model.json`` holds, and whether it and the files beside it belong together."""

from __future__ import annotations

from pathlib import Path
from typing import NotRequired, TypedDict

from wholegrain.errors import UserError
from wholegrain.files import digest, sha256
from wholegrain.towers.base import Config
from wholegrain.towers.model import Model
from wholegrain.towers.tensor_files import Header

AGAIN = "save the model again"
MODEL_FILE = "model.json"


class SavedModel(TypedDict):
    """``model.json``; ``weights`` (:func:`tensors_digest`) and ``files`` (of the tokeniser, SHA-256) are not in old ones."""

    format: int
    mark: str
    image: Config
    text: Config
    head: Config
    bias: bool
    preprocess: Config
    weights: NotRequired[str]
    files: NotRequired[dict[str, str]]


def check_unchanged(record: SavedModel, folder: Path) -> None:
    """Holds what a model says of itself, and its tokeniser's files, against their digests.

    Raises:
        UserError: names the file that is not as it was saved.
    """
    if "weights" not in record:
        return
    if digest({key: value for key, value in record.items() if key != "mark"}) != record["mark"]:
        raise UserError(f"{folder / MODEL_FILE} cannot be loaded, it is not as it was saved; {AGAIN}")
    for name, kept in record.get("files", {}).items():
        file = folder / Path(name).name
        if not file.is_file() or sha256(file) != kept:
            raise UserError(f"{file} cannot be loaded, it is not as it was saved; {AGAIN}")


def check_fits(model: Model, header: Header, path: Path) -> None:
    """Holds names, shapes and kinds of the weights against those of the model, and the parts of the model against each other.

    Args:
        model: may be on the ``meta`` device.
        path: of the weights.

    Raises:
        UserError: names the first weight that does not fit, or the two sizes that differ.
    """
    wanted = model.state_dict()
    for name in sorted(wanted.keys() | header.shapes.keys()):
        if name not in header.shapes or name not in wanted:
            raise UserError(f"{path} cannot be loaded, it {'lacks' if name in wanted else 'has a further'} weight {name}; {AGAIN}")
        if tuple(wanted[name].shape) != header.shapes[name]:
            shapes = f"{list(header.shapes[name])} where {list(wanted[name].shape)} is expected"
            raise UserError(f"{path} cannot be loaded, the weight {name} has the shape {shapes}; {AGAIN}")
        if wanted[name].is_floating_point() != header.types[name].startswith(("F", "BF")):
            raise UserError(f"{path} cannot be loaded, the weight {name} is of the type {header.types[name]}; {AGAIN}")
    _check_parts(model, path.parent / MODEL_FILE)


def _check_parts(model: Model, path: Path) -> None:
    config = model.image_tower.config()
    places = (config, config.get("small"), config.get("model", {}).get("vision_cfg"))
    stated = next((place["image_size"] for place in places if place and "image_size" in place), None)
    size = stated if model.image_tower.fixed_size and isinstance(stated, int) else model.preprocess.size
    rows, context = model.tokenizer.context_length, model.text_tower.context_length
    for what, one, other in (
        ("sizes of pictures", model.preprocess.size, size),
        ("widths of images", model.head.widths.image, model.image_tower.width),
        ("widths of texts", model.head.widths.text, model.text_tower.width),
        ("lengths of texts", min(rows, int(context)), rows),
    ):
        if one != other:
            raise UserError(f"{path} cannot be loaded, it says two {what}, {one} and {other}; {AGAIN}")
