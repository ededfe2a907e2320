"""SigLIP's sigmoid loss: every (image, text) cell of the batch is its own yes-or-no question.

::

    loss = -(1/B) sum_{images i} sum_{texts m} log sigmoid( z(i,m) (s cos(v_i, t_m) + b) ),   z = 1 if m is a text of i, else -1

B is the number of images of the global batch, s the learned scale, b the learned bias (Zhai et al., ICCV 2023, arXiv 2303.15343,
section 3.2, eq. 1; s starts at 10 and b at -10 there, which is the model's affair).

Differences. Every true text of an image is a positive (the paper has one text an image); ``per="text"`` divides by the N texts. The paper sends blocks of text
features round the processes; here texts are gathered, and each process answers for its own images: the same sum. Hard negatives
in the list are not seen.

Duplicates: ignored (``duplicates="ignore"``); ``"negative"`` is the paper; ``"positive"`` makes every text known to be true of an
image a positive, which a softmax cannot do so simply.
Cost: three B_local x N x D products, CLIP's four less one, all in the forward pass; memory as CLIP; sends each text's vector once.

Example:
    >>> import torch
    >>> from wholegrain.features import ImageFeatures, Pairing, TextFeatures
    >>> same = torch.ones(3, 8)
    >>> zero = torch.tensor(0.0)
    >>> loss = SiglipLoss()(ImageFeatures(same), TextFeatures(same), Pairing.one_to_one(3), zero, zero)
    >>> round(loss.value.item(), 4)    # nine cells of ln 2, for three images
    2.0794
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch.distributed as dist
from torch import Tensor

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.core.contract import LossOutput, State, at_least_float32, full_precision, unit
from wholegrain.losses.core.contrastive import pair_sigmoid
from wholegrain.losses.core.gather import gather_texts
from wholegrain.losses.core.tiles import Logits


@dataclass(frozen=True)
class SiglipLoss:
    """Pairwise sigmoid loss over the global batch.

    Attributes:
        duplicates: ``"ignore"``, ``"negative"`` or ``"positive"``: what texts are that are known to be true of an image not
        their own.
        per: what the sum is divided by: the global batch's images (``"image"``, SigLIP) or its texts (``"text"``, FLAIR).
    """

    duplicates: Literal["ignore", "negative", "positive"] = "ignore"
    per: Literal["image", "text"] = "image"
    needs: ClassVar[frozenset[str]] = frozenset({"bias"})

    def __post_init__(self) -> None:
        if self.per not in ("image", "text"):
            raise ValueError(f'per = "{self.per}" is not known; it must be "image" or "text"')

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
        if bias is None:
            raise ValueError("SiglipLoss needs a bias; use a model that learns one")
        true, scale, bias = pairing.true_N, at_least_float32(scale), at_least_float32(bias)
        pairs = pairing.select_texts(true)
        everyone = gather_texts(unit(text.pooled_ND[true]), pairs, group)
        logits = Logits(unit(image.pooled_BD), everyone.vectors_CD, scale, bias)
        output = pair_sigmoid(logits, pairs, everyone, duplicates=self.duplicates)
        if self.per == "image":
            return output
        texts = everyone.pairing
        share = len(texts.image_id_B) / max(len(texts.owner_N), 1)
        return LossOutput(share * output.value, {name: share * part for name, part in output.parts.items()})
