"""Which branch of a multi-branch model retrieves best, on development data."""

from __future__ import annotations

from dataclasses import dataclass

from wholegrain.evaluation.contract import EvaluatedData, EvaluatedModel
from wholegrain.evaluation.features.split import encode_split
from wholegrain.evaluation.scores.branch_inference import SELECTOR, BranchInference, branch_count
from wholegrain.evaluation.scores.similarity import Scorer
from wholegrain.evaluation.tasks.retrieval import count_ranks, true_pairs


@dataclass(frozen=True)
class ChosenBranch:
    """What :func:`choose_branch` found.

    Attributes:
        branch: the best, from 0.
        tried: branch by branch the mean of recall@1 in both directions, 0..1.
    """

    branch: int
    tried: tuple[float, ...]

    @property
    def how(self) -> str:
        """As :class:`~wholegrain.evaluation.scores.branch_inference.BranchInference` takes it."""
        return f"{SELECTOR}:{self.branch}"


def choose_branch(model: EvaluatedModel, dataset: EvaluatedData, split: str = "val", *, batch: int = 64) -> ChosenBranch:
    """The branch with the best retrieval on development data, of equals the first.

    Args:
        split: which the figures are reported on must be another one.
        batch: images per step.

    Raises:
        UserError: no such split, or a model without branches.
    """
    selectors = [BranchInference(model, f"{SELECTOR}:{h}") for h in range(branch_count(model))]
    encoded = encode_split(model, dataset, split, batch=batch)
    pairs, tried = true_pairs(encoded, dataset.truths), []
    for selector in selectors:
        ranks = count_ranks(Scorer(encoded.image, encoded.text, selector), *pairs)
        tried.append(sum(float(one.strict(1)[one.answerable].mean()) for one in ranks) / 2)
    return ChosenBranch(tried.index(max(tried)), tuple(tried))
