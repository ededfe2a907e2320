"""What each branch of a multi-branch model answers to: the captions nearest to it, role by role, and the branch x role matrix."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from wholegrain.data.record import Record, caption_id
from wholegrain.evaluation.contract import EvaluatedData
from wholegrain.evaluation.features.encode import encode_keys, encode_texts, split_keys
from wholegrain.evaluation.result import Figure
from wholegrain.evaluation.scores.similarity import unit
from wholegrain.report.entry import Card, Entry
from wholegrain.report.pictures import data_uri, seen_part

MOST_RECORDS = 100


def branch_matrix(entry: Entry) -> Card | None:
    """Recall@1 of each role's captions through each branch, their mean and the single vector: rows of figures under role names."""
    result = entry.result("branches")
    if result is None:
        return None
    found: dict[str, dict[str, Figure]] = {}
    for figure in result.figures:
        role, _, metric = figure.name.rpartition("/")
        if metric.endswith("_recall@1") and role:
            found.setdefault(metric.removesuffix("_recall@1"), {})[role] = figure
    roles = list(dict.fromkeys(role for row in found.values() for role in row))
    special = {role: entry.figure("branches", f"{role}/specialisation") for role in roles}
    rows = [(name.replace("_", " "), [row.get(role) for role in roles]) for name, row in found.items()]
    top = max((f.value for _, row in rows for f in row if f is not None), default=0.0)
    single = len(rows) < 2
    alone = [row for name, row in rows if name.startswith("branch")]
    values = [[f.value for row in alone if (f := row[n]) is not None] for n in range(len(roles))]
    best = [max(column) if column and max(column) > min(column) else None for column in values]
    return {
        "best": best,
        "name": entry.name,
        "roles": roles,
        "rows": rows,
        "special": special,
        "top": top or 1.0,
        "single": single,
    }


def nearest_captions(entry: Entry, dataset: EvaluatedData, split: str, *, pictures: int = 2, seed: int = 0) -> list[Card]:
    """For a few pictures, per branch and role the nearest caption among those of (at most ``MOST_RECORDS``) records of the split.

    Returns:
        one dict per picture: the picture and ``rows``: (branch, cells), a cell being (text, true of the picture) per role; [] for a
        model with a single vector per image.
    """
    model = entry.loaded
    count = getattr(getattr(model, "head", model), "branches", None)
    if model is None or not isinstance(count, int) or count < 2:
        return []
    keys = list(split_keys(dataset, split))
    drawn = np.random.default_rng(seed).permutation(len(keys))[:MOST_RECORDS]
    records = [dataset.record(keys[place]) for place in drawn]
    by_role: dict[str, list[str]] = {}
    for record in records:
        for caption in record.captions:
            by_role.setdefault(caption.role, []).append(caption.text)
    by_role = {role: list(dict.fromkeys(texts)) for role, texts in by_role.items() if role != "phrase"}
    needs = frozenset({"branches"})
    shown = records[:pictures]
    image = encode_keys(model, dataset, [record.key for record in shown], needs)
    if image.branches_BHD is None:
        return []
    vectors = {role: unit(encode_texts(model, texts, needs).pooled_ND) for role, texts in by_role.items()}
    return [
        {"roles": list(by_role), "rows": _nearest(unit(image.branches_BHD[b]), by_role, vectors, _said(record, dataset)),
         "picture": data_uri(seen_part(dataset.pixels(record.key))), "alt": record.captions[0].text}
        for b, record in enumerate(shown)
    ]  # fmt: skip


def _said(record: Record, dataset: EvaluatedData) -> set[str]:
    return {caption.text for caption in record.captions} | {name for name, keys in dataset.truths.items() if record.key in keys}


def _nearest(branches_HD: Tensor, by_role: dict[str, list[str]], vectors: Card, said: set[str]) -> list[tuple[str, list[tuple[str, bool]]]]:
    rows = []
    for h, branch_D in enumerate(branches_HD):
        texts = [by_role[role][int((vectors[role] @ branch_D).argmax())] for role in by_role]
        cells = [(text, text in said or caption_id(text) in said) for text in texts]
        rows.append((f"branch {h}", cells))
    return rows
