"""Scores statements that are true or false of one picture: by how often a true one stands above a false one (AUC)."""

from __future__ import annotations

import numpy as np

from wholegrain.evaluation.benchmarks.items import Statements
from wholegrain.evaluation.benchmarks.pictures import Pictures
from wholegrain.evaluation.contract import EvaluatedModel
from wholegrain.evaluation.features.encode import Progress
from wholegrain.evaluation.features.feature_store import FeatureStore
from wholegrain.evaluation.result import Figure, NotSupportedError, TaskResult
from wholegrain.evaluation.scores.pair_scores import PairScores
from wholegrain.evaluation.statistics.blind import length
from wholegrain.evaluation.statistics.intervals import bootstrap_statistic
from wholegrain.evaluation.statistics.rows import Rows, table
from wholegrain.evaluation.statistics.stand_ins import stand_ins
from wholegrain.evaluation.statistics.ties import classes


def score_statements(
    statements: Statements, model: EvaluatedModel, store: FeatureStore, *, seed: int = 0, progress: Progress | None = None
) -> TaskResult:
    """``auc``, ``relation_auc`` (the mean over groups with both labels) and ``blind_shorter_auc``; see the benchmark's own page.

    Raises:
        NotSupportedError: when all labels are the same.
    """
    items = statements.items
    label_N = np.array([item.label for item in items])
    if label_N.all() or not label_N.any():
        raise NotSupportedError(f"All statements of {statements.name} have the same label, so there is nothing to tell apart.")
    pictures = Pictures(item.picture for item in items)
    keys, texts = list(dict.fromkeys(pictures.key.values())), list(dict.fromkeys(item.text for item in items))
    text, cut = store.texts(texts, progress)
    scores = PairScores(keys, store.images(pictures, keys, progress), texts, text, model)
    image_N = np.array([scores.image(pictures.key[item.picture]) for item in items])
    text_N = np.array([scores.text(item.text) for item in items])
    files = [pictures.file[item.picture] for item in items]
    other = stand_ins(keys, seed, pictures.of_one_file())
    all_N = {
        "auc": (scores(image_N, text_N), None if other is None else scores(other[image_N], text_N)),
        "blind_shorter_auc": (np.array([-float(length(item.text)) for item in items]), None),
    }
    group_N = np.array([item.group for item in items], dtype=object)
    ones = np.ones(len(items), dtype=np.int64)
    found = []
    for name, (own, control) in all_N.items():
        found.append(auc_figure(name, own, control, label_N, ones, files, seed))
        if name == "auc":
            found.append(
                auc_figure("relation_auc", own, control, label_N, np.unique(group_N, return_inverse=True)[1], files, seed)
            )
    own = all_N["auc"][0]
    values = {"auc": np.where(label_N, _beaten(own, label_N), np.nan)}
    extra = {"score": own.tolist(), "label": label_N.tolist(), "text": [item.text for item in items]}
    rows = Rows([i.id for i in items], group_N.tolist(), files, values, {"auc": 0.5}, extra=extra)
    more = [
        *statements.notes,
        *([f"{sum(cut):,} of {len(texts):,} texts were cut at the model's context length"] if any(cut) else []),
    ]
    protocol = "; ".join([f"{len(items):,} statements on {len(set(files)):,} pictures: {statements.protocol}", *more])
    return TaskResult(statements.name, f"{protocol}.", tuple(found), table(rows))


def _beaten(score_N: np.ndarray, label_N: np.ndarray) -> np.ndarray:
    """For each item the share of false ones with a smaller score, equal ones one half; its mean over the true ones is the AUC."""
    rank = classes(score_N[None])[0]
    false = np.sort(rank[~label_N])
    return (np.searchsorted(false, rank, "left") + np.searchsorted(false, rank, "right")) / (2 * len(false))


def auc(score_N: np.ndarray, label_N: np.ndarray) -> float:
    """The chance that a true item scores above a false one, a tie counting one half.

    Example:
        >>> auc(np.array([0.9, 0.5, 0.5, 0.1]), np.array([True, True, False, False]))
        0.875
    """
    return float(_beaten(score_N, label_N)[label_N].mean())


def auc_figure(
    name: str, own: np.ndarray, control: np.ndarray | None, label_N: np.ndarray, code_N: np.ndarray, files, seed: int
) -> Figure:
    """The AUC of scores ``own`` for the true labels, meant over the codes that have both labels, its interval and that of ``control``."""
    parts = [n for code in np.unique(code_N) if 0 < label_N[n := np.flatnonzero(code_N == code)].sum() < len(n)]
    if not parts:
        return Figure(name, float("nan"), float("nan"), float("nan"), 0, 0.5, note="no relation has both labels")
    wins = [_wins(own[n], label_N[n]) for n in parts]

    def statistic(draws: np.ndarray) -> np.ndarray:
        values = []
        for n, (true, false, win) in zip(parts, wins, strict=True):
            t, f = draws[:, n[true]], draws[:, n[false]]
            pairs = t.sum(1) * f.sum(1)
            values.append(np.where(pairs > 0, ((t @ win) * f).sum(1) / np.maximum(pairs, 1), np.nan))
        held = np.stack(values)
        finite = np.isfinite(held)
        return np.where(finite, held, 0.0).sum(0) / np.maximum(finite.sum(0), 1)

    low, high = bootstrap_statistic(statistic, list(files), seed=seed)
    value, shuffled = (None if s is None else float(np.mean([auc(s[n], label_N[n]) for n in parts])) for s in (own, control))
    assert value is not None
    note = f"mean over {len(parts)} relations" if len(parts) > 1 else ""
    return Figure(name, value, min(low, value), max(high, value), sum(map(len, parts)), 0.5, shuffled, note=note)


def _wins(score_N: np.ndarray, label_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places of the true and of the false items, and whether each true one beats each false one (1/2 for a tie)."""
    rank = classes(score_N[None])[0]
    true, false = np.flatnonzero(label_N), np.flatnonzero(~label_N)
    gap = np.sign(rank[true][:, None] - rank[false][None, :])
    return true, false, ((gap + 1) / 2).astype(np.float32)
