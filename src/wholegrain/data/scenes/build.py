"""Writing scenes as an ordinary prepared data set: shards, index, manifest and the sidecars.

Splits: ``train``; ``val`` (new scenes, training wordings and combinations: for development); ``test`` (new scenes, held-out wordings, a
held-out combination in each); ``test_crowded`` (four or five objects). The pictures of the twins lie in splits of their own
(``val_twins``, ``test_twins``), so that they do not crowd the retrieval galleries; those of the training dose lie in ``train``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from wholegrain.data.dataset import Dataset
from wholegrain.data.record import Caption, HardPositive, Negative, Record, Region, Twin, caption_id, content_key
from wholegrain.data.scenes.captions import HELD_OUT_WORDINGS, TRAINING_WORDINGS, SceneCaption, noun_phrase, say, singles
from wholegrain.data.scenes.draw import draw, masks, png
from wholegrain.data.scenes.twins import TWIN_KINDS, draw_hard_positive, draw_twins, edits_between, negatives
from wholegrain.data.scenes.world import CROWDED, SPARSE, Mention, Scene, World, draw_scene, holds
from wholegrain.data.shards import ShardWriter
from wholegrain.data.sidecars import write_sidecar

_CHUNK = 250


@dataclass(frozen=True)
class SceneCounts:
    """How much to draw.

    Attributes:
        train, val, test, crowded: pictures.
        twins: test items per kind, for ``test`` and, half as many, for ``val``.
        train_twins: pairs of training pictures that differ in one fact (the dose ``data.twin_share`` takes them from here).
    """

    train: int = 20_000
    val: int = 1_000
    test: int = 1_000
    crowded: int = 1_000
    twins: int = 1_000
    train_twins: int = 0


@dataclass
class _Part:
    """What one worker made: records with their pictures, and sidecar rows."""

    records: list[tuple[Record, bytes]] = field(default_factory=list)
    claims: list[tuple[str, Scene, list[SceneCaption]]] = field(default_factory=list)
    negatives: list[Negative] = field(default_factory=list)
    twins: list[Twin] = field(default_factory=list)
    hard_positives: list[HardPositive] = field(default_factory=list)


def build_scenes(
    folder: Path | str, world: World, counts: SceneCounts, *, workers: int = 2, tick: Callable[[int], None] | None = None
) -> Dataset:
    """Draws a data set of scenes; the same (world, counts) gives the same bytes.

    Args:
        folder: must not hold a data set yet.
        workers: processes that draw.
        tick: called with the number of pictures done, for a progress bar.

    Raises:
        UserError: the folder holds a data set, or cannot be written.
    """
    jobs = _jobs(world, counts)
    made = _Part()
    manifest = {"source": "scenes", "world": {**asdict(world), "hash": world.hash}, "counts": asdict(counts)}
    with ShardWriter(folder, manifest=manifest) as writer, ProcessPoolExecutor(max(1, workers)) as pool:
        for part in pool.map(_call, jobs):
            for record, picture in part.records:
                writer.add(record, picture)
            for name in ("claims", "negatives", "twins", "hard_positives"):
                getattr(made, name).extend(getattr(part, name))
            if tick:
                tick(len(part.records))
        for name in ("negatives", "twins", "hard_positives"):
            write_sidecar(folder, name, getattr(made, name))
        write_sidecar(folder, "truths", _truths(made.claims))
    return Dataset(folder)


def picture_count(counts: SceneCounts) -> int:
    """How many pictures :func:`build_scenes` draws: the length of a progress bar."""
    items = len(TWIN_KINDS) * (counts.twins + counts.twins // 2)
    hard = counts.twins + counts.twins // 2
    return counts.train + counts.val + counts.test + counts.crowded + 2 * items + hard + 2 * counts.train_twins


def _jobs(world: World, counts: SceneCounts) -> list[Callable[[], _Part]]:
    jobs: list[Callable[[], _Part]] = []
    for split, count in (("train", counts.train), ("val", counts.val), ("test", counts.test), ("test_crowded", counts.crowded)):
        jobs += [partial(_scenes, world, split, chunk) for chunk in _chunks(count)]
    for split, count in (("val", counts.twins // 2), ("test", counts.twins)):
        for kind in TWIN_KINDS:
            jobs += [partial(_twins, world, split, kind, chunk) for chunk in _chunks(count)]
        jobs += [partial(_hard_positives, world, split, chunk) for chunk in _chunks(count)]
    kinds = [kind for kind in TWIN_KINDS if kind in ("relation", "swap_object", "swap_attribute", "replace_colour")]
    for place, kind in enumerate(kinds):
        share = len(range(place, counts.train_twins, len(kinds)))
        jobs += [partial(_twins, world, "train", kind, chunk) for chunk in _chunks(share)]
    return jobs


def _call(job: Callable[[], _Part]) -> _Part:
    return job()


def _chunks(count: int) -> Iterator[range]:
    for start in range(0, count, _CHUNK):
        yield range(start, min(count, start + _CHUNK))


def make_record(scene: Scene, scene_captions: Sequence[SceneCaption], split: str, size: int) -> tuple[Record, bytes]:
    """The record of a scene (captions, and a region with its mask for each object that is alone of its noun) and its PNG."""
    picture = png(draw(scene, size))
    key = content_key(picture)
    captions = {s.text: Caption(caption_id(s.text), s.text, s.role, "scenes") for s in reversed(scene_captions)}
    regions = []
    alone = singles(scene)
    for thing, mask in zip(scene.things, masks(scene, size), strict=True):
        if thing in alone and mask.any():
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
            regions.append(Region(box, noun_phrase(Mention(thing.noun, thing.colour)), run_lengths(mask)))
    ordered = tuple(captions[text] for text in dict.fromkeys(s.text for s in scene_captions))
    return Record(key, f"{key}.png", (size, size), split, None, ordered, tuple(regions)), picture


def run_lengths(mask: np.ndarray) -> tuple[int, ...]:
    """Row-major run lengths of a bool mask, beginning with a (possibly empty) run of zeros.

    Example:
        >>> run_lengths(np.array([[True, True], [False, True]]))
        (0, 2, 1, 1)
    """
    flat = np.concatenate([[False], mask.ravel(), [False]])
    turns = np.flatnonzero(flat[1:] != flat[:-1])
    ends = np.append(turns, mask.size) if len(turns) == 0 or turns[-1] != mask.size else turns
    return tuple(int(n) for n in np.diff(np.concatenate([[0], ends])))


def _scenes(world: World, split: str, chunk: range) -> _Part:
    part = _Part()
    test = split.startswith("test")
    for index in chunk:
        rng = world.rng(split, index)
        scene = draw_scene(world, rng, CROWDED if split == "test_crowded" else SPARSE, unseen=test)
        captions = say(scene, rng, HELD_OUT_WORDINGS if test else TRAINING_WORDINGS)
        record, picture = make_record(scene, captions, split, world.size)
        part.records.append((record, picture))
        part.negatives += _negative_rows(record.key, scene, captions, world, rng)
        if split != "train":
            part.claims.append((record.key, scene, captions))
    return part


def _negative_rows(key: str, scene: Scene, captions: Sequence[SceneCaption], world: World, rng: np.random.Generator) -> list[Negative]:
    rows = []
    for caption in captions:
        if caption.role in ("overview", "main_object", "relation"):
            for kind, text in negatives(caption, scene, world, rng):
                rows.append(Negative(key, caption_id(caption.text), kind, text, edits_between(caption.text, text), "scenes"))
    return rows


def _twins(world: World, split: str, kind: str, chunk: range) -> _Part:
    part = _Part()
    test = split == "test"
    for index in chunk:
        rng = world.rng(f"{split} twins {kind}", index)
        pair = draw_twins(kind, world, rng, unseen=test, wordings=HELD_OUT_WORDINGS if test else TRAINING_WORDINGS)
        home = "train" if split == "train" else f"{split}_twins"
        made = []
        for scene, caption in pair:
            captions = [caption, *(say(scene, rng)[1:] if split == "train" else ())]
            made.append(make_record(scene, captions, home, world.size))
            if split == "train":
                part.negatives += _negative_rows(made[-1][0].key, scene, captions, world, rng)
        part.records += made
        keys, texts = tuple(record.key for record, _ in made), tuple(caption.text for _, caption in pair)
        part.twins.append(Twin(f"{kind}-{index:05d}", kind, (keys[0], keys[1]), (texts[0], texts[1]), split))
    return part


def _hard_positives(world: World, split: str, chunk: range) -> _Part:
    part = _Part()
    test = split == "test"
    for index in chunk:
        rng = world.rng(f"{split} hard positives", index)
        wordings = HELD_OUT_WORDINGS if test else TRAINING_WORDINGS
        scene, caption, same, false = draw_hard_positive(world, rng, unseen=test, wordings=wordings)
        record, picture = make_record(scene, [caption, same], f"{split}_twins", world.size)
        part.records.append((record, picture))
        item = f"relation-{index:05d}"
        part.hard_positives.append(HardPositive(item, "relation", record.key, (caption.text, same.text), false.text, split))
    return part


def _truths(claims: list[tuple[str, Scene, list[SceneCaption]]]) -> Iterator[tuple[str, str]]:
    """(caption id, key) for every further picture of the same split that a caption is true of."""
    by_noun: dict[str, list[tuple[str, Scene]]] = defaultdict(list)
    for key, scene, _ in claims:
        for noun in {t.noun for t in scene.things}:
            by_noun[noun].append((key, scene))
    everything = [(key, scene) for key, scene, _ in claims]
    for key, _, captions in claims:
        for caption in captions:
            mentions = caption.claim.mentions
            for other, scene in by_noun[mentions[0].noun] if mentions else everything:
                if other != key and holds(caption.claim, scene):
                    yield caption_id(caption.text), other
