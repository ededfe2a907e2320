"""Are the pictures pictures? Files that cannot be decoded, one colour, tiny or stretched; pictures on both sides of a split."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image

from wholegrain.data.pictures import BrokenPictureError, open_picture
from wholegrain.data.record import content_key
from wholegrain.doctor.finding import Finding, level_of
from wholegrain.doctor.sample import DataSample, Item, spread
from wholegrain.errors import UserError
from wholegrain.progress import Show, each, nowhere

TRAINED, OTHERS = 3000, 1500
"""Pictures that are decoded: of the split that is trained on, and of all others together."""
SMALLEST, LONGEST = 32, 8.0
"""Sides below this many pixels are tiny, and pictures so many times longer than wide are stretched."""
_SIDE, _ALIKE = 16, 0.98


@dataclass(frozen=True)
class Picture:
    """What is kept of a picture.

    Attributes:
        item: whose.
        key: of its bytes; empty if they could not be read.
        size: width and height; (0, 0) if it could not be decoded.
        flat: whether it is of one colour.
        turned: whether its orientation tag says that it is to be turned or mirrored before it is shown.
        small: uint8 ``[16, 16, 3]``: what survives scaling and compression.
        problem: why it could not be read.
    """

    item: Item
    key: str = ""
    size: tuple[int, int] = (0, 0)
    flat: bool = False
    turned: bool = False
    small: np.ndarray | None = None
    problem: str = ""


def decode(sample: DataSample, show: Show = nowhere) -> tuple[Picture, ...]:
    """Decodes a sample, the same one every time."""
    others = [split for split in sample.items if split != sample.split]
    chosen: list[Item] = []
    for split, items in sample.items.items():
        most = TRAINED if split == sample.split else OTHERS // len(others)
        once = list({item.place: item for item in items}.values())
        chosen += [once[place] for place in spread(len(once), most)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return tuple(each(pool.map(picture, chosen), "looking at pictures", show, len(chosen)))


def picture(item: Item) -> Picture:
    """One picture, at a reduced size where the format can give that."""
    if item.problem:
        return Picture(item, problem=item.problem)
    key = ""
    try:
        image = item.read()
        key = content_key(image)
        with open_picture(image) as opened:
            size = opened.size
            turned = opened.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
            opened.draft("RGB", (128, 128))
            pixels = opened.convert("RGB")
        small = np.asarray(pixels.resize((_SIDE, _SIDE), Image.Resampling.BOX))
        flat = max(high - low for low, high in pixels.getextrema()) <= 8  # type: ignore[operator, union-attr]
    except (BrokenPictureError, OSError, UserError) as problem:
        return Picture(item, key, problem=str(problem))
    return Picture(item, key, size, flat, turned, small)


def dead(pictures: Sequence[Picture]) -> list[Finding]:
    """Pictures that teach nothing."""
    kinds = (
        ("cannot be decoded", [p for p in pictures if p.problem], "remove them, or fetch them again"),
        ("are of one colour", [p for p in pictures if p.flat], "remove them: placeholders of dead links are the usual cause"),
        ("are tiny", [p for p in pictures if 0 < min(p.size) < SMALLEST], f"remove pictures below {SMALLEST} pixels"),
        (
            f"are over {LONGEST:.0f} times longer than wide",
            [p for p in pictures if min(p.size) > 0 and max(p.size) > LONGEST * min(p.size)],
            "remove or cut them: a square crop shows hardly any of them",
        ),
        (
            "lie on their side or are mirrored, by their orientation tag",
            [p for p in pictures if p.turned],
            "turn their pixels before you prepare them (jpegtran, mogrify -auto-orient): training and evaluation take pictures as they lie",
        ),
    )
    findings = []
    for what, found, do in kinds:
        level = level_of(len(found) / max(1, len(pictures)), 1e-9, 0.5)
        if level != "fine":
            why = f" ({found[0].problem})" if found[0].problem else f" ({found[0].size[0]} x {found[0].size[1]} pixels)"
            said = f"{len(found):,} of {len(pictures):,} pictures looked at {what}; first: {found[0].item.where}{why}."
            findings.append(Finding("pictures", level, said, do, {"share": len(found) / len(pictures)}))
    return findings or [Finding("pictures", "fine", f"{len(pictures):,} pictures were decoded; all are pictures.")]


def doubles(sample: DataSample, pictures: Sequence[Picture]) -> list[Finding]:
    """The same or nearly the same picture, inside the trained split and across splits."""
    trained = [p for p in pictures if p.item.split == sample.split and p.small is not None]
    others = [p for p in pictures if p.item.split != sample.split and p.small is not None]
    across = [
        pair
        for split in sorted({p.item.split for p in others})
        for pair in _like([p for p in others if p.item.split == split], trained)
    ]
    findings = []
    if across:
        test, train = across[0]
        said = (
            f"{len(across):,} of {len(others):,} pictures looked at in other splits are also among {len(trained):,} of {sample.split} "
            f"(same bytes or nearly the same picture): {test.item.where} ({test.item.split}) and {train.item.where}."
        )
        if sample.sizes[sample.split] > TRAINED:
            said += " There are more among those that were not looked at."
        do = "take them out of one of the splits: figures on them are too good"
        findings.append(
            Finding("overlap", level_of(len(across) / len(others), 0, 0.5), said, do, {"share": len(across) / len(others)})
        )
    elif others:
        said = f"None of {len(others):,} pictures of other splits is like one of {len(trained):,} of {sample.split}."
        findings.append(Finding("overlap", "fine", said))
    inside = _repeats(trained)
    share = len(inside) / max(1, len(trained))
    if share > 0.05:
        one, other = (p.item.where for p in inside[0])
        said = f"{len(inside):,} of {len(trained):,} pictures of {sample.split} are nearly the same as another one, such as {one} and {other}."
        findings.append(
            Finding("copied pictures", "look", said, "keep one of each; to the loss they are strangers", {"share": share})
        )
    elif trained:
        findings.append(
            Finding(
                "copied pictures",
                "fine",
                f"{share:.1%} of pictures are nearly the same as another one.",
                numbers={"share": share},
            )
        )
    return findings


def _like(some: Sequence[Picture], among: Sequence[Picture]) -> list[tuple[Picture, Picture]]:
    """Each of some with its first twin among others, where it has one."""
    near = _near(some, among)
    pairs = (
        (p, next((among[place] for place in near[number] if _close(p, among[place])), None)) for number, p in enumerate(some)
    )
    return [(p, twin) for p, twin in pairs if twin is not None]


def _repeats(pictures: Sequence[Picture]) -> list[tuple[Picture, Picture]]:
    """Each picture that comes again, with the first one like it."""
    near = _near(pictures, pictures)
    pairs = (
        (p, next((pictures[place] for place in near[number] if place < number and _close(p, pictures[place])), None))
        for number, p in enumerate(pictures)
    )
    return [(p, twin) for p, twin in pairs if twin is not None]


def _near(some: Sequence[Picture], among: Sequence[Picture]) -> list[list[int]]:
    """For each of some, the places among others whose thumbnails correlate by 0.98 at least; none for flat pictures."""
    others_NV, found = _patterns(among), []
    for start in range(0, len(some), 512):
        like_MN = _patterns(some[start : start + 512]) @ others_NV.T > _ALIKE
        found += [np.flatnonzero(like_N).tolist() for like_N in like_MN]
    return found


def _patterns(pictures: Sequence[Picture]) -> np.ndarray:
    """Thumbnails without their mean, of length one; zero for flat ones."""
    values_NV = np.array([p.small for p in pictures], dtype=np.float32).reshape(len(pictures), 3 * _SIDE**2)
    values_NV -= values_NV.mean(1, keepdims=True)
    values_NV[[p.flat for p in pictures]] = 0
    return values_NV / np.linalg.norm(values_NV, axis=1, keepdims=True).clip(1e-6)


def _close(one: Picture, other: Picture) -> bool:
    """The same shape, and thumbnails whose cells differ by 6 of 255 on average and by 40 at most: what differs in one thing is not the same."""
    assert one.small is not None
    assert other.small is not None
    a, b = one.size[0] / one.size[1], other.size[0] / other.size[1]
    differ = np.abs(one.small.astype(np.int16) - other.small)
    return max(a, b) < 1.1 * min(a, b) and float(differ.mean()) < 6 and int(differ.max()) < 40


def shared_captions(sample: DataSample) -> list[Finding]:
    """Captions of other splits that stand under trained images, too."""
    trained = {text for item in sample.trained for text, role in item.captions if role != "label"}
    other = [
        (item, text)
        for split, items in sample.items.items()
        if split != sample.split
        for item in items
        for text, role in item.captions
        if role != "label"
    ]
    if not other or not trained:
        return []
    found = [(item, text) for item, text in other if text in trained]
    share = len(found) / len(other)
    numbers = {"share": share, "captions": len(other)}
    said = f"{share:.1%} of {len(other):,} captions of other splits stand under images of {sample.split}, too"
    if share < 0.05:
        return [Finding("overlap of captions", "fine", said + ".", numbers=numbers)]
    said += f", such as {found[0][1][:60]!r} ({found[0][0].where})."
    do = "check how the splits were made: one image's captions must not be parted, and text retrieval on these is too easy"
    return [Finding("overlap of captions", level_of(share, 0, 0.5), said, do, numbers)]
