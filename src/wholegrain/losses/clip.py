"""CLIP's symmetric contrastive loss, for any number of captions per image.

Every true text n makes the pair (its image i, n). With s the learned scale (inverse temperature) and S = s cos::

    loss = mean over all pairs of the global batch of
           1/2 [ CE(i: n against texts of other images) + CE(n: i against other images) ]

With one caption an image and no duplicates this is CLIP exactly (Radford et al. 2021, arXiv 2103.00020, section 2.3, figure 3;
the global term of SPARC, arXiv 2401.09865, eq. 1).

Differences. Several captions of one image are each a pair of their own ("one to many"); the image's other captions are neither
positive nor negative, where released code (OpenCLIP and its forks) makes them negatives when they happen to share a batch. Hard
negatives in the list of texts are not seen. With an image of several branches ``pooled_BD`` is used. The scale is not capped
here; the model caps it at 100.

Duplicates: ignored (``duplicates="ignore"``); ``"negative"`` is what released code does.
Cost: per process four products of B_local x N x D multiply-adds, one of them forward (three if the scores are few enough to keep);
memory for a few tiles of scores and the vectors (``losses/core/tiled_softmax.py``); sends each text's vector once.

Example:
    >>> import torch
    >>> from wholegrain.features import ImageFeatures, Pairing, TextFeatures
    >>> same = torch.ones(4, 8)
    >>> loss = ClipLoss()(ImageFeatures(same), TextFeatures(same), Pairing.one_to_one(4), torch.tensor(10.0))
    >>> round(loss.value.exp().item(), 4)    # four candidates that cannot be told apart
    4.0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.distributed as dist
from torch import Tensor

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.core.contract import LossOutput, Ranges, State, full_precision
from wholegrain.losses.core.contrastive import pooled_softmax
from wholegrain.losses.core.known_true import Duplicates


@dataclass(frozen=True)
class ClipLoss:
    """Symmetric softmax over the global batch.

    Attributes:
        duplicates: ``"ignore"`` leaves known true pairs out of the denominators; ``"negative"`` keeps them in.
        label_smoothing: 0..1, spread evenly over a query's candidates.
        temperature: fixed, in cosines, above 0 (MGCA: 0.07, GLoRIA: 0.1); ``None`` is the model's, which is learned.
    """

    duplicates: Duplicates = "ignore"
    label_smoothing: float = 0.0
    temperature: float | None = None
    needs: ClassVar[frozenset[str]] = frozenset()
    ranges: ClassVar[Ranges] = {"label_smoothing": (0, 1), "temperature": (1e-12, 1e3)}

    def __post_init__(self) -> None:
        if self.temperature is not None and self.temperature <= 0:
            raise ValueError(f"temperature = {self.temperature} is not allowed; it must be above 0")

    @full_precision
    def __call__(
        self,
        image: ImageFeatures,
        text: TextFeatures,
        pairing: Pairing,
        scale: Tensor,
        bias: Tensor | None = None,
        state: State | None = None,
        *,
        group: dist.ProcessGroup | None = None,
    ) -> LossOutput:
        if self.temperature is not None:
            scale = 0 * scale + 1 / self.temperature  # a gradient of zero, since DDP waits for every parameter's
        return pooled_softmax(
            image.pooled_BD,
            text.pooled_ND,
            pairing,
            scale,
            group=group,
            duplicates=self.duplicates,
            smoothing=self.label_smoothing,
        )
