"""Questions made by rules from the captions of some records, in memory: negatives and hard positives, so many of each kind."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from wholegrain.data.record import Caption, HardPositive, Negative, Record
from wholegrain.enrich.hard_positives import HardPositivesStage
from wholegrain.enrich.negatives.edits import KINDS
from wholegrain.enrich.negatives.word_rules import NegativesStage

Negatives = dict[tuple[str, str], tuple[Negative, ...]]


def made_from_captions(
    records: Sequence[Record], *, per_kind: int = 400, split: str = "test", seed: int = 0
) -> tuple[Negatives, tuple[HardPositive, ...]]:
    """Negatives and hard positives, at most ``per_kind`` of each kind, drawn by ``seed`` and spread over the images.

    Args:
        records: the images that are asked about; words are counted in their captions.
        split: written into the hard positives.

    Returns:
        (key, caption id) -> negatives, as ``Dataset.negatives``; and hard positives, each with a false text of its own caption.
    """
    stage = HardPositivesStage(seed=seed)
    stage.negatives = NegativesStage(KINDS, 1, seed)
    stage.negatives.fit_records(records)
    false: defaultdict[tuple[str, str], list[Negative]] = defaultdict(list)
    same: list[HardPositive] = []
    counts: Counter[str] = Counter()
    rows = {record.key: defaultdict(list) for record in records}
    positives = {record.key: defaultdict(list) for record in records}
    for record in records:
        for row in stage.negatives.of(record):
            rows[record.key][row.caption].append(row)
        for row in stage.of(record):
            positives[record.key][row.item.split(":")[1]].append(row)
    for record, caption in _in_turn(records, seed):
        for row in rows[record.key][caption.id]:
            if counts[row.kind] < per_kind:
                counts[row.kind] += 1
                false[record.key, caption.id].append(row)
        for row in positives[record.key][caption.id]:
            if counts[row.kind] < per_kind:
                counts[row.kind] += 1
                same.append(replace(row, split=split))
    return {place: tuple(found) for place, found in false.items()}, tuple(same)


def _in_turn(records: Sequence[Record], seed: int) -> Iterator[tuple[Record, Caption]]:
    """A first caption of every image, then a second of every image; images in an order by ``seed``."""
    distinct = [list({caption.text: caption for caption in record.captions}.values()) for record in records]
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(records)).tolist()
    turns = [rng.permutation(len(captions)).tolist() for captions in distinct]
    for turn in range(max(map(len, distinct), default=0)):
        for n in order:
            if turn < len(distinct[n]):
                yield records[n], distinct[n][turns[n][turn]]
