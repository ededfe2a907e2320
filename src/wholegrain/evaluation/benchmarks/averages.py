"""Averages over data sets that papers quote, by name. Each is a plain mean of the figure that is quoted for each set.

* ``elevater_20``: ELEVATER's image classification in the wild (Li et al., NeurIPS 2022, benchmark track); ``elevater_21`` adds ImageNet.
* ``vl_compo_21``: the column ``21_tasks_avg`` of vl_compo (Oh et al. 2024): the same 21.
* ``degla_11``: DeGLA (Hu et al. 2025, table 5), also the mean of its linear probes.

An average over some of its sets is another average, so one that lacks a set is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from wholegrain.errors import UserError
from wholegrain.evaluation.benchmarks.class_table import CLASS_TASKS
from wholegrain.evaluation.result import Figure, TaskResult
from wholegrain.evaluation.statistics.rows import Rows, table
from wholegrain.suggest import closest

ELEVATER = (
    "caltech101", "cifar10", "cifar100", "country211", "dtd", "eurosat", "fer2013", "fgvc_aircraft", "flowers", "food101", "gtsrb",
    "hateful_memes", "kitti", "mnist", "pets", "pcam", "renderedsst2", "resisc45", "cars", "voc2007",
)  # fmt: skip
AVERAGES: dict[str, tuple[str, ...]] = {
    "elevater_20": ELEVATER,
    "elevater_21": (*ELEVATER, "imagenet"),
    "vl_compo_21": (*ELEVATER, "imagenet"),
    "degla_11": (
        "cifar10", "cifar100", "food101", "pets", "flowers", "sun397", "cars", "dtd", "caltech101", "fgvc_aircraft", "imagenet",
    ),
}  # fmt: skip
"""name -> the sets."""


def check_average(name: str, sets: Sequence[str]) -> None:
    """Raises :class:`UserError` for an unknown average, or one that lacks sets, naming them."""
    if name not in AVERAGES:
        raise UserError(f"There is no average {name!r}; {closest(name, AVERAGES)}")
    missing = [one for one in AVERAGES[name] if one not in sets]
    if missing:
        raise UserError(
            f"The average {name} lacks {', '.join(missing)}: add --benchmark {missing[0]}=FOLDER and so on, or leave it out."
        )


def averaged(name: str, results: Sequence[TaskResult]) -> list[TaskResult]:
    """``average_NAME`` of the zero-shot results, and of the linear probes where all sets have one.

    The interval is that of independent sets: the root of the sum of the squares of their half-widths.

    Raises:
        UserError: when a set is missing.
    """
    by_task = {result.task: result for result in results}
    check_average(name, list(by_task))
    found = [_average(f"average_{name}", name, [by_task[one] for one in AVERAGES[name]])]
    probes = [by_task.get(f"{one}_linear_probe") for one in AVERAGES[name]]
    if all(probe is not None for probe in probes):
        found.append(_average(f"average_{name}_linear_probe", name, [probe for probe in probes if probe is not None]))
    return found


def _average(task: str, name: str, results: Sequence[TaskResult]) -> TaskResult:
    sets = AVERAGES[name]
    parts = [_quoted(one, result) for one, result in zip(sets, results, strict=True)]
    value = float(np.mean([part.value for part in parts]))
    below, above = (
        float(np.sqrt(np.sum([(part.value - end(part)) ** 2 for part in parts])) / len(parts))
        for end in (lambda p: p.low, lambda p: p.high)
    )
    chance, shuffled = (
        None if any(x is None for x in column) else float(np.mean([x for x in column if x is not None]))
        for column in ([part.chance for part in parts], [part.shuffled for part in parts])
    )
    count = sum(part.count for part in parts)
    overall = Figure("score", value, value - below, value + above, count, chance, shuffled, note=f"mean over {len(parts)} sets")
    each = [replace(part, name=f"{one}/{part.name}", note="") for one, part in zip(sets, parts, strict=True)]
    rows = Rows(list(sets), [""] * len(sets), list(sets), {"score": np.array([part.value for part in parts])})
    protocol = f"Plain mean over the {len(sets)} sets of {name}, of each the figure that papers quote: {_metrics(parts)}."
    return TaskResult(task, protocol, (overall, *each), table(rows))


def _quoted(one: str, result: TaskResult) -> Figure:
    metrics = (CLASS_TASKS[one].metric, "acc1")
    return next(result.figure(metric) for metric in metrics if metric in result.metrics)


def _metrics(parts: Sequence[Figure]) -> str:
    counts: dict[str, int] = {}
    for part in parts:
        counts[part.name] = counts.get(part.name, 0) + 1
    return ", ".join(f"{metric} ({count})" for metric, count in counts.items())
