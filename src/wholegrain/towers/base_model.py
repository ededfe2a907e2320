"""The base model that ships with the package: plain CLIP trained on scenes (``docs/base.md`` holds the story and the figures)."""

from __future__ import annotations

from typing import TypedDict

from wholegrain.data.scenes.world import World
from wholegrain.errors import UserError
from wholegrain.files import read_json
from wholegrain.towers.io import base_folder, load_model
from wholegrain.towers.model import Model


def load_base(world: World | None = None) -> Model:
    """The shipped base model.

    Raises:
        UserError: it was trained on another world than this one.
    """
    hashed = _origin()["world"]["hash"]
    if world is not None and hashed != world.hash:
        raise UserError(
            f"The base model was trained on the world {hashed} and this one is {world.hash}; make a base for it as docs/base.md says"
        )
    return load_model("base")


def load_weak_kinds() -> tuple[str, ...]:
    """The kinds on which the shipped base stands near chance, as its gates found on development scenes; order and place first."""
    return tuple(_origin()["weak_kinds"])


class _World(TypedDict):
    hash: str


class _Origin(TypedDict):
    """What is read of ``origin.json``."""

    world: _World
    weak_kinds: list[str]


def _origin() -> _Origin:
    return read_json(base_folder() / "origin.json", _Origin, "install wholegrain again")
