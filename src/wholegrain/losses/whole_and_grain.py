"""Whole and grain: the pooled vectors, and each noun phrase of a caption against the patches it attends to, contrasted together.

For image i with pooled vector v and patches x[k], and text n (of any image) with vector t and noun phrases p of weights a[p], sum 1::

    whole(i,n) = cos(v, t)
    g[p]       = sum_k softmax_k( cos(x[k], p) / temperature ) x[k]        the patches that the phrase attends to
    grain(i,n) = sum_p a[p] cos(g[p], p)                                   0 for a text without phrases
    loss       = CLIP's symmetric softmax of scale * (whole + weight * grain) over the global batch

Source: ours. The pooling is PACL's (Mukhoti et al., CVPR 2023, arXiv 2212.04994; ``losses/text_conditioned.py``), by phrases in place of
captions; the sum is what evaluation scores by (:mod:`wholegrain.evaluation.scores.whole_and_grain`), so a model is trained on the score
that it is asked for.

Why. A pooled vector is a mean and cannot hold which colour sits on which noun; a phrase must find *one* place that is both red and a cup.
Hard negatives are what tells captions apart that share all words, and here each has phrases of its own: "a blue cup" is false of the
patches, whatever the whole says. Captions whose phrases are the same (relations, swapped objects, negation) differ in the whole alone,
so the whole must learn those.

``weight`` and ``temperature`` are the head's (``model.head = "grain"``): learned as logarithms, so both stay positive, or fixed by
``model.head_settings``. They are bounded as :data:`WEIGHT` and :data:`TEMPERATURE` say. The scale is CLIP's, on the sum.

``negatives``: hard negatives are not seen (``"none"``), or are candidates of every image (``"all"``), never queries. Duplicates: ignored
(``duplicates="ignore"``), or ``"negative"``. A text without phrases is scored by its whole.

Cost: B_local x Q x P x (D + min(P, D)) multiply-adds forward for the Q distinct phrases of the global batch (``text_conditioned`` on
phrases as captions costs the same); memory is bounded by ``losses/core/pair_scores.py:CELLS`` but for B_local x Q cosines. Every distinct
phrase passes the text tower once. Sends each text's and each distinct phrase's vector once; patches stay where they are.

Example:
    >>> import torch
    >>> from wholegrain.features import ImageFeatures, Pairing, TextFeatures
    >>> learned = {"grain_log_weight_1": torch.zeros(1), "grain_log_temperature_1": torch.full((1,), -2.3)}
    >>> image = ImageFeatures(torch.ones(4, 8), patches_BPD=torch.ones(4, 9, 8), grid=(3, 3), learned=learned)
    >>> text = TextFeatures(torch.ones(4, 8), phrases_NKD=torch.ones(4, 2, 8), phrase_weight_NK=torch.full((4, 2), 0.5))
    >>> loss = WholeAndGrainLoss()(image, text, Pairing.one_to_one(4), torch.tensor(10.0))
    >>> round(loss.value.exp().item(), 4)    # four candidates that cannot be told apart
    4.0
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch.distributed as dist
from torch import Tensor

from wholegrain.features import ImageFeatures, Pairing, TextFeatures
from wholegrain.losses.core.contract import LossOutput, State, at_least_float32, full_precision, unit
from wholegrain.losses.core.contrastive import RowScores, pair_softmax
from wholegrain.losses.core.gather import gather_texts, world
from wholegrain.losses.core.known_true import Duplicates
from wholegrain.losses.core.pair_scores import blocks, candidates, joined
from wholegrain.losses.core.phrases import gather_phrases, phrases_of
from wholegrain.losses.text_conditioned import text_conditioned_scores

WEIGHT = (0.01, 100.0)
"""Least and greatest weight of the grain."""
TEMPERATURE = (0.01, 10.0)
"""Least and greatest temperature of a phrase's attention, in cosines."""


def bounded_exp(logarithm: Tensor, bounds: tuple[float, float]) -> Tensor:
    """``exp`` within bounds; beyond them there is no gradient, so what is learned is put back (``GrainHead.keep_in_range``)."""
    return at_least_float32(logarithm).clamp(math.log(bounds[0]), math.log(bounds[1])).exp()


def grain_parameters(learned: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Weight and temperature of a head, scalars.

    Raises:
        ValueError: the head has none.
    """
    if "grain_log_weight_1" not in learned:
        raise ValueError('WholeAndGrainLoss needs a weight and a temperature of the grain; set model.head to "grain"')
    weight = bounded_exp(learned["grain_log_weight_1"][0], WEIGHT)
    return weight, bounded_exp(learned["grain_log_temperature_1"][0], TEMPERATURE)


def phrase_cosines(patches_BPD: Tensor, vectors_QD: Tensor, temperature: Tensor | float) -> Tensor:
    """``cos(g, p)`` of every image with every phrase, ``[B, Q]``, with gradients, in bounded memory; see the module."""
    patches_BPD = at_least_float32(patches_BPD)

    def block(images: slice, phrases: slice) -> Tensor:
        return text_conditioned_scores(patches_BPD[images], vectors_QD[phrases], temperature)

    return joined(blocks(block, len(patches_BPD), len(vectors_QD), 2 * patches_BPD.shape[1]))


def grain(image: ImageFeatures, text: TextFeatures, temperature: Tensor | float = 0.1) -> Tensor:
    """The weighted mean of the cosines of a text's phrases with the patches they attend to, ``[B, N]``; 0 for a text without phrases."""
    if image.patches_BPD is None or text.phrases_NKD is None:
        raise ValueError("the grain needs patches and phrases; encode with needs={'patches', 'phrases'}")
    phrases = phrases_of(text, "the grain")
    return phrases.mean(phrase_cosines(image.patches_BPD, phrases.vectors_QD, temperature), len(text.pooled_ND))


def score(image: ImageFeatures, text: TextFeatures, weight: Tensor | float, temperature: Tensor | float) -> Tensor:
    """``whole + weight * grain`` of one pooled vector a side, ``[B, N]``."""
    whole_BN = unit(image.pooled_BD) @ unit(text.pooled_ND).T
    return whole_BN + weight * grain(image, text, temperature)


@dataclass(frozen=True)
class WholeAndGrainLoss:
    """Symmetric softmax over the sum of whole and grain.

    Attributes:
        negatives: hard negatives, with phrases of their own, are not seen (``"none"``), or are candidates of ``"all"`` images.
        duplicates: ``"ignore"`` leaves known true pairs out of the denominators; ``"negative"`` keeps them in.
    """

    negatives: Literal["none", "all"] = "all"
    duplicates: Duplicates = "ignore"
    needs: ClassVar[frozenset[str]] = frozenset({"patches", "phrases", "grain"})

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
        if image.patches_BPD is None:
            raise ValueError("WholeAndGrainLoss needs patches_BPD; encode with needs={'patches'}")
        weight, temperature = grain_parameters(image.learned)
        chosen = candidates(pairing, self.negatives)
        pairs, text_ND = pairing.select_texts(chosen), unit(text.pooled_ND[chosen])
        everyone = gather_texts(text_ND, pairs, group)
        phrases = gather_phrases(phrases_of(_phrases_alone(text).select(chosen), "WholeAndGrainLoss"), everyone)
        cosine_BQ = phrase_cosines(image.patches_BPD, phrases.vectors_QD, temperature)
        image_BD, texts, scale = unit(image.pooled_BD), len(everyone.vectors_CD), at_least_float32(scale)

        def scores(rows: slice) -> Tensor:
            whole = image_BD[rows] @ everyone.vectors_CD.T
            return scale * (whole + weight * phrases.mean(cosine_BQ[rows], texts))

        pair_P = pairs.true_N.nonzero().squeeze(1)
        own_P = (image_BD[pairs.owner_N[pair_P]] * text_ND[pair_P]).sum(1)
        own_P = own_P + weight * phrases.mean_of_own(cosine_BQ, pairs.owner_N, everyone.texts_before)[pair_P]
        cost = 1 + len(phrases.text_T) // max(texts, 1)
        found = pair_softmax(RowScores(scores, cost, scale * own_P), pair_P, pairs, everyone, duplicates=self.duplicates)
        size = world(group)[1]  # parts are shares, which are summed
        parts = {"weight": weight.detach() / size, "temperature": temperature.detach() / size}
        return replace(found, parts={**found.parts, **parts})


def _phrases_alone(text: TextFeatures) -> TextFeatures:
    """Without what else may have rows, which need not be selected then."""
    kept = {name: getattr(text, name) for name in ("phrases_NKD", "phrase_weight_NK", "phrase_id_NK")}
    return TextFeatures(text.pooled_ND, **kept)
