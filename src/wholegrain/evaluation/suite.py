"""All tasks in one call: runs what the data and the model can support, and says what it left out and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console

from wholegrain.errors import UserError
from wholegrain.evaluation.features.encode import Encoded, encode_split, split_keys
from wholegrain.evaluation.result import NotSupportedError, TaskResult
from wholegrain.evaluation.scores.similarity import Scorer
from wholegrain.evaluation.tasks.branches import branches
from wholegrain.evaluation.tasks.composition import composition, hard_positives, negatives
from wholegrain.evaluation.tasks.faithfulness import faithfulness
from wholegrain.evaluation.tasks.grounding import grounding
from wholegrain.evaluation.tasks.linear_probe import linear_probe
from wholegrain.evaluation.tasks.retrieval import retrieval
from wholegrain.evaluation.tasks.zero_shot import zero_shot
from wholegrain.suggest import closest

SUITES = {
    "all": ("retrieval", "composition", "hard_positives", "negatives", "grounding", "branches", "zero_shot", "linear_probe"),
    "compositional": ("composition", "hard_positives", "negatives"),
    "dense": ("grounding",),
    "classification": ("zero_shot", "linear_probe"),
    "faithfulness": ("faithfulness",),
}
"""Names that stand for several tasks; ``all`` are those that run unasked."""


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


def evaluate(
    model: Any,
    dataset: Any,
    *,
    split: str = "test",
    tasks: Sequence[str] | str = "all",
    seed: int = 0,
    progress: bool = True,
    batch: int = 64,
    cache: str | Path | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    left_out: dict[str, str] | None = None,
    features: dict[str, Encoded] | None = None,
) -> list[TaskResult]:
    """Evaluates a model on a split.

    Args:
        model, dataset: see ``docs/architecture.md``.
        tasks: names of tasks or of :data:`SUITES`, a sequence or one string with commas.
        seed: of resamples, permutations and draws; same seed, same result.
        progress: show what is being done, and say on standard error which task was left out and why, unless ``left_out`` takes it.
        cache: a folder for features; see :func:`~wholegrain.evaluation.features.encode.encode_split`.
        settings: task -> further arguments of its function, e.g. ``{"retrieval": {"one_caption": True}}``.
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
    room = _Room(model, dataset, split, seed, batch, cache)
    known = (features or {}).get(split)
    if known is not None:
        room.encoded = known
    results, reasons = [], {} if left_out is None else left_out
    for name in names:
        with console.status(f"{name} …") if progress else nullcontext() as status:
            room.say = (lambda text, status=status, name=name: status.update(f"{name}: {text}")) if status is not None else None
            try:
                results.append(getattr(room, name)(dict(settings.get(name, {}))))
            except NotSupportedError as reason:
                reasons[name] = str(reason)
                if progress and left_out is None:
                    console.print(f"left out: {name}. {reason}", highlight=False, markup=False, soft_wrap=True)
    if features is not None and "encoded" in vars(room):
        features[split] = room.encoded
    if not results:
        said = [f"{name}: {reason}" for name, reason in reasons.items()]
        others = f" (likewise {', '.join(list(reasons)[2:])})" if len(said) > 2 else ""
        raise UserError("No task could be done: " + " ".join(said[:2]) + others)
    return results


class _Room:
    """What the tasks share: the split's features, made when the first task asks for them; one method per task."""

    def __init__(self, model: Any, dataset: Any, split: str, seed: int, batch: int, cache: str | Path | None) -> None:
        self.model, self.dataset, self.split, self.seed, self.batch, self.cache = model, dataset, split, seed, batch, cache
        self.say: Callable[[str], None] | None = None

    @cached_property
    def encoded(self) -> Encoded:
        def show(what: str, done: int, total: int) -> None:
            if self.say is not None:
                self.say(f"{done:,} of {total:,} {what}")

        return encode_split(self.model, self.dataset, self.split, batch=self.batch, cache=self.cache, progress=show)

    @property
    def _known(self) -> Encoded | None:
        """Features of the split if a task has made them; no task makes them only for the sake of another."""
        return self.__dict__.get("encoded")

    def _on_data(self, task: Callable[..., TaskResult], settings: dict[str, Any], **more: Any) -> TaskResult:
        return task(self.model, self.dataset, self.split, **{"seed": self.seed, "batch": self.batch, **more, **settings})

    def retrieval(self, settings: dict[str, Any]) -> TaskResult:
        if len(split_keys(self.dataset, self.split)) < 2:
            raise NotSupportedError(
                f"The split {self.split!r} has a single image, so there is nothing to choose from; choose another split."
            )
        more = {"truths": self.dataset.truths, "model": self.model, "seed": self.seed}
        return retrieval(self.encoded, **{**more, **settings})

    def composition(self, settings: dict[str, Any]) -> TaskResult:
        return self._on_data(composition, settings, known=self._known)

    def hard_positives(self, settings: dict[str, Any]) -> TaskResult:
        return self._on_data(hard_positives, settings, known=self._known)

    def negatives(self, settings: dict[str, Any]) -> TaskResult:
        return self._on_data(negatives, settings, known=self._known)

    def grounding(self, settings: dict[str, Any]) -> TaskResult:
        return self._on_data(grounding, settings)

    def branches(self, settings: dict[str, Any]) -> TaskResult:
        encoded = self.encoded
        if len(set(encoded.role_N)) < 2 and Scorer(encoded.image, encoded.text).branches < 2:
            raise NotSupportedError(
                "The captions have one role and the model has one vector per image, so the table would repeat retrieval."
            )
        return branches(encoded, **{"truths": self.dataset.truths, "model": self.model, "seed": self.seed, **settings})

    def faithfulness(self, settings: dict[str, Any]) -> TaskResult:
        return faithfulness(self.encoded, **{"model": self.model, "seed": self.seed, **settings})

    def zero_shot(self, settings: dict[str, Any]) -> TaskResult:
        return self._on_data(zero_shot, settings, known=self._known)

    def linear_probe(self, settings: dict[str, Any]) -> TaskResult:
        return self._on_data(linear_probe, settings, known=self._known)
