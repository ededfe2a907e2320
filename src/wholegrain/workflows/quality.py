"""The quality sheet of a data set's sidecars: ``wholegrain enrich DATA --audit``."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from wholegrain.data.dataset import Dataset
from wholegrain.data.record import Record
from wholegrain.enrich.negatives.negation import NEGATED
from wholegrain.enrich.quality import count, diversity, logistic_wins
from wholegrain.errors import UserError
from wholegrain.evaluation.statistics.blind import shorter_wins, unigram_wins
from wholegrain.evaluation.statistics.intervals import bootstrap_mean
from wholegrain.files import disk_errors, write_text
from wholegrain.report.enrich_page import write_enrich_page

MOST_PAIRS = 20_000
MOST_IMAGES = 5_000


def quality(dataset: Dataset, out: Path, *, samples: int = 6, seed: int = 0) -> dict[str, object]:
    """Writes ``out/quality.html`` and ``out/quality.json``: what there is, what the texts alone give away, and samples to look at.

    Args:
        dataset: with sidecars.
        out: a folder; made if it is not there.
        samples: of every kind, drawn by ``seed``.

    Returns:
        the facts, as in ``quality.json``.

    Raises:
        UserError: there are no negatives, hard positives or generated captions.
    """
    if not (len(dataset.negatives) or dataset.hard_positives or len(dataset.generated)):
        where = dataset.folder
        raise UserError(f"{where} has no negatives, hard positives or captions of models; make some: wholegrain enrich {where} --negatives")
    keys = [key for split in dataset.splits for key in dataset.keys(split)]
    records = {key: dataset.record(key) for key in keys}
    counts = count(records.values(), dataset.negatives)
    draw = np.random.default_rng(seed)
    chosen = sorted(draw.permutation(len(keys))[:MOST_IMAGES].tolist())
    unlike = diversity((records[keys[n]] for n in chosen), frozenset({NEGATED}))
    pairs = _pairs(dataset, records)
    facts = {
        "data": str(dataset.folder), "data hash": dataset.content_hash, "counts": asdict(counts), "diversity": asdict(unlike),
        "covered share": counts.covered / max(counts.captions, 1),
        "blind": {kind: _blind(rows, draw) for kind, rows in sorted(pairs.items())},
        "hard positives": _rewordings(dataset), "sources": sorted({row[4] for rows in pairs.values() for row in rows}),
    }  # fmt: skip
    shown = {
        kind: [rows[n] for n in sorted(draw.permutation(len(rows))[:samples].tolist())] for kind, rows in sorted(pairs.items())
    }
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    write_enrich_page(
        out / "quality.html", dataset, facts, {kind: [row[3] for row in rows] for kind, rows in shown.items()}, seed=seed
    )
    with disk_errors(out):
        write_text(out / "quality.json", json.dumps(facts, indent=1) + "\n")
    return facts


def _pairs(dataset: Dataset, records: Mapping[str, Record]) -> dict[str, list[tuple]]:
    """Kind -> (true text, false text, key, row, source) of every negative."""
    texts = {(key, caption.id): caption.text for key, record in records.items() for caption in record.captions}
    found: defaultdict[str, list[tuple]] = defaultdict(list)
    for place, rows in dataset.negatives.items():
        for row in rows:
            if place in texts:
                found[row.kind].append((texts[place], row.text, row.key, row, row.source))
    return dict(found)


def _blind(rows: list[tuple], draw: np.random.Generator) -> dict[str, object]:
    """Shares that text alone gets right, each with a 95% interval over images."""
    kept = rows if len(rows) <= MOST_PAIRS else [rows[n] for n in sorted(draw.permutation(len(rows))[:MOST_PAIRS].tolist())]
    true, false, keys = ([row[n] for row in kept] for n in range(3))
    answers = {
        "shorter": shorter_wins(true, false), "unigram": unigram_wins(true, false, [(key,) for key in keys]),
        "logistic": logistic_wins(true, false, keys),
    }  # fmt: skip
    low_F, high_F = bootstrap_mean(np.stack(list(answers.values()), 1), keys)
    found: dict[str, object] = {"pairs": len(rows), "images": len(set(keys))}
    for n, (name, won_N) in enumerate(answers.items()):
        found[name] = {"share": float(won_N.mean()), "low": float(low_F[n]), "high": float(high_F[n])}
    return found


def _rewordings(dataset: Dataset) -> dict[str, int]:
    found: defaultdict[str, int] = defaultdict(int)
    for item in dataset.hard_positives:
        found[item.kind] += 1
    return dict(sorted(found.items()))
