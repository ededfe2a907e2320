"""What a report compares: a name, the results behind it, and where there are any the model and the folder of its run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NotRequired, TypeAlias, TypedDict

from wholegrain.errors import UserError
from wholegrain.evaluation.features.encode import Encoded
from wholegrain.evaluation.result import Figure, TaskResult
from wholegrain.files import parse_json, read_json, read_text, read_toml
from wholegrain.structure import JsonTable, StructureError, structure

Card: TypeAlias = JsonTable
"""What a template shows of one thing; the template says which keys there are."""


@dataclass
class Entry:
    """One row of the comparison.

    Attributes:
        name: as it is printed; unique in a report.
        run: the folder of the run that made the model, for curves and provenance; ``None`` without one.
        model: the model, or a spec for :func:`wholegrain.towers.load_model`, or ``None``; without a model there are no heat maps,
            no nearest captions and no retrieved pictures.
        results: what :func:`wholegrain.evaluation.suite.evaluate` gave, or :func:`wholegrain.evaluation.result.load_results`.
        left_out: task -> why it was not done.
        features: of the split that is reported on, so that they are not made again.
    """

    name: str
    run: Path | None
    model: Any
    results: Sequence[TaskResult]
    left_out: Mapping[str, str] = field(default_factory=dict)
    features: Encoded | None = None

    def result(self, task: str) -> TaskResult | None:
        """The result of a task, ``None`` if it was not done."""
        return next((result for result in self.results if result.task == task), None)

    def figure(self, task: str, name: str) -> Figure | None:
        """A figure of a task, ``None`` if there is none."""
        result = self.result(task)
        return None if result is None else next((f for f in result.figures if f.name == name), None)

    @cached_property
    def loaded(self) -> Any:
        """The model, loaded when it is first asked for; ``None`` if the entry has none."""
        if not isinstance(self.model, str | Path):
            return self.model
        from wholegrain.towers import load_model

        return load_model(self.model)

    @cached_property
    def history(self) -> History:
        """What the run's folder tells; empty without a run."""
        return read_history(self.run)


@dataclass(frozen=True)
class History:
    """What a run's folder tells of the training.

    Attributes:
        facts: ``run.json``.
        recipe: ``recipe.toml``, read.
        recipe_text: the same, as it stands in the file.
        steps: one dict per step of ``metrics.jsonl``: step, loss, loss/PART, lr, images_per_s, …
        evaluations: (step, numbers) of the evaluations on the way.
    """

    facts: JsonTable = field(default_factory=dict)
    recipe: JsonTable = field(default_factory=dict)
    recipe_text: str = ""
    steps: Sequence[Mapping[str, float]] = ()
    evaluations: Sequence[tuple[int, Mapping[str, float]]] = ()

    @property
    def batch(self) -> int | None:
        """Images per step."""
        return self.recipe.get("optimiser", {}).get("batch")

    @property
    def step_count(self) -> int:
        """Steps taken."""
        return int(self.steps[-1]["step"]) + 1 if self.steps else 0

    @property
    def images(self) -> int | None:
        """Images seen, the repeated ones counted again."""
        return self.batch * self.step_count if self.batch and self.steps else None

    @property
    def seed(self) -> int | None:
        """The run's seed."""
        return self.facts.get("seed")


def read_history(run: Path | None) -> History:
    """Reads ``run.json``, ``recipe.toml`` and ``metrics.jsonl``; what is missing or cut is empty, since a report is no judge of runs."""
    if run is None:
        return History()
    recipe_text = _text(run / "recipe.toml")
    steps, evaluations = [], []
    for line in _text(run / "metrics.jsonl").splitlines():
        try:
            row = parse_json(line, _Row)
        except StructureError:
            continue  # a run that was killed may have cut its last line
        if "evaluation" in row:
            evaluations.append((row["step"] + 1, _numbers(row["evaluation"])))
        else:
            steps.append(_numbers(row))
    facts = _read(lambda: read_json(run / "run.json", _Facts, _AGAIN))
    recipe = _read(lambda: structure(read_toml(run / "recipe.toml", _AGAIN), _Recipe))
    return History(facts, recipe, recipe_text if recipe else "", steps, evaluations)


_AGAIN = "train again"


class _Row(TypedDict):
    """A line of ``metrics.jsonl``."""

    step: int
    evaluation: NotRequired[dict[str, object]]


class _Facts(TypedDict):
    """What is read of ``run.json``."""

    seed: NotRequired[int | None]
    data_hash: NotRequired[str]
    versions: NotRequired[dict[str, str]]


class _Saving(TypedDict):
    metric: NotRequired[str]


class _Optimiser(TypedDict):
    batch: NotRequired[int]


class _Recipe(TypedDict):
    """What is read of ``recipe.toml``."""

    optimiser: NotRequired[_Optimiser]
    saving: NotRequired[_Saving]
    paper: NotRequired[str]


def _numbers(row: Mapping[str, object]) -> dict[str, float]:
    """The values that are numbers, as far as a computer's reach."""
    return {
        name: value
        for name, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and not abs(value) > 1e300
    }


def _read(read: Callable[[], Mapping[str, object]]) -> JsonTable:
    try:
        return dict(read())
    except (UserError, StructureError):
        return {}


def _text(path: Path) -> str:
    try:
        return read_text(path, _AGAIN)
    except UserError:
        return ""
