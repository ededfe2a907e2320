"""What prepared scenes hold, thing by thing: they are a function of the numbers in their manifest, and are drawn again."""

from __future__ import annotations

from wholegrain.data.dataset import Dataset
from wholegrain.data.record import content_key
from wholegrain.data.scenes.draw import draw, png
from wholegrain.data.scenes.world import CROWDED, SPARSE, Scene, World, draw_scene
from wholegrain.errors import UserError
from wholegrain.files import shown
from wholegrain.structure import StructureError, structure


def world_of(dataset: Dataset) -> World | None:
    """The world whose scenes a data set has; ``None`` for other data.

    Raises:
        UserError: the manifest says that these are scenes and does not say of which world.
    """
    if dataset.manifest.get("source") != "scenes":
        return None
    stated = {key: value for key, value in dict(dataset.manifest.get("world") or {}).items() if key != "hash"}
    try:
        return structure(stated, World)
    except StructureError as problem:
        raise UserError(f"The manifest of {shown(dataset.folder)} states its world wrongly ({problem}); make the scenes again.") from None


def known_scenes(dataset: Dataset, split: str) -> dict[str, Scene]:
    """Key -> scene, for the pictures of a split that are drawn one by one (train, val, test, test_crowded): without pairs of twins.

    Args:
        dataset: made by :func:`wholegrain.data.scenes.build.build_scenes`, or a part of such a one.

    Raises:
        UserError: another version's scenes, which this one would draw otherwise.
    """
    world = world_of(dataset)
    if world is None or dataset.manifest["world"].get("hash") != world.hash:
        raise UserError(f"{shown(dataset.folder)} holds scenes of another version of Wholegrain; draw them again: wholegrain scenes.")
    wanted, found = set(dataset.keys(split)), dict[str, Scene]()
    for index in range(int(dataset.manifest["counts"].get(_COUNT[split], 0)) if split in _COUNT else 0):
        scene = draw_scene(world, world.rng(split, index), CROWDED if split == "test_crowded" else SPARSE, unseen=split.startswith("test"))
        key = content_key(png(draw(scene, world.size)))
        if key in wanted:
            found[key] = scene
    if not found:
        raise UserError(f"Nothing is known of the pictures of the split {split!r}; choose train, val, test or test_crowded.")
    return found


_COUNT = {"train": "train", "val": "val", "test": "test", "test_crowded": "crowded"}
