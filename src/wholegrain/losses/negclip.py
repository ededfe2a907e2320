"""CLIP's loss with hard negative captions among an image's candidates (NegCLIP; CE-CLIP's "itc(hn)").

As ``losses/clip.py``, but an image is also compared with false captions, which are candidates and never queries::

    image to text:  -log e^S(i,n) / (e^S(i,n) + sum_{true texts m of other images} e^S(i,m) + sum_{hard negatives m} e^S(i,m))
    text to image:  as CLIP, true texts only

Sources: Yuksekgonul et al., "When and why vision-language models behave like bags-of-words" (ICLR 2023, arXiv 2210.01936),
section 4; Zhang et al., CE-CLIP (CVPR 2024, arXiv 2306.08832), section 3 and its released code.

Differences. NegCLIP also mines hard *images* (the nearest of the training set): that is a matter of the batch, not of the loss,
and they enter here as ordinary pairs. CE-CLIP's released code keeps invalid negatives (placeholder texts) as candidates; here a
missing negative is missing. ``own_only`` compares an image with its own hard negatives alone, beside the true texts of the
batch (as TSVLC and FSC-CLIP do in a separate term). A negative that is, word for word, a true caption of the image is left out.

Duplicates: ignored (``duplicates="ignore"``); ``"negative"`` is what released code does.
Cost: as CLIP with (1 + K) N texts on the image-to-text side, K negatives a caption; sends each text's vector once.

Example:
    >>> import torch
    >>> from wholegrain.features import ImageFeatures, Pairing, TextFeatures
    >>> lone, zero = torch.tensor([-1, 0]), torch.zeros(2, dtype=torch.int64)       # one image, its caption, one false caption
    >>> pairing = Pairing(zero, lone, zero, torch.tensor([-1, 0]), torch.tensor([7, 8]), torch.tensor([5]), kinds=("swap",))
    >>> loss = NegclipLoss()(ImageFeatures(torch.ones(1, 8)), TextFeatures(torch.ones(2, 8)), pairing, torch.tensor(10.0))
    >>> {name: round(part.exp().item(), 4) for name, part in loss.parts.items()}
    {'image_to_text': 2.0, 'text_to_image': 1.0}
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
class NegclipLoss:
    """Symmetric softmax in which hard negative captions are candidates.

    Attributes:
        own_only: hard negatives are candidates of their own image alone, not of every image of the batch.
        duplicates: ``"ignore"`` leaves known true pairs out of the denominators; ``"negative"`` keeps them in.
        label_smoothing: 0..1, spread evenly over a query's candidates.
    """

    own_only: bool = False
    duplicates: Duplicates = "ignore"
    label_smoothing: float = 0.0
    needs: ClassVar[frozenset[str]] = frozenset({"negatives"})
    ranges: ClassVar[Ranges] = {"label_smoothing": (0, 1)}

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
        return pooled_softmax(
            image.pooled_BD,
            text.pooled_ND,
            pairing,
            scale,
            group=group,
            duplicates=self.duplicates,
            negatives="own" if self.own_only else "all",
            smoothing=self.label_smoothing,
        )
