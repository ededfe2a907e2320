"""Log-odds of listed pairs, made by a head that reads image and text together (``ImageFeatures.match``).

A fusion model cannot score every image with every text of a batch: a loss lists the pairs that it wants. They are scored here in
runs whose copied patches and tokens hold at most ``CELLS`` numbers; if there are several runs, each is recomputed in the backward pass.
The network runs in the precision of training (autocast is left as it is); what comes out is float32 at least.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.core.contract import at_least_float32
from wholegrain.losses.core.typed_torch import checkpoint

CELLS = 2**26  # float32 numbers of one run's inputs: 256 MB

NEEDED = frozenset({"match", "patches", "tokens"})


def log_odds(image: ImageFeatures, text: TextFeatures, image_M: Tensor, text_M: Tensor) -> Tensor:
    """Log-odds ``[M]`` that image ``image_M[m]`` and text ``text_M[m]`` belong together, in float32 at least.

    Raises:
        ValueError: the features lack ``match``, patches or tokens.
    """
    match, patches, tokens = image.match, image.patches_BPD, text.tokens_NLD
    if match is None or patches is None or tokens is None or text.mask_NL is None:
        raise ValueError('scores of pairs need match, patches and tokens; set model.head to "fusion"')
    image_parts = ImageFeatures(image.pooled_BD, patches_BPD=patches, grid=image.grid, learned=image.learned, match=match)
    text_parts = TextFeatures(text.pooled_ND, tokens, text.mask_NL)

    def score(images: Tensor, texts: Tensor) -> Tensor:
        return at_least_float32(match(image_parts.select(images), text_parts.select(texts)))

    per_pair = patches[:1].numel() + tokens[:1].numel()
    step = max(1, CELLS // max(per_pair, 1))
    if len(image_M) <= step:
        return score(image_M, text_M)
    runs = zip(torch.split(image_M, step), torch.split(text_M, step), strict=True)
    scores = [checkpoint(score, i, n, use_reentrant=False, preserve_rng_state=False) for i, n in runs]
    return torch.cat(scores)


def own_log_odds(image: ImageFeatures, text: TextFeatures, pairing: Pairing) -> Tensor:
    """Log-odds ``[N]`` of every text, true or false, with its own image."""
    return log_odds(image, text, pairing.owner_N, torch.arange(len(pairing.owner_N), device=pairing.owner_N.device))
