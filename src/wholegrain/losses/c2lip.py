"""C2LIP's concepts: every noun phrase of a batch is asked of every image, of its pooled vector or of the patches that the phrase attends to.

For image i and noun phrase p, M(i,p) = 1 if a caption of i says p, all vectors of unit length, scale s and bias b::

    pooled      S(i,p) = s cos(v[i], p) + b                                                            the paper's NPC
    attention   S(i,p) = s cos(g, p) + b,   g = sum_k softmax_k( cos(x[i,k], p) / temperature ) x[i,k]   its XAC
    loss        = 1/T sum over T mentions (i,p) of [ -log sigmoid(S(i,p)) - sum over images j that do not say p of log sigmoid(-S(j,p)) ]

Pham et al., "No Hard Negatives Required: Concept Centric Learning Leads to Compositionality without Degrading Zero-shot Capabilities of
Contrastive Models" (C2LIP), CVPR 2026, arXiv 2603.25722; code SamsungLabs/concept_centric_clip@9d02526, ``src/open_clip/loss.py``. Short
phrases cannot be found by a bag of words of a long caption; and attention, which has no parameters, keeps what a place shows together, where
pooling mixes it. The model scores by the cosine of pooled vectors as before: the attention is for training alone. Beside SigLIP's
loss on whole captions the release has weights 1 (pooled) and 0.01 (attention).

A mention is an image and a phrase, however often the image's captions say it.

Where sources differ. The release takes phrases by a language model, here the model's tagger finds them. There a phrase that two images
say is a column for each, positive for one and *negative for the other*; here neither (``duplicates="ignore"``; ``"negative"`` reproduces
the release). There phrases of other processes are constants; here all have gradients.

Hard negatives are not seen, nor their phrases. An image without a phrase is a negative of all others' phrases, and a batch without one costs 0.
Cost: pooled B_local x Q multiply-adds by D for the Q distinct phrases of the global batch, attention B_local x Q x P x (D + min(P, D)), in
blocks; beside it B_local x Q and B_local x T numbers. Sends each distinct phrase's vector once; patches stay where they are.

Example:
    >>> import torch
    >>> from wholegrain.features import ImageFeatures, Pairing, TextFeatures
    >>> text = TextFeatures(torch.ones(2, 8), phrases_NKD=torch.ones(2, 1, 8), phrase_weight_NK=torch.ones(2, 1))
    >>> given = ImageFeatures(torch.ones(2, 8)), text, Pairing.one_to_one(2), torch.tensor(1.0), torch.tensor(-1.0)
    >>> loss = C2lipLoss()(*given)      # logits 0: each phrase is one yes and one no, ln 2 each
    >>> round(loss.value.exp().item(), 4)
    4.0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import logsigmoid

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.core.contract import LossOutput, Ranges, State, at_least_float32, full_precision, unit
from wholegrain.losses.core.gather import gather_texts, sum_over
from wholegrain.losses.core.known_true import Duplicates, KnownTrue
from wholegrain.losses.core.phrases import Phrases, gather_phrases, phrases_of
from wholegrain.losses.whole_and_grain import phrase_cosines

POOLED = frozenset({"bias", "phrases"})


@dataclass(frozen=True)
class C2lipLoss:
    """Sigmoid loss of images and noun phrases.

    Attributes:
        image: what a phrase is compared with: the ``"pooled"`` vector, or what its ``"attention"`` gathers from the patches.
        temperature: of the attention, in cosines; > 0.
        duplicates: images that say a phrase, too, are no negatives of it (``"ignore"``), or are (``"negative"``).
    """

    image: Literal["pooled", "attention"] = "pooled"
    temperature: float = 1.0
    duplicates: Duplicates = "ignore"
    needs: ClassVar[frozenset[str]] = POOLED
    ranges: ClassVar[Ranges] = {"temperature": (1e-12, 1e3)}

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature = {self.temperature} is not allowed; it must be above 0")
        if self.image == "attention":
            object.__setattr__(self, "needs", POOLED | {"patches"})

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
            raise ValueError("C2lipLoss needs a bias; use a model that learns one")
        true, scale, bias = pairing.true_N, at_least_float32(scale), at_least_float32(bias)
        pairs, spoken = pairing.select_texts(true), text.select(true)
        everyone = gather_texts(spoken.pooled_ND.new_zeros(len(spoken.pooled_ND), 1), pairs, group)  # who is whose, no vectors
        phrases = gather_phrases(phrases_of(spoken, "C2lipLoss"), everyone)
        logit_BQ = scale * self._cosines(image, phrases.vectors_QD) + bias
        said_BQ = _said(phrases, KnownTrue(pairs, everyone, "negative"), logit_BQ)
        mentions_Q = sum_over(said_BQ.sum(0), group)
        if self.duplicates == "negative":
            against_BQ = mentions_Q - said_BQ
        else:
            against_BQ = mentions_Q * (1 - _said(phrases, KnownTrue(pairs, everyone, "ignore"), logit_BQ))
        total = mentions_Q.sum().clamp_min(1)
        positive = -(logsigmoid(logit_BQ) * said_BQ).sum() / total
        negative = -(logsigmoid(-logit_BQ) * against_BQ).sum() / total
        return LossOutput(positive + negative, {"positive": positive.detach(), "negative": negative.detach()})

    def _cosines(self, image: ImageFeatures, vectors_QD: Tensor) -> Tensor:
        """Of every image of this process with every phrase, ``[B, Q]``."""
        if self.image == "pooled":
            return unit(image.pooled_BD) @ vectors_QD.T
        if image.patches_BPD is None:
            raise ValueError('C2lipLoss with image = "attention" needs patches_BPD; encode with needs={\'patches\'}')
        return phrase_cosines(unit(image.patches_BPD), vectors_QD, self.temperature)


def _said(phrases: Phrases, known: KnownTrue, like_BQ: Tensor) -> Tensor:
    """1 where a text that is known to be true of the image says the phrase, else 0: ``[B, Q]``."""
    known_BT = known(slice(0, len(like_BQ)))[:, phrases.text_T].to(like_BQ.dtype)
    return torch.zeros_like(like_BQ).index_add(1, phrases.phrase_T, known_BT).clamp_max(1)
