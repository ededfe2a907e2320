"""The quality sheet of generated texts: counts and coverage, what texts alone give away, diversity, and samples with their edits marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from wholegrain.data.dataset import Dataset
from wholegrain.data.record import Negative
from wholegrain.report.contact_sheet import mark_edits
from wholegrain.report.entry import Card
from wholegrain.report.page import page_environment, write_page
from wholegrain.report.pictures import data_uri, seen_part

_PICTURES = 12
_THUMB = 120
"""Width of a sample's picture on the page."""
_BYTES = 1_500_000
"""Samples' pictures take about this much of a page at most; many of them are made smaller."""
_GIVEN_AWAY = 0.55


def write_enrich_page(
    path: Path, dataset: Dataset, facts: Card, samples: Mapping[str, Sequence[Negative]], *, seed: int = 0
) -> Path:
    """Writes the page, aside first.

    Args:
        path: the HTML file; it needs no other file and no network.
        dataset: with its sidecars.
        facts: of :func:`wholegrain.workflows.quality.quality`.
        samples: kind -> negatives to show.
        seed: draws the pictures that are shown with all their texts.

    Returns:
        ``path``.
    """
    thumbs = _thumbs(dataset, [row.key for rows in samples.values() for row in rows])
    page = page_environment().get_template("enrich.html.j2").render(
        name=dataset.name,
        facts=facts,
        lines=[_line(kind, facts) for kind in sorted(facts["counts"]["kinds"])],
        limit=_GIVEN_AWAY,
        samples={kind: [_shown(dataset, row) | {"picture": thumbs[row.key]} for row in rows] for kind, rows in samples.items()},
        thumb=_THUMB,
        cards=_cards(dataset, seed),
    )  # fmt: skip
    return write_page(path, page)


def _line(kind: str, facts: Card) -> Card:
    counts, blind = facts["counts"], facts["blind"].get(kind)
    share = counts["captions_with"].get(kind, 0) / max(counts["captions"], 1)
    told = blind is not None and max(blind[name]["low"] for name in ("shorter", "unigram", "logistic")) > _GIVEN_AWAY
    return {"kind": kind, "count": counts["kinds"][kind], "share": share, "blind": blind, "told": told}


def _shown(dataset: Dataset, row: Negative) -> Card:
    texts = {caption.id: caption.text for caption in dataset.record(row.key).captions}
    return {"true": texts.get(row.caption, ""), "pieces": mark_edits(texts.get(row.caption, ""), row)}


def _thumbs(dataset: Dataset, keys: Sequence[str]) -> dict[str, str]:
    """Key -> picture as a ``data:`` URI, at twice the width that it is shown at unless there are so many ``keys`` that this is too much."""
    side = min(2 * _THUMB, int((3 * _BYTES / max(1, len(keys))) ** 0.5))  # a pixel takes about a third of a byte
    return {key: data_uri(seen_part(dataset.pixels(key), side=max(side, _THUMB // 2)), 65) for key in dict.fromkeys(keys)}


def _cards(dataset: Dataset, seed: int) -> list[Card]:
    keys = [key for split in dataset.splits for key in dataset.keys(split)]
    chosen = np.random.default_rng(seed).permutation(len(keys))[:_PICTURES]
    cards = []
    for key in (keys[n] for n in sorted(chosen.tolist())):
        record = dataset.record(key)
        captions = []
        for caption in record.captions:
            rows = dataset.negatives.get((key, caption.id), ())
            said = [{"kind": row.kind, "pieces": mark_edits(caption.text, row)} for row in rows]
            captions.append({"text": caption.text, "role": caption.role, "source": caption.source, "negatives": said})
        cards.append({"key": key, "picture": data_uri(seen_part(dataset.pixels(key), side=400), 75), "captions": captions})
    return cards
