"""How sure a model is of its choices, beside how often they are right: calibration of classification and of choices between candidates.

A choice's confidence is the greatest share of a softmax over its candidates of ``scale x score``: over the classes in zero-shot classification, over a
true text and the false ones (or a true picture and others), in both directions of two pictures and two captions. ``scale`` is the model's own, the
inverse temperature that it learned (:func:`~wholegrain.evaluation.scores.similarity.logit_scale`), 100 where it has none. So a model's temperature is
measured with it: CLIP's is fitted to batches, not to two candidates. A bias falls out of a softmax. A tie is right by a fair coin, at half of the confidence.

Everything is read from results that are there, from the scores that their items keep; nothing is encoded again. ``NAME_calibration``:

* ``accuracy``, its ties broken by a fair coin, and ``confidence``, their means over choices;
* ``overconfidence``: confidence minus accuracy;
* ``ece`` and ``ece_adaptive``: :mod:`wholegrain.evaluation.statistics.calibration`, intervals over pictures. They are no means of items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wholegrain.evaluation.result import Figure, TaskResult
from wholegrain.evaluation.statistics.calibration import calibration_error, equal_mass, equal_width
from wholegrain.evaluation.statistics.intervals import bootstrap_statistic
from wholegrain.evaluation.statistics.rows import Rows, figures, table
from wholegrain.evaluation.statistics.ties import all_above

END = "_calibration"


@dataclass(frozen=True)
class Choices:
    """N choices: ids, groups and pictures of their items, whether these count in the figures without a group, confidences, chances to be right, and
    what guessing has right."""

    item: Sequence[str]
    group: Sequence[str]
    cluster: Sequence[str]
    overall: Sequence[bool]
    confidence_N: np.ndarray
    correct_N: np.ndarray
    chance_N: np.ndarray


def calibrated(results: Sequence[TaskResult], scale: float, *, seed: int = 0) -> list[TaskResult]:
    """``NAME_calibration`` of each result that holds choices; results of other kinds give none.

    Args:
        scale: of the model whose results they are.
    """
    found = []
    for result in results:
        choices = _choices(result, scale)
        if choices is not None and len(choices.item):
            found.append(_calibration(f"{result.task}{END}", choices, scale, seed))
    return found


def confidence(scores_NK: np.ndarray, scale: float) -> np.ndarray:
    """``[N]`` the greatest share of the softmax of ``scale x scores`` over the K candidates; NaN candidates count as none.

    Example:
        >>> confidence(np.array([[0.5, 0.5], [1.0, 0.0]]), 1.0).round(4).tolist()
        [0.5, 0.7311]
    """
    logits = scale * np.asarray(scores_NK, dtype=np.float64)
    return 1.0 / np.nansum(np.exp(logits - np.nanmax(logits, axis=1, keepdims=True)), axis=1)


def _choices(result: TaskResult, scale: float) -> Choices | None:
    """The choices of a result's items, by the columns that they have."""
    columns = set(result.items.column_names)
    if {"confidence", "acc1_expected"} <= columns:
        return _classified(result)
    if {"s_true", "s_false", "accuracy"} <= columns:
        scores = np.stack([_column(result, "s_true"), _column(result, "s_false")], 1)
        return _of_scores(result, np.arange(len(scores)), scores, scale)
    if {"s00", "s01", "s10", "s11", "group_score"} <= columns and "pictures" not in columns:
        return _twins(result, np.arange(result.items.num_rows), scale)
    return _of_benchmark(result, scale) if {"pictures", "true", "false"} <= columns else None


def _classified(result: TaskResult) -> Choices:
    count = result.items.num_rows
    chance = next((f.chance for f in result.figures if f.name == "acc1"), None)
    return Choices(
        *_facts(result, np.arange(count)), _column(result, "confidence"), _column(result, "acc1_expected"),
        np.full(count, np.nan if chance is None else chance),
    )  # fmt: skip


def _of_scores(result: TaskResult, rows: np.ndarray, scores_NK: np.ndarray, scale: float, end: str = "") -> Choices:
    """Choices of ``rows`` of the items, the true candidate first."""
    item, group, cluster, overall = _facts(result, rows)
    correct = all_above(scores_NK[:, :1], scores_NK[:, 1:])[1]
    sure = confidence(scores_NK, scale)
    return Choices([f"{name}{end}" for name in item], group, cluster, overall, sure, correct, np.full(len(rows), 1 / scores_NK.shape[1]))


def _twins(result: TaskResult, rows: np.ndarray, scale: float) -> Choices:
    """Two pictures and two captions are four choices of two."""
    s = {name: _column(result, name)[rows] for name in ("s00", "s01", "s10", "s11")}
    ways = {"text0": ("s00", "s01"), "text1": ("s11", "s10"), "image0": ("s00", "s10"), "image1": ("s11", "s01")}
    return _joined([_of_scores(result, rows, np.stack([s[a], s[b]], 1), scale, f"|{way}") for way, (a, b) in ways.items()])


def _of_benchmark(result: TaskResult, scale: float) -> Choices | None:
    """Items with one true candidate, and pairs of pictures; what asks for more has no single choice."""
    sizes = [tuple(len(own) for own in row) for row in zip(*(result.items[c].to_pylist() for c in ("pictures", "true", "false")), strict=True)]
    parts = []
    for size in dict.fromkeys(sizes):
        rows = np.flatnonzero([own == size for own in sizes])
        pictures, true, false = size
        if size == (2, 2, 0):
            parts.append(_twins(result, rows, scale))
        elif (pictures == 1 and true == 1 and false) or (pictures > 1 and (true, false) == (1, 0)):
            names = [f"s0{t}" for t in range(1 + false)] if pictures == 1 else [f"s{i}0" for i in range(pictures)]
            parts.append(_of_scores(result, rows, np.stack([_column(result, name)[rows] for name in names], 1), scale))
    return _joined(parts) if parts else None


def _joined(parts: Sequence[Choices]) -> Choices:
    item, group, cluster, overall = ([one for part in parts for one in getattr(part, name)] for name in ("item", "group", "cluster", "overall"))
    sure, right, chance = (np.concatenate([getattr(part, name) for part in parts]) for name in ("confidence_N", "correct_N", "chance_N"))
    return Choices(item, group, cluster, overall, sure, right, chance)


def _facts(result: TaskResult, rows: np.ndarray) -> tuple[list[str], list[str], list[str], list[bool]]:
    """Ids, groups and pictures of some of the items, and whether they count in the figures without a group."""
    item, group, cluster = ([str(name) for name in result.items[column].take(rows).to_pylist()] for column in ("item", "group", "cluster"))
    return item, group, cluster, [bool(counts) for counts in result.items["overall"].take(rows).to_pylist()]


def _column(result: TaskResult, name: str) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in result.items[name].to_pylist()], dtype=np.float64)


def _calibration(task: str, choices: Choices, scale: float, seed: int) -> TaskResult:
    over = choices.confidence_N - choices.correct_N
    values = {"accuracy": choices.correct_N, "confidence": choices.confidence_N, "overconfidence": over}
    overall_N = np.array(choices.overall, dtype=bool)
    rows = Rows(choices.item, choices.group, choices.cluster, values, {"accuracy": choices.chance_N}, overall=overall_N)
    found = figures(rows, units={"overconfidence": "points"}, seed=seed)
    group_N = np.array(choices.group, dtype=object)
    parts = ({"": overall_N} if overall_N.any() else {}) | {name: group_N == name for name in dict.fromkeys(choices.group) if name}
    errors = [figure for name, here in parts.items() for figure in _errors(name, choices, here, seed)]
    order = {name: n for n, name in enumerate(parts)}
    together = sorted([*found, *errors], key=lambda figure: order[figure.name.rpartition("/")[0]])
    protocol = (
        f"{len(choices.item):,} choices, the confidence of each the greatest share of a softmax of {scale:.4g} times the scores over its candidates; "
        "ece: the mean gap between confidence and accuracy in 15 bins of equal width, ece_adaptive: in 15 bins of as equal numbers."
    )
    return TaskResult(task, protocol, tuple(together), table(rows))


def _errors(group: str, choices: Choices, here: np.ndarray, seed: int) -> list[Figure]:
    sure, right = choices.confidence_N[here], choices.correct_N[here]
    cluster = np.array(choices.cluster, dtype=object)[here].astype(str)
    found = []
    for name, bounds in (("ece", equal_width()), ("ece_adaptive", equal_mass(sure))):
        value = float(calibration_error(sure, right, bounds)[0])
        low, high = bootstrap_statistic(lambda draws, bounds=bounds: calibration_error(sure, right, bounds, draws), cluster, seed=seed)
        title = f"{group}/{name}" if group else name
        found.append(Figure(title, value, min(low, value), max(high, value), len(sure), note="no mean of items; less is better"))
    return found
