"""The learning rate of every step, as a function of the step's number and of how many there are.

``wsd`` (warm-up, stable, decay: Hu et al., *MiniCPM*, COLM 2024, arXiv 2404.06395, section 4) does not depend on the number of steps until the
rate falls, so runs of different lengths have their first steps in common, weight by weight. The fall is one minus a root, the best
of those that Hägele et al. compare (*Scaling laws and compute-optimal training beyond fixed training durations*, NeurIPS 2024,
arXiv 2405.18392, section 3); MiniCPM's own is exponential.
"""

from __future__ import annotations

import math

from wholegrain.objectives.schema import Optimiser


def learning_rate(step: int, total: int, settings: Optimiser) -> float:
    """The rate of step 0..total-1: linear warm-up (for half of all steps at most), then cosine to zero, constant, or stable and decay.

    Example:
        >>> [round(learning_rate(s, 8, Optimiser(lr=1.0, warmup_steps=2)), 3) for s in range(8)]
        [0.5, 1.0, 1.0, 0.933, 0.75, 0.5, 0.25, 0.067]
        >>> wsd = Optimiser(lr=1.0, warmup_steps=2, schedule="wsd", decay_share=0.5)
        >>> [round(learning_rate(s, 8, wsd), 3) for s in range(8)]
        [0.5, 1.0, 1.0, 1.0, 1.0, 0.5, 0.293, 0.134]
    """
    warmup = warmup_steps(total, settings)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    if settings.schedule == "constant":
        return settings.lr
    if settings.schedule == "wsd":
        start = decay_start(total, settings)
        return settings.lr * (1 - math.sqrt(max(0, step - start) / (total - start)))
    return settings.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def decay_start(total: int, settings: Optimiser) -> int:
    """The step with which the rate of ``wsd`` begins to fall: ``decay_share`` of all steps are left, one at least.

    All steps before it are those of any longer run of the same settings whose warm-up is as long.

    Example:
        >>> decay_start(300, Optimiser(schedule="wsd", warmup_steps=50, decay_share=0.2))
        240
    """
    return max(warmup_steps(total, settings), total - max(1, round(settings.decay_share * total)))


def warmup_steps(total: int, settings: Optimiser) -> int:
    """Steps of the warm-up, in so many steps: half of them at most."""
    return min(settings.warmup_steps, total // 2)
