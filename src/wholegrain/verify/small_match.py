"""A very small network that reads image and text together, for trying losses that use ``ImageFeatures.match``.

Every token attends to the patches; what it finds is compared with the token, and the mean over tokens is shifted::

    a[l,p] = softmax over p of (t[l] M v[p] / D),    z = mean over l of sum_p a[l,p] (t[l] M v[p] / D) + m

``M`` and ``m`` are ``learned["match_DD"]`` and ``learned["match_1"]``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wholegrain.features import ImageFeatures, TextFeatures
from wholegrain.losses.core.contract import at_least_float32


def small_match(image: ImageFeatures, text: TextFeatures) -> Tensor:
    """Log-odds ``[M]``."""
    assert image.patches_BPD is not None
    assert text.tokens_NLD is not None
    assert text.mask_NL is not None
    with torch.autocast(image.pooled_BD.device.type, enabled=False):
        mask, kind = text.mask_NL, at_least_float32(image.patches_BPD)
        tokens = torch.where(mask[..., None], at_least_float32(text.tokens_NLD), 0.0)
        product = tokens @ at_least_float32(image.learned["match_DD"]) @ kind.mT / kind.shape[-1]
        found = (product.softmax(-1) * product).sum(-1)
        mean = (found * mask).sum(1) / mask.sum(1).clamp_min(1)
        return mean + at_least_float32(image.learned["match_1"])[0]
