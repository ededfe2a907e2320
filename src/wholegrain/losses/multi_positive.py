"""CLIP where an image has several captions and all of them are right: one softmax in which they share the place of the target.

With O(i) the captions of image i, R(i) and C(n) what image and text are compared with beside their own, S = scale * cosine::

    Z(i)          = sum_{n in O(i)} e^S(i,n) + sum_{m in R(i)} e^S(i,m)
    image to text = mean over images with captions of   - 1/|O(i)| sum_{n in O(i)} log( e^S(i,n) / Z(i) )   positives = "each"
                                                         - log( sum_{n in O(i)} e^S(i,n) / Z(i) )   positives = "sum"
    text to image = mean over captions of                - log e^S(i,n) / (e^S(i,n) + sum_{j in C(n)} e^S(j,n))
    loss          = the mean of both

``"each"``: every caption must be found, and own captions compete with one another; the least value is ln |O(i)|, where all K
share the probability (Khosla et al., SupCon, NeurIPS 2020, eq. 2, "out"; UniCL, CVPR 2022). ``"sum"``: it is enough that some
caption is found, the least value is 0 (Miech et al., MIL-NCE, CVPR 2020; the bags of DAC, Doveh et al., NeurIPS 2023, arXiv
2305.19595, whose denominator joins both directions). Recipe o2m's loss, ``clip`` on several captions, gives every caption a
softmax of its own, in which the image's other captions are neither target nor rival: like ``"each"``, but with a floor of 0
and no competition.

Differences from the sources: images without a caption take no part; the mean of image to text is over images, not over pairs.
Hard negatives are not seen.
Duplicates: ignored (``duplicates="ignore"``), or ``"negative"``. With one caption an image this is CLIP.
Cost: as CLIP: B_local x N x D multiply-adds forward; sends each text's vector once.

Example:
    >>> import torch
    >>> from wholegrain.features import ImageFeatures, Pairing, TextFeatures
    >>> owner = torch.tensor([0, 0, 1, 1])
    >>> pairing = Pairing(owner, owner * 0 - 1, owner * 0, owner * 0 - 1, torch.arange(4), torch.arange(2))
    >>> given = ImageFeatures(torch.ones(2, 8)), TextFeatures(torch.ones(4, 8)), pairing, torch.tensor(10.0)
    >>> [round(MultiPositiveLoss(p)(*given).parts["image_to_text"].exp().item(), 4) for p in ("each", "sum")]
    [4.0, 2.0]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.core.contract import LossOutput, State, at_least_float32, full_precision, unit
from wholegrain.losses.core.contrastive import Rest, grouped_lse, mean_of_both, over_processes
from wholegrain.losses.core.gather import gather_texts, sum_over
from wholegrain.losses.core.known_true import Duplicates, KnownTrue
from wholegrain.losses.core.tiled_softmax import tiled_softmax
from wholegrain.losses.core.tiles import Logits


@dataclass(frozen=True)
class MultiPositiveLoss:
    """Symmetric softmax in which all captions of an image are targets of one softmax.

    Attributes:
        positives: ``"each"`` caption of an image is to be found, or their ``"sum"`` of probabilities is to be 1.
        duplicates: ``"ignore"`` leaves known true pairs out of the denominators; ``"negative"`` keeps them in.
    """

    positives: Literal["each", "sum"] = "each"
    duplicates: Duplicates = "ignore"
    needs: ClassVar[frozenset[str]] = frozenset()

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
        image_BD, scale = unit(image.pooled_BD), at_least_float32(scale)
        pairs, text_ND = pairing.select_texts(pairing.true_N), unit(text.pooled_ND[pairing.true_N])
        everyone, images = gather_texts(text_ND, pairs, group), len(image_BD)
        own_N = pairs.owner_N
        column_N = torch.arange(len(own_N), device=own_N.device) + everyone.texts_before
        known = KnownTrue(pairs, everyone, self.duplicates)
        found = tiled_softmax(Logits(image_BD, everyone.vectors_CD, scale), known, own_N, column_N)
        by_own, captioned_B = grouped_lse(found.pair_P, own_N, images)
        rest = Rest(found.by_row)
        if self.positives == "sum":
            to_text = rest.cross_entropy(by_own)[captioned_B].sum()
        else:
            total_B = torch.logaddexp(rest.stats[0], by_own)
            each_N = (total_B[own_N] - found.pair_P) / torch.bincount(own_N, minlength=images)[own_N].to(total_B.dtype)
            to_text = each_N.sum()
        to_image = over_processes(Rest(found.by_column), group)[column_N].cross_entropy(found.pair_P).sum()
        captioned = sum_over(captioned_B.sum(), group).clamp_min(1)
        texts = max(len(everyone.pairing.owner_N), 1)
        return mean_of_both(to_text / captioned, to_image / texts)
