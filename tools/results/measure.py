"""Figures of a kept competition, with intervals over training seeds and pictures, as cells of tables and lines of charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

import pyarrow as pa

from results.store import START, Stored
from wholegrain.evaluation.result import TaskResult
from wholegrain.evaluation.statistics.compare import Mean, figure_items, mean_over_seeds

NAMES = {
    "start": "base", "clip_one_caption": "CLIP, one caption", "clip": "CLIP", "negclip": "NegCLIP", "ce_clip": "CE-CLIP", "sparc": "SPARC",
    "holistic": "Holistic", "wholegrain": "Wholegrain", "clip_grain": "CLIP + grain", "ce_clip_grain": "CE-CLIP + grain",
    "sparc_grain": "SPARC + grain", "wholegrain_whole": "Wholegrain, whole alone", "wholegrain_tagger_2": "Wholegrain, second tagger",
    "ce_clip_swaps": "CE-CLIP, swaps", "ce_clip_random": "CE-CLIP, random",
}  # fmt: skip


@dataclass(frozen=True)
class Measure:
    """One axis: what it is called, and the figure of a task that measures it.

    Attributes:
        own: figure that replaces it for some methods, whose own read-out or branch it is.
    """

    title: str
    task: str
    figure: str
    own: tuple[tuple[str, str], ...] = ()

    def of(self, method: str) -> str:
        """The figure's name for a method."""
        return dict(self.own).get(method, self.figure)


TO_PICTURE = Measure("caption to picture, R@1", "retrieval", "image_retrieval_recall@1")
TO_CAPTION = Measure("picture to caption, R@1", "retrieval", "text_retrieval_recall@1")
HARD_POSITIVES = Measure("hard positives", "hard_positives", "both_win")
POOLED = Measure("phrase on its own object, pooled read-out", "grounding", "hit_own")
TOKEN = Measure("phrase on its own object, noun's token", "grounding", "token/hit_own")


SUGARCREPE = Measure("SugarCrepe's items", "sugarcrepe", "accuracy")
POINTING = Measure("pointing, pooled read-out", "pointing", "hit")
POINTING_TOKEN = Measure("pointing, noun's token", "pointing_token", "hit")


def false_texts(origin: str) -> Measure:
    """A caption above a false text of one origin."""
    return Measure(f"false texts by {origin}", f"negatives_{origin}", "accuracy")


def with_grain(measure: Measure) -> Measure:
    """The same by the score of whole and grain."""
    return replace(measure, title=f"{measure.title}, with the grain", task=f"{measure.task}_grain")


OF_TOKENS = ("sparc", "wholegrain", "wholegrain_tagger_2")
"""Methods whose loss reads words by their tokens."""
OWN = Measure("phrase on its own object, own read-out", "grounding", "hit_own", tuple((method, "token/hit_own") for method in OF_TOKENS))


def _place(method: str) -> tuple[int, str]:
    """In the order of :data:`NAMES`, then by name."""
    return (list(NAMES).index(method) if method in NAMES else len(NAMES), method)


def twins(kind: str) -> Measure:
    """All four choices right, of a pair of pictures and captions that differ in one fact."""
    return Measure(kind.replace("_", " "), "composition", f"{kind}/group_score")


def role(name: str, branch: int | None = None) -> Measure:
    """Caption to picture R@1 of one role's captions: through the one vector, or Holistic's branch for the role."""
    own = () if branch is None else (("holistic", f"{name}/branch_{branch}_recall@1"),)
    return Measure(f"{name.replace('_', ' ')}, R@1", "branches", f"{name}/single_recall@1", own)


@dataclass(frozen=True, eq=False)
class Comparison:
    """A kept competition, asked by method, budget and measure.

    Attributes:
        step_seconds: processor seconds of a method's step (:mod:`results.costs`).
    """

    stored: Stored
    step_seconds: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def methods(self) -> list[str]:
        """Without the starting model."""
        return sorted({run.method for run in self.stored.runs if run.method != START}, key=_place)

    @cached_property
    def budgets(self) -> list[int]:
        """Steps, the fewest first."""
        return sorted({run.budget for run in self.stored.runs if run.method != START})

    @cached_property
    def seeds(self) -> list[int]:
        """Of training."""
        return sorted({run.seed for run in self.stored.runs if run.method != START})

    def results(self, method: str, budget: int, task: str) -> list[TaskResult]:
        """Of each seed."""
        at = 0 if method == START else budget
        runs = [run for run in self.stored.runs if (run.method, run.budget) == (method, at)]
        return [result for run in runs for result in run.results if result.task == task]

    @lru_cache(maxsize=4096)  # noqa: B019  (a comparison lives as long as the program)
    def mean(self, method: str, budget: int, measure: Measure, minus: str = "", at: int = 0) -> Mean | None:
        """A figure over seeds, or its paired difference from another method's; ``None`` where the method does not have it.

        Args:
            at: the other method's budget; by default the same.
        """
        found = self._values(method, budget, measure)
        other = self._values(minus, at or budget, measure) if minus else []
        if not found or (minus and not other):
            return None
        return mean_over_seeds(found, "value", other)

    @lru_cache(maxsize=4096)  # noqa: B019
    def _values(self, method: str, budget: int, measure: Measure) -> list[TaskResult]:
        """The items of one figure, each seed's, under a name that all methods share."""
        name = measure.of(method)
        group = name.rpartition("/")[0]
        found = []
        for result in self.results(method, budget, measure.task):
            if name in result.metrics:
                ids, clusters, values_N = figure_items(result, name)
                columns = {"item": [i.removeprefix(f"{group}|") for i in ids], "group": [""] * len(ids), "cluster": clusters}
                items = pa.table({**columns, "overall": [True] * len(ids), "value": values_N})
                found.append(TaskResult(result.task, result.protocol, (replace(result.figure(name), name="value"),), items))
        return found

    def chance(self, method: str, budget: int, measure: Measure) -> float | None:
        """What guessing scores."""
        return self.results(method, budget, measure.task)[0].figure(measure.of(method)).chance

    def steps_within(self, method: str, other: str, budget: int) -> int | None:
        """The largest budget of a method that takes no longer than so many steps of another one; ``None`` where its smallest takes longer."""
        most = budget * self.step_seconds[other] / self.step_seconds[method]
        return max((each for each in self.budgets if each <= most), default=None)


def cell(mean: Mean | None, difference: Mean | None = None) -> str:
    """Per cent; a star where the difference's interval leaves out zero."""
    if mean is None:
        return ""
    star = "*" if difference is not None and (difference.low > 0 or difference.high < 0) else ""
    return f"{100 * mean.value:.1f}{star}"


def interval(mean: Mean) -> str:
    """In points, signed: ``+5.1 (2.0 to 8.3)``."""
    return f"{100 * mean.value:+.1f} ({100 * mean.low:+.1f} to {100 * mean.high:+.1f})".replace("-", "−")


def rows(comparison: Comparison, measures: Sequence[Measure], methods: Sequence[str], budget: int, reference: str) -> list[list[str]]:
    """A table's body: a measure a row, a method a column; stars are differences from ``reference``."""
    body = []
    for measure in measures:
        cells = [
            cell(comparison.mean(method, budget, measure), None if method == reference else comparison.mean(method, budget, measure, reference))
            for method in methods
        ]
        chance = comparison.chance(reference, budget, measure)
        body.append([measure.title, *cells, "" if chance is None else f"{100 * chance:.1f}"])
    return body
