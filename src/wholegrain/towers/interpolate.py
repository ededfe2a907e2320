"""A model between two: every weight interpolated on a line from one to the other.

A fine-tuned model that gained on its data and lost elsewhere often keeps most of the gain, and loses little, half way back to where
it began (WiSE-FT: Wortsman et al., *Robust fine-tuning of zero-shot models*, CVPR 2022, arXiv 2109.01903). It costs nothing to
use: one model of the same size. It needs two models that were one once, such as a run and its start; between models that were trained
apart a line leads nowhere.
"""

from __future__ import annotations

import torch

from wholegrain.errors import UserError
from wholegrain.towers.model import Model


@torch.no_grad()
def interpolate(start: Model, end: Model, alpha: float) -> Model:
    """``(1 - alpha) * start + alpha * end``, weight by weight; changes and returns ``end``.

    The logarithm of the temperature is interpolated as it is stored, so the temperature is a geometric mean. Integer buffers are ``end``'s.

    Args:
        start, end: of the same architecture.
        alpha: 0 is ``start``, 1 is ``end``, both bit for bit; usually 0.5.

    Raises:
        UserError: alpha outside [0, 1], or a weight that only one of them has, or has in another shape.
    """
    if not 0 <= alpha <= 1:
        raise UserError(f"alpha is {alpha} and must be between 0 (the first model) and 1 (the second).")
    one, other = start.state_dict(), end.state_dict()
    odd = sorted(one.keys() ^ other.keys()) or sorted(name for name in one if one[name].shape != other[name].shape)
    if odd:
        raise UserError(
            f'The two models differ at "{odd[0]}", so there is nothing between them; give a model and one that was fine-tuned from it '
            "with the same head."
        )
    if start.preprocess != end.preprocess:
        raise UserError(
            "The two models see their pictures differently (size, crop or colours); give a model and its fine-tuned one."
        )
    for name, value in other.items():
        if value.is_floating_point():
            value.copy_(torch.lerp(one[name].to(value), value, alpha))
    return end
