"""``wholegrain audit``: what does this model miss on my own photos and captions? Nothing is trained.

False texts and rewordings are made from the captions by word rules (:mod:`wholegrain.enrich`), and the model is asked which is true. Beside
every figure stand its interval, what guessing scores, what the model scores with the pictures exchanged, and what the texts alone give
away; a figure that is no better than those says nothing about seeing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from wholegrain.data.dataset import Dataset
from wholegrain.data.prepare import PrepareOptions, prepare
from wholegrain.data.record import HardPositive, Record
from wholegrain.data.sources import SourceOptions
from wholegrain.data.split import NONE
from wholegrain.enrich.questions import Negatives, made_from_captions
from wholegrain.errors import UserError
from wholegrain.evaluation.contract import EvaluatedData, EvaluatedModel
from wholegrain.evaluation.features.encode import Encoded
from wholegrain.evaluation.result import TaskResult, save_results
from wholegrain.evaluation.suite import EvaluationOptions, evaluate
from wholegrain.files import disk_errors, write_text
from wholegrain.report.audit_page import AuditPage, ScorecardRow, scorecard, write_audit_page
from wholegrain.report.entry import Entry
from wholegrain.suggest import closest

TASKS = ("retrieval", "negatives", "hard_positives")


@dataclass(frozen=True)
class AuditOptions:
    """How to audit.

    Attributes:
        split: empty takes test, else val, else the first one.
        images: at most so many photos, drawn by the seed.
        per_kind: at most so many items of each kind of question.
        pictures: photos with heat maps.
        seed: of all draws.
        batch: photos per step.
        cache: a folder for features.
        progress: say what is being done.
    """

    split: str = ""
    images: int = 1000
    per_kind: int = 250
    pictures: int = 6
    seed: int = 0
    batch: int = 64
    cache: Path | None = None
    progress: bool = True


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        page: the HTML file.
        lines: the scorecard, the worst first.
        results: the results behind it.
        left_out: task -> why it was not done.
        facts: counts of photos and captions, cut and repeated texts, seconds.
    """

    page: Path
    lines: Sequence[ScorecardRow]
    results: Sequence[TaskResult]
    left_out: dict[str, str]
    facts: dict[str, object] = field(default_factory=dict)


class SplitWithQuestions:
    """Some images of a split with questions made from their captions; otherwise as the data set."""

    def __init__(
        self, dataset: EvaluatedData, split: str, keys: Sequence[str], negatives: Negatives, hard_positives: tuple[HardPositive, ...]
    ) -> None:
        self._dataset, self._keys = dataset, list(keys)
        self.splits, self.negatives, self.hard_positives, self.twins = (split,), negatives, hard_positives, ()

    def keys(self, split: str) -> list[str]:
        """The images that are asked about."""
        return list(self._keys) if split in self.splits else []

    def __getattr__(self, name: str) -> object:
        return getattr(self._dataset, name)


def open_photos(photos: str | Path, out: Path, options: SourceOptions | None = None) -> Dataset:
    """A prepared data set as it is; anything else is prepared in ``out/data`` first, all of one split unless it states others: nothing is trained."""
    if (Path(photos) / "manifest.json").is_file() or "://" in str(photos):
        return Dataset(photos)
    prepare(photos, out / "data", options=PrepareOptions(options or SourceOptions(), NONE, overwrite=True))
    return Dataset(out / "data")


def audit(model: EvaluatedModel, dataset: EvaluatedData, out: Path, *, name: str = "model", options: AuditOptions | None = None) -> Audit:
    """Asks the model about the data set's own captions and writes ``out/audit.html``, ``audit.json``, ``results.json`` and the items.

    Raises:
        UserError: when the split is not there, or has fewer than two photos with captions.
    """
    options, start = options or AuditOptions(), perf_counter()
    split = options.split or next((split for split in ("test", "val") if split in dataset.splits), dataset.splits[0])
    records = _drawn(dataset, split, options)
    if len(records) < 2:
        raise UserError(f"The split {split!r} has {len(records)} photos with captions; an audit needs at least two.")
    sidecars = made_from_captions(records, per_kind=options.per_kind, split=split, seed=options.seed)
    questions: Any = SplitWithQuestions(dataset, split, [record.key for record in records], *sidecars)
    left_out: dict[str, str] = {}
    features: dict[str, Encoded] = {}
    tasks = (*TASKS, "grounding") if any(len(record.regions) > 1 for record in records) else TASKS
    results = evaluate(
        model, questions, EvaluationOptions(options.seed, options.batch, options.cache, options.progress), split=split, tasks=tasks,
        left_out=left_out, features=features,
    )  # fmt: skip
    facts = _facts(model, dataset, split, records)
    lines = scorecard(results)
    entry = Entry(name, None, model, results, left_out, features.get(split))
    page = write_audit_page(out / "audit.html", AuditPage(entry, questions, split, lines, facts, options.pictures, options.seed))
    facts["seconds"] = round(perf_counter() - start, 1)
    meta = {"dataset": str(getattr(dataset, "folder", "")), "model": name, "split": split, "seed": options.seed, "facts": facts}
    save_results(results, out, meta | {"left_out": left_out})
    whole = {**meta, "left_out": left_out, "scorecard": [line.as_json() for line in lines]}
    with disk_errors(out):
        write_text(out / "audit.json", json.dumps(whole, indent=1, default=str) + "\n")
    return Audit(page, lines, results, left_out, facts)


def _drawn(dataset: EvaluatedData, split: str, options: AuditOptions) -> list[Record]:
    if split not in dataset.splits:
        raise UserError(f"The data set has no split {split!r}; {closest(split, dataset.splits)}")
    keys = dataset.keys(split)
    if len(keys) > options.images:
        keys = [keys[n] for n in np.sort(np.random.default_rng(options.seed).permutation(len(keys))[: options.images])]
    return [record for key in keys if (record := dataset.record(key)).captions]


def _facts(model: EvaluatedModel, dataset: EvaluatedData, split: str, records: Sequence[Record]) -> dict[str, object]:
    """Counts of photos and captions, the share of texts that the model cuts, and what is said twice."""
    owners: dict[str, set[str]] = {}
    for record in records:
        for caption in record.captions:
            owners.setdefault(caption.text, set()).add(record.key)
    texts = list(owners)
    cut_N = np.concatenate(
        [np.asarray(model.tokenizer.encode(texts[n : n + 512]).cut_N).astype(bool) for n in range(0, len(texts), 512)]
    )
    shared = {text: len(keys) for text, keys in owners.items() if len(keys) > 1}
    captions = sum(len(record.captions) for record in records)
    repeats = Counter(shared).most_common(3)
    same = (getattr(dataset, "manifest", {}).get("duplicates") or {}).get("images_inside_splits") or {}
    return {
        "photos": len(records), "photos in the split": len(dataset.keys(split)), "captions": captions, "texts": len(texts),
        "context": getattr(model.tokenizer, "context_length", None), "cut": int(cut_N.sum()), "cut share": float(cut_N.mean()),
        "first cut": texts[int(cut_N.argmax())] if cut_N.any() else "", "texts under several photos": len(shared),
        "captions that stand under several photos": sum(shared.values()), "most repeated": [list(pair) for pair in repeats],
        "equal photos joined": same.get("count", 0),
    }  # fmt: skip
