"""What a check saw: the largest difference, where it was, and the numbers there."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Differences:
    """Collects comparisons; keeps the worst.

    Attributes:
        worst: the largest difference, relative to the larger of 1 and the expected tensor's largest absolute value; infinite for
            what is not finite, or has another shape, or is plainly wrong.
        where: what was compared there, with the numbers.
        count: how many comparisons there were.
        case: what is being tried, in words; a check sets it before it calls the loss, and it stands beside what is seen.
        notes: said of the loss, whatever the verdict.
        likely: where this failure comes from, if the check can tell better than its general remark; else empty.
    """

    def __init__(self) -> None:
        self.worst, self.where, self.count = 0.0, "", 0
        self.case, self.likely = "", ""
        self.notes: list[str] = []

    @property
    def in_case(self) -> str:
        """`` (one image)``, or nothing."""
        return f" ({self.case})" if self.case else ""

    def compare(self, what: str, got: Tensor, expected: Tensor) -> float:
        """Compares two tensors, and gives their difference."""
        if got.shape != expected.shape:
            self._add(math.inf, f"{what}{self.in_case}: shape {tuple(got.shape)} where {tuple(expected.shape)} is expected")
            return math.inf
        if got.numel() == 0:
            return 0.0
        got, expected = got.detach().double().flatten(), expected.detach().double().flatten()
        gap = (got - expected).abs()
        place = int(gap.nan_to_num(nan=math.inf).argmax())
        size = max(1.0, expected.abs().max().item()) if expected.isfinite().all() else 1.0
        difference = gap[place].item() / size
        difference = math.inf if math.isnan(difference) else difference
        self._add(difference, f"{what}{self.in_case}: {got[place].item():.6g} where {expected[place].item():.6g} is expected")
        return difference

    def finite(self, what: str, x: Tensor) -> None:
        """Asks for finite numbers."""
        bad = (~x.isfinite()).sum().item()
        first = f"{x[~x.isfinite()].flatten()[0].item()}" if bad else ""
        self._add(
            math.inf if bad else 0.0,
            f"{what}{self.in_case}: {first}" + (f" ({bad} of {x.numel()} numbers)" if x.numel() > 1 else ""),
        )

    def require(self, fine: bool, said: str) -> None:
        """Asks for a fact; ``said`` is what was seen instead."""
        self._add(0.0 if fine else math.inf, said + self.in_case)

    def _add(self, difference: float, where: str) -> None:
        self.count += 1
        if difference > self.worst:
            self.worst, self.where = difference, where


def tensor(x: float) -> Tensor:
    """A float64 scalar."""
    return torch.tensor(x, dtype=torch.float64)
