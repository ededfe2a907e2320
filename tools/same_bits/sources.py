"""Photo tables and pictures with masks, drawn from a fixed seed: what a user would bring."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"red": (210, 40, 30), "green": (30, 170, 60), "blue": (40, 60, 210), "yellow": (230, 210, 50), "white": (240, 240, 240)}
ANIMALS = ("dog", "cat", "horse", "cow")
PLACES = ("grass", "sand", "snow", "street")
ACTIONS = ("runs", "sits", "jumps", "walks")
SIDES = ("in front of", "behind")
COUNTS = ("two", "three", "four")
SIZES = ("small", "large")
SPLITS = {"train": 36, "val": 12, "test": 12}


def draw_sources(folder: Path) -> None:
    """The same photos as a table, as lines of JSON, as a folder of classes and as a tar; and pictures with masks and boxes."""
    photos = list(_photos())
    _table(folder / "table", photos)
    _lines(folder / "lines", photos[:24])
    _classes(folder / "classes", photos[:24])
    _tar(folder / "photos-000000.tar", photos[:24])
    _dense(folder / "dense")


def draw_model(folder: Path) -> None:
    """A Vision Transformer and a text tower as open_clip keeps them, for what the built-in towers are not made of."""
    import torch
    from open_clip.model import CLIP
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    vision = {"image_size": 32, "patch_size": 8, "layers": 2, "width": 16, "head_width": 8}
    text = {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
    torch.manual_seed(0)
    model = CLIP(8, vision, text)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    stated = {"model_cfg": {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}, "preprocess_cfg": {"interpolation": "bicubic"}}
    (folder / "open_clip_config.json").write_text(json.dumps(stated))


def _photos() -> Iterator[tuple[str, bytes, str, str, dict[str, str]]]:
    """Name, file, split, label, and a caption for each role."""
    rng, number = np.random.default_rng(0), 0
    for split, count in SPLITS.items():
        for _ in range(count):
            colour, other = rng.choice(list(COLOURS), 2, replace=False)
            animal, *rest = (str(rng.choice(words)) for words in (ANIMALS, PLACES, ACTIONS, SIDES, COUNTS, COUNTS, SIZES))
            kind = "jpeg" if number % 3 else "png"
            image = _picture(rng, COLOURS[colour], COLOURS[other], kind)
            yield f"{number:03}.{kind}", image, split, animal, _captions(str(colour), str(other), animal, *rest)
            number += 1


def _captions(
    colour: str, other: str, animal: str, place: str, action: str, side: str, men: str, women: str, size: str
) -> dict[str, str]:
    return {
        "web": f"a {colour} {animal} {action} on the {place} {side} a {other} car",
        "overview": f"a {colour} {animal} and a {other} car",
        "relation": f"a {colour} {animal} is {side} a {other} car",
        "main_object": f"a young {animal} that {action}",
        "background": f"{men} men stand on the {place}",
        "detail": f"A {colour} {animal} {action} on the {place}. There is a {size} {other} car. {women.capitalize()} women wear {other} shirts.",
        "nouns": f"{animal}, {place}, car",
        "phrase": f"a {colour} {animal}",
        "paraphrase": f"on the {place} {side} a {other} car, a {colour} {animal} {action}",
        "style": f"a bright photo of a {animal}",
    }


def _picture(rng: np.random.Generator, colour: tuple[int, ...], other: tuple[int, ...], kind: str) -> bytes:
    height, width = (int(side) for side in rng.integers(24, 56, 2))
    pixels = rng.integers(0, 60, (height, width, 3))
    pixels[: height // 2, : width // 2] += np.array(colour) // 2
    pixels[height // 3 :, width // 2 :] += np.array(other) // 2
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, kind)
    return file.getvalue()


def _table(folder: Path, photos: list) -> None:
    """A row a caption; a photo that comes twice under two names, one that is broken and one that is not there."""
    folder.mkdir(parents=True)
    photos = [*photos, ("twice.png", photos[0][1], "train", photos[0][3], {"web": "the same photo again"})]
    photos += [("broken.jpeg", photos[1][1][:90], "train", "dog", {"web": "half a file"})]
    for name, image, *_ in photos:
        (folder / name).write_bytes(image)
    with (folder / "photos.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("filepath", "caption", "role", "split", "label"))
        for name, _, split, label, captions in [*photos, ("absent.png", b"", "train", "dog", {"web": "no file"})]:
            rows.writerows((name, text, role, split, label) for role, text in captions.items())


def _lines(folder: Path, photos: list) -> None:
    """Several captions a row, without splits: they are made by hash."""
    folder.mkdir(parents=True)
    with (folder / "photos.jsonl").open("w") as file:
        for name, image, _, _, captions in photos:
            (folder / name).write_bytes(image)
            file.write(json.dumps({"image": name, "captions": [captions["web"], captions["overview"]]}) + "\n")


def _classes(folder: Path, photos: list) -> None:
    for name, image, _, label, _ in photos:
        (folder / label).mkdir(parents=True, exist_ok=True)
        (folder / label / name).write_bytes(image)


def _tar(path: Path, photos: list) -> None:
    with tarfile.open(path, "w") as file:
        for name, image, _, _, captions in photos:
            for member, data in ((name, image), (f"{name[:3]}.txt", captions["web"].encode())):
                info = tarfile.TarInfo(member)
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))


def _dense(folder: Path) -> None:
    """Six pictures of coloured blocks with masks and boxes; id 0 is unlabelled."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    rng, boxes, names = np.random.default_rng(1), {}, list(COLOURS)
    for number in range(6):
        ids, objects = np.full((32, 48), 1 + number % 3, np.uint8), []
        for value in ((number + 1) % 3 + 1, (number + 2) % 3 + 1):
            x, y = (int(place) for place in 8 * rng.integers(0, 3, 2))
            ids[y : y + 16, x : x + 16] = value
            objects.append({"class": names[value - 1], "box": [x, y, x + 16, y + 16]})
        Image.fromarray(np.array([(0, 0, 0), *COLOURS.values()], np.uint8)[ids]).save(folder / "images" / f"{number}.png")
        ids[:2] = 0
        Image.fromarray(ids).save(folder / "masks" / f"{number}.png")
        boxes[f"images/{number}.png"] = {"objects": objects}
    classes = {"0": {"name": "unlabeled"}, **{str(n): {"name": name, "isthing": True} for n, name in enumerate(names[:3], 1)}}
    (folder / "classes.json").write_text(json.dumps(classes))
    (folder / "boxes.json").write_text(json.dumps(boxes))
