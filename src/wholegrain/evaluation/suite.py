"""All tasks in one call: runs what the data and the model can support, and says what it left out and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast

from rich.console import Console
from rich.status import Status

from wholegrain.errors import UserError
from wholegrain.evaluation.contract import EvaluatedData, EvaluatedModel, PatchModel
from wholegrain.evaluation.features.encode import Encoded, Progress, split_keys
from wholegrain.evaluation.features.split import encode_split
from wholegrain.evaluation.result import NotSupportedError, TaskResult
from wholegrain.evaluation.scores.similarity import Scorer
from wholegrain.evaluation.tasks.branches import branches
from wholegrain.evaluation.tasks.composition import composition, hard_positives, negatives
from wholegrain.evaluation.tasks.faithfulness import faithfulness
from wholegrain.evaluation.tasks.grounding import grounding
from wholegrain.evaluation.tasks.linear_probe import ProbeOptions, linear_probe
from wholegrain.evaluation.tasks.retrieval import DIAGONAL, RetrievalOptions, retrieval
from wholegrain.evaluation.tasks.zero_shot import zero_shot
from wholegrain.suggest import closest

Settings: TypeAlias = Mapping[str, Any]
"""What a task's function takes beside its subject, or the fields of its options; it is their affair what there is."""
SUITES = {
    "all": ("retrieval", "composition", "hard_positives", "negatives", "grounding", "branches", "zero_shot", "linear_probe"),
    "compositional": ("composition", "hard_positives", "negatives"),
    "classification": ("zero_shot", "linear_probe"),
    "faithfulness": ("faithfulness",),
    "retrieval_diagonal": ("retrieval_diagonal",),
}
"""Names that stand for several tasks; ``all`` are those that run unasked. A task that is not among these needs a suite of its own name, or
:func:`expand` does not know it."""


def expand(tasks: Sequence[str] | str) -> tuple[str, ...]:
    """Task names in the order given, suites replaced by their tasks; a string may hold several, separated by commas.

    Raises:
        UserError: for an unknown name.

    Example:
        >>> expand("compositional,retrieval")
        ('composition', 'hard_positives', 'negatives', 'retrieval')
    """
    names = [name.strip() for name in tasks.split(",")] if isinstance(tasks, str) else list(tasks)
    known = (*SUITES, *SUITES["all"])
    for name in names:
        if name not in known:
            raise UserError(f"There is no task or suite {name!r}; {closest(name, known)}")
    return tuple(dict.fromkeys(task for name in names for task in SUITES.get(name, (name,))))


@dataclass(frozen=True)
class EvaluationOptions:
    """How all tasks are done.

    Attributes:
        seed: of resamples, permutations and draws; same seed, same result.
        batch: images per step; texts take four times as many.
        cache: a folder for features; see :func:`~wholegrain.evaluation.features.split.encode_split`.
        progress: show what is being done, and say on standard error which task was left out and why, unless ``left_out`` takes it.
    """

    seed: int = 0
    batch: int = 64
    cache: str | Path | None = None
    progress: bool = True


def evaluate(
    model: EvaluatedModel,
    dataset: EvaluatedData,
    options: EvaluationOptions = EvaluationOptions(),
    *,
    split: str = "test",
    tasks: Sequence[str] | str = "all",
    settings: Mapping[str, Settings] | None = None,
    left_out: dict[str, str] | None = None,
    features: dict[str, Encoded] | None = None,
) -> list[TaskResult]:
    """Evaluates a model on a split.

    Args:
        model, dataset: see :mod:`wholegrain.evaluation.contract`.
        tasks: names of tasks or of :data:`SUITES`, a sequence or one string with commas.
        settings: task -> what its function takes beside, or the fields of its options, e.g. ``{"retrieval": {"one_caption": True}}``.
        left_out: is filled with task -> reason, for the caller to tell.
        features: split -> its features: those in it are not made again, and those that a task made are put there.

    Raises:
        UserError: for an unknown task or split, or when no task at all can be done.
    """
    names, settings = expand(tasks), settings or {}
    split_keys(dataset, split)
    stray = sorted(set(settings) - set(names))
    if stray:
        raise UserError(
            f"There are settings for {', '.join(stray)}, which is not among the tasks {', '.join(names)}; add it or drop them."
        )
    console = Console(stderr=True)
    subject = Subject(model, dataset, split, options)
    if features is not None and split in features:
        subject.encoded = features[split]
    results, reasons = [], {} if left_out is None else left_out
    for name in names:
        with console.status(f"{name} …") if options.progress else nullcontext() as status:
            subject.show = partial(_show, status, name)
            try:
                results.append(TASKS[name](subject, settings.get(name, {})))
            except NotSupportedError as reason:
                reasons[name] = str(reason)
                if options.progress and left_out is None:
                    console.print(f"left out: {name}. {reason}", highlight=False, markup=False, soft_wrap=True)
    if features is not None and subject.known is not None:
        features[split] = subject.known
    if not results:
        problems = [f"{name}: {reason}" for name, reason in reasons.items()]
        others = f" (likewise {', '.join(list(reasons)[2:])})" if len(problems) > 2 else ""
        raise UserError("No task could be done: " + " ".join(problems[:2]) + others)
    return results


def _show(status: Status | None, task: str, what: str, done: int, total: int) -> None:
    if status is not None:
        status.update(f"{task}: {done:,} of {total:,} {what}")


@dataclass
class Subject:
    """What is evaluated, and the split's features, which are made when the first task asks for them.

    Attributes:
        show: is called as features are made.
    """

    model: EvaluatedModel
    dataset: EvaluatedData
    split: str
    options: EvaluationOptions
    show: Progress = lambda what, done, total: None

    @cached_property
    def encoded(self) -> Encoded:
        """Features of the split."""
        options = self.options
        return encode_split(self.model, self.dataset, self.split, batch=options.batch, cache=options.cache, progress=self.show)

    @property
    def known(self) -> Encoded | None:
        """Features of the split if a task has made them; no task makes them only for the sake of another."""
        return self.__dict__.get("encoded")


class Task(Protocol):
    """A task on a subject. Raises :class:`NotSupportedError` where the data or the model lack what it needs."""

    def __call__(self, subject: Subject, settings: Settings, /) -> TaskResult: ...


def _retrieval(subject: Subject, settings: Settings) -> TaskResult:
    return _retrieved(subject, RetrievalOptions(**settings))


def _retrieval_diagonal(subject: Subject, settings: Settings) -> TaskResult:
    return replace(_retrieved(subject, replace(DIAGONAL, **settings)), task="retrieval_diagonal")


def _retrieved(subject: Subject, options: RetrievalOptions) -> TaskResult:
    if len(split_keys(subject.dataset, subject.split)) < 2:
        raise NotSupportedError(
            f"The split {subject.split!r} has a single image, so there is nothing to choose from; choose another split."
        )
    return retrieval(subject.encoded, options, truths=subject.dataset.truths, model=subject.model, seed=subject.options.seed)


def _branches(subject: Subject, settings: Settings) -> TaskResult:
    encoded = subject.encoded
    if len(set(encoded.role_N)) < 2 and Scorer(encoded.image, encoded.text).branches < 2:
        raise NotSupportedError(
            "The captions have one role and the model has one vector per image, so the table would repeat retrieval."
        )
    return branches(encoded, truths=subject.dataset.truths, model=subject.model, seed=subject.options.seed, **settings)


def _faithfulness(subject: Subject, settings: Settings) -> TaskResult:
    return faithfulness(subject.encoded, model=subject.model, seed=subject.options.seed, **settings)


def _grounding(subject: Subject, settings: Settings) -> TaskResult:
    model = cast("PatchModel", subject.model)  # one that is none is refused before its preprocessing is asked
    return grounding(model, subject.dataset, subject.split, seed=subject.options.seed, batch=subject.options.batch, **settings)


def _linear_probe(subject: Subject, settings: Settings) -> TaskResult:
    return _with_known(linear_probe)(subject, {"options": ProbeOptions(**settings)})


def _with_known(task: Callable[..., TaskResult]) -> Task:
    """A task that encodes what it needs and is not there yet."""

    def run(subject: Subject, settings: Settings, /) -> TaskResult:
        common = {"known": subject.known, "seed": subject.options.seed, "batch": subject.options.batch}
        return task(subject.model, subject.dataset, subject.split, **common, **settings)

    return run


TASKS: dict[str, Task] = {
    "retrieval": _retrieval,
    "retrieval_diagonal": _retrieval_diagonal,
    "composition": _with_known(composition),
    "hard_positives": _with_known(hard_positives),
    "negatives": _with_known(negatives),
    "grounding": _grounding,
    "branches": _branches,
    "zero_shot": _with_known(zero_shot),
    "linear_probe": _linear_probe,
    "faithfulness": _faithfulness,
}
"""Name -> task. They are done in the order in which they are asked for."""
