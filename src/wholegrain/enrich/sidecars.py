"""Sidecar rows made by rules from the captions of records, in memory: negatives and hard positives."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from zlib import crc32

import numpy as np

from wholegrain.data.record import Caption, HardPositive, Negative, Record
from wholegrain.enrich.paraphrases import KINDS as PARAPHRASES
from wholegrain.enrich.paraphrases import paraphrases
from wholegrain.enrich.rules import KINDS as FALSEHOODS
from wholegrain.enrich.rules import SOURCE, Rules

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
    rules = Rules.of(caption.text for record in records for caption in record.captions)
    false: dict[str, list[Negative]] = {kind: [] for kind in FALSEHOODS}
    same: dict[str, list[HardPositive]] = {kind: [] for kind in PARAPHRASES}
    for record, caption, others in _in_turn(records, seed):
        wanted = [kind for kind, rows in false.items() if len(rows) < per_kind]
        place = [seed, crc32(f"{record.key}:{caption.id}".encode())]
        made = [m for m in rules.negatives(caption.text, others, place, wanted) if m.text not in others]
        for m in made:
            false[m.kind].append(Negative(record.key, caption.id, m.kind, m.text, m.edits, SOURCE))
        for m in paraphrases(caption.text):
            if len(same[m.kind]) < per_kind and m.text not in others:
                wrong = made or rules.negatives(caption.text, others, place)
                if wrong:
                    item = f"{record.key}:{caption.id}:{m.kind}"
                    texts = (caption.text, m.text)
                    same[m.kind].append(HardPositive(item, m.kind, record.key, texts, wrong[0].text, split))
    found: dict[tuple[str, str], list[Negative]] = defaultdict(list)
    for rows in false.values():
        for row in rows:
            found[row.key, row.caption].append(row)
    return {place: tuple(rows) for place, rows in found.items()}, tuple(row for rows in same.values() for row in rows)


def _in_turn(records: Sequence[Record], seed: int) -> Iterator[tuple[Record, Caption, list[str]]]:
    """A first caption of every image, then a second of every image, each with the image's other texts; images in an order by ``seed``."""
    distinct = [list({caption.text: caption for caption in record.captions}.values()) for record in records]
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(records)).tolist()
    turns = [rng.permutation(len(captions)).tolist() for captions in distinct]
    for turn in range(max(map(len, distinct), default=0)):
        for n in order:
            if turn < len(distinct[n]):
                caption = distinct[n][turns[n][turn]]
                yield records[n], caption, [other.text for other in distinct[n] if other.text != caption.text]
