"""Llip: an image is a set of mixture tokens, and each caption chooses its own mixture of them.

With z(i,n) the mixture tokens of image i, mixed by the query of text n (:mod:`.attention_pool`), y = 1 for a text of the image,
else -1::

    loss = - sum over images i and texts n of log sigmoid( y (scale * cos(z(i,n), t[n]) + bias) )  /  B

Lavoie et al., ICML 2024, arXiv 2405.00740: SigLIP's loss with an image that depends on the text. A wrong text mixes, too, and must
fail, so no text can be recognised by itself alone. No code was released; read from descriptions of the paper: K = 64 tokens inside
the ViT, attention with several heads and a temperature whose value is not known to us (here 1 after the usual 1 / sqrt(E);
``model.head_settings.pool_temperature``), one mixture for every pair of the batch.

``kind="softmax"`` is CLIP's symmetric softmax of the same scores, ours. ``negatives``: hard negatives are not seen (``"none"``) or
are texts of every image (``"all"``). Duplicates: ignored (``duplicates="ignore"``), or ``"negative"``.
Needs ``model.head = "llip"``. Cost: B_local x N x A x (2 K + D) multiply-adds forward for A = G E; memory is bounded
(:mod:`.pair_scores`); sends each text's query and vector once.

Example:
    >>> import torch
    >>> from wholegrain.features import ImageFeatures, Pairing, TextFeatures
    >>> slots, mix = torch.eye(4)[:, None, None], {"mix_DA": torch.eye(4), "mix_D": torch.zeros(4)}
    >>> image = ImageFeatures(torch.eye(4), keys_BGSE=slots, values_BGSE=slots, learned=mix)      # one token: cosines 1 and 0
    >>> loss = LlipLoss()(image, TextFeatures(torch.eye(4), query_NGE=torch.eye(4)[:, None]), Pairing.one_to_one(4),
    ...     torch.tensor(10.0), torch.tensor(-5.0))
    >>> round(loss.value.item(), 4)         # 16 cells of ln(1 + e^-5) over 4 images
    0.0269
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.core.attention_pool import Pool
from wholegrain.losses.core.contract import LossOutput, State, at_least_float32, full_precision, unit
from wholegrain.losses.core.gather import gather_texts
from wholegrain.losses.core.known_true import Duplicates
from wholegrain.losses.core.pair_scores import candidates, pair_sigmoid_of, pair_softmax_of


@dataclass(frozen=True)
class LlipLoss:
    """Contrast of images mixed by each text.

    Attributes:
        kind: ``"sigmoid"`` as the paper (then it needs a bias), or ``"softmax"`` as CLIP.
        negatives: hard negatives are not seen (``"none"``), or compared with ``"all"`` images.
        duplicates: ``"ignore"`` leaves known true pairs out; ``"negative"`` takes them as false.
    """

    kind: Literal["sigmoid", "softmax"] = "sigmoid"
    negatives: Literal["none", "all"] = "none"
    duplicates: Duplicates = "ignore"
    needs: ClassVar[frozenset[str]] = frozenset({"slots", "bias"})

    def __post_init__(self) -> None:
        if self.kind == "softmax":
            object.__setattr__(self, "needs", frozenset({"slots"}))

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
        if text.query_NGE is None:
            raise ValueError('LlipLoss needs queries; set model.head to "llip"')
        pool, chosen = Pool.of(image, image.learned, "LlipLoss"), candidates(pairing, self.negatives)
        query_NGE, text_ND = at_least_float32(text.query_NGE[chosen]), unit(text.pooled_ND[chosen])
        pairs, width = pairing.select_texts(chosen), text_ND.shape[1]
        everyone = gather_texts(torch.cat([text_ND, query_NGE.flatten(1)], 1), pairs, group)
        sent_CX = everyone.vectors_CD
        score_BC = pool.scores(sent_CX[:, width:].view(len(sent_CX), *query_NGE.shape[1:]), sent_CX[:, :width])
        score_BC = at_least_float32(scale) * score_BC
        if self.kind == "softmax":
            return pair_softmax_of(score_BC, score_BC, pairs, everyone, duplicates=self.duplicates)
        if bias is None:
            raise ValueError('LlipLoss with kind="sigmoid" needs a bias; use a model that learns one')
        return pair_sigmoid_of(score_BC + at_least_float32(bias), pairs, everyone, duplicates=self.duplicates)
