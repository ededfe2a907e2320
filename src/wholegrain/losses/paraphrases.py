"""Two captions of one image are each other's paraphrase: an image, and a caption, must find the other caption in the batch.

For captions n and p != n of image i, with S = scale * cosine, rivals R(i) the captions of other images::

    loss = mean over ordered pairs (n, p) of 1/2 [ -log e^S(i,p) / (e^S(i,p) + sum_{m in R(i)} e^S(i,m))     image finds p
                                                   -log e^S(n,p) / (e^S(n,p) + sum_{m in R(i)} e^S(n,m)) ]   caption finds p

L_pos of Doveh et al., "Teaching Structured Vision & Language Concepts" (TSVLC or SVLC; CVPR 2023, arXiv 2211.11733) and its
released code, where p is a language model's paraphrase of the caption; the second half alone (``finds = "text"``) is a
text-text InfoNCE on paraphrases. Against a loss that only pushes edited captions away (``own_negatives``) it says what must
*not* move them apart: another wording of the same fact. Sensible for paraphrases; captions of different roles need not be
alike.

Differences. In the code n is always the caption and p the paraphrase, rivals are paraphrases alone, an option adds the
directions from p to images and captions, and rivals are those of one process. Here either caption may be n or p, every
caption of another image is a rival, p to n is the same sum, and p to images is left to CLIP, which sees p as a caption. The
code's options that even out the scores of caption and paraphrase (``kl_pos``, ``common_batch_pos``, off) are not here.

An image with one caption takes no part; hard negatives are not seen.
Duplicates: ignored (``duplicates="ignore"``), or ``"negative"``; a pair in the same words is left out.
Cost: N_local x N x D multiply-adds for each half; sends each text's vector once.

Example:
    >>> import torch
    >>> from wholegrain.features import ImageFeatures, Pairing, TextFeatures
    >>> owner = torch.tensor([0, 0, 1, 1])
    >>> pairing = Pairing(owner, owner * 0 - 1, owner * 0, owner * 0 - 1, torch.arange(4), torch.arange(2))
    >>> loss = ParaphrasesLoss()(ImageFeatures(torch.ones(2, 8)), TextFeatures(torch.ones(4, 8)), pairing, torch.tensor(10.0))
    >>> round(loss.value.exp().item(), 4)    # the paraphrase and two captions of the other image cannot be told apart
    3.0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.core.contract import LossOutput, State, at_least_float32, full_precision, unit
from wholegrain.losses.core.contrastive import Rest
from wholegrain.losses.core.gather import gather_texts, sum_over
from wholegrain.losses.core.known_true import Duplicates, KnownTrue
from wholegrain.losses.core.tiled_softmax import tiled_softmax
from wholegrain.losses.core.tiles import Logits


@dataclass(frozen=True)
class ParaphrasesLoss:
    """Contrast of captions of the same image with captions of others.

    Attributes:
        finds: who looks for the other caption: the ``"image"``, its ``"text"``, or ``"both"``, in equal parts.
        duplicates: ``"ignore"`` leaves captions known to be true of the image out of the rivals; ``"negative"`` keeps them in.
    """

    finds: Literal["both", "image", "text"] = "both"
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
        true, scale = pairing.true_N, at_least_float32(scale)
        pairs, text_ND = pairing.select_texts(true), unit(text.pooled_ND[true])
        everyone = gather_texts(text_ND, pairs, group)
        one_Q, other_Q = _ordered_pairs(pairs)
        column_Q = other_Q + everyone.texts_before
        parts: dict[str, Tensor] = {}
        if self.finds != "text":
            known, row_Q = KnownTrue(pairs, everyone, self.duplicates), pairs.owner_N[one_Q]
            found = tiled_softmax(Logits(unit(image.pooled_BD), everyone.vectors_CD, scale), known, row_Q, column_Q)
            parts["image"] = Rest(found.by_row)[row_Q].cross_entropy(found.pair_P).sum()
        if self.finds != "image":
            known = KnownTrue(pairs, everyone, self.duplicates, image_R=pairs.owner_N)
            found = tiled_softmax(Logits(text_ND, everyone.vectors_CD, scale), known, one_Q, column_Q)
            parts["text"] = Rest(found.by_row)[one_Q].cross_entropy(found.pair_P).sum()
        count = sum_over(scale.new_tensor(float(len(one_Q))), group).clamp_min(1)
        value = torch.stack(list(parts.values())).mean() / count
        return LossOutput(value, {name: part.detach() / count for name, part in parts.items()})


def _ordered_pairs(pairing: Pairing) -> tuple[Tensor, Tensor]:
    """All (n, p) of two captions of one image in different words, of a pairing without negatives: int64 ``[Q]`` twice."""
    owner_N = pairing.owner_N
    order = owner_N.argsort(stable=True)
    ordered = owner_N[order]
    first, last = torch.searchsorted(ordered, owner_N), torch.searchsorted(ordered, owner_N, right=True)
    one = torch.arange(len(owner_N), device=owner_N.device).repeat_interleave(last - first)
    nth = torch.arange(len(one), device=owner_N.device) - ((last - first).cumsum(0) - (last - first))[one]
    other = order[first[one] + nth]
    kept = pairing.text_id_N[one] != pairing.text_id_N[other]
    return one[kept], other[kept]
