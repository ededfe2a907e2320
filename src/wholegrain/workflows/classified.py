"""Which of some labels a picture gets: probabilities, the most probable label, and none where it is not probable enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from wholegrain.errors import UserError


class Classified(NamedTuple):
    """What pictures are taken for.

    Attributes:
        labels: ``[N]``; ``None`` where no label is as probable as was asked for.
        probabilities: float32 ``[N, C]``, rows sum to 1, columns in the order of the labels that were given.
    """

    labels: list[str | None]
    probabilities: np.ndarray


def check_labels(labels: Sequence[str]) -> list[str]:
    """The labels as a list.

    Raises:
        UserError: one is empty or no text, one comes twice, or there are fewer than two.
    """
    if isinstance(labels, str) or not all(isinstance(label, str) and label.strip() for label in labels):
        raise UserError('Labels must be a list of texts that are not empty, such as ["cat", "dog"].')
    twice = next((label for label, count in Counter(labels).items() if count > 1), None)
    if twice is not None:
        raise UserError(f"The label {twice!r} comes twice; give each once.")
    if len(labels) < 2:
        raise UserError(f"There {'is 1 label' if labels else 'are no labels'} to choose from; give two or more.")
    return list(labels)


def chosen(probability_NC: np.ndarray, labels: Sequence[str], abstain_below: float | None = None) -> list[str | None]:
    """The most probable label of each row, the first of equal ones; ``None`` where it is less probable than ``abstain_below``.

    Example:
        >>> chosen(np.array([[0.2, 0.8], [0.5, 0.5]]), ["cat", "dog"], 0.6)
        ['dog', None]
    """
    if abstain_below is not None and not 0 <= abstain_below <= 1:
        raise UserError(f"abstain_below is {abstain_below}; it must be a probability from 0 to 1.")
    best_N = probability_NC.argmax(1) if len(probability_NC) else []
    least = 0.0 if abstain_below is None else abstain_below
    return [labels[int(c)] if row[c] >= least else None for row, c in zip(probability_NC, best_N, strict=True)]
