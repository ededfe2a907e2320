"""The tokens of a picture that a decoder sees, out of an image tower's raw features."""

from __future__ import annotations

import torch
from torch import Tensor

from wholegrain.downstream.answering.settings import VisualTokens
from wholegrain.errors import UserError
from wholegrain.towers.base import RawImage


def visual_tokens(image: RawImage, chosen: VisualTokens) -> Tensor:
    """``[B, S, V]``: the chosen parts one behind the other.

    Raises:
        UserError: the tower does not give one of them.
    """
    given = {"patches": image.patches_BPV, "branches": image.classes_BHV, "pooled": image.pooled_BV[:, None]}
    lacking = next((part for part in chosen.parts if given[part] is None), None)
    if lacking is not None:
        advice = "choose a model with a Vision Transformer" if lacking == "patches" else "take it out of tokens.parts"
        raise UserError(f"The image tower gives no {lacking}; {advice}.")
    return torch.cat([part for name in chosen.parts if (part := given[name]) is not None], 1)


def needs_of(chosen: VisualTokens) -> frozenset[str]:
    """What is asked of the tower beside the pooled vector and branches."""
    return frozenset({"patches"}) & frozenset(chosen.parts)
