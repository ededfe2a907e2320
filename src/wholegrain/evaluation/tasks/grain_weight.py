"""The weight of the grain, and the temperature of its attention, by retrieval on development data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wholegrain.data.batch import Phrases
from wholegrain.evaluation.contract import EvaluatedData, EvaluatedModel
from wholegrain.evaluation.features.encode import default_needs
from wholegrain.evaluation.features.split import encode_split
from wholegrain.evaluation.scores.whole_and_grain import WholeAndGrain
from wholegrain.evaluation.tasks.retrieval import RetrievalOptions, retrieval

WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
TEMPERATURES = (0.02, 0.05, 0.1, 0.2)


@dataclass(frozen=True)
class ChosenGrain:
    """What :func:`choose_grain` found.

    Attributes:
        weight, temperature: the best.
        tried: (weight, temperature) -> mean of recall@1 in both directions, 0..1.
    """

    weight: float
    temperature: float
    tried: dict[tuple[float, float], float]

    @property
    def whole(self) -> float:
        """What the whole alone reaches, the weight 0; NaN if that was not tried."""
        return next((value for (weight, _), value in self.tried.items() if weight == 0), float("nan"))


def choose_grain(
    model: EvaluatedModel,
    dataset: EvaluatedData,
    split: str = "val",
    *,
    weights: Sequence[float] = WEIGHTS,
    temperatures: Sequence[float] = TEMPERATURES,
    phrases: Phrases | None = None,
    batch: int = 64,
) -> ChosenGrain:
    """Weight and temperature with the best retrieval on development data; ties go to the smaller weight.

    Args:
        split: which the figures are reported on must be another one.
        batch: images per step.

    Raises:
        UserError: no such split, or a model without patches.
    """
    wrapped = WholeAndGrain(model, 1.0, phrases=phrases)
    encoded = encode_split(wrapped, dataset, split, needs=default_needs(wrapped), batch=batch)
    tried = {}
    for weight, temperature in [(w, t) for w in sorted(weights) for t in (temperatures if w else temperatures[:1])]:
        scorer = WholeAndGrain(model, weight, temperature, wrapped.phrases_of)
        found = retrieval(encoded, RetrievalOptions(by_role=False), truths=dataset.truths, model=scorer)
        both = [found.figure(f"{side}_retrieval_recall@1").value for side in ("image", "text")]
        tried[weight, temperature] = sum(both) / 2
    weight, temperature = max(tried, key=lambda setting: tried[setting])  # the first of equals
    return ChosenGrain(weight, temperature, tried)
