"""Losses that are wrong, each in one way: historic bugs of released code and the classic mistakes. ``verify`` must find every one.

``FOUND_BY`` says which check is meant to find each. ``SoundClip``, ``SoundPooling`` and ``SoundMargin`` are the same code without
the bugs, and must pass: so it is the bug that is found.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from wholegrain.losses.core.contract import LossOutput, at_least_float32, full_precision, unit
from wholegrain.losses.core.gather import gather_rows, gather_texts, row_counts, sum_over

FOUND_BY = {
    "ReshapedCaptions": {"text_order", "reference"},  # DreamLIP: (M, B) read as (B, M)
    "ArbitraryTarget": {"reference", "known_answers"},  # CE-CLIP's intra-modal contrast
    "AbsentKind": {"missing", "state"},  # CE-CLIP's adaptive margin
    "AddedMask": {"padding"},  # Holistic CLIP: a boolean mask that is added, +1
    "GatherWithoutGradient": {"processes"},
    "ScaleTimesChunks": {"scale", "reference"},
    "DoubleTemperature": {"known_answers", "reference"},
    "UnmaskedPadding": {"padding"},
    "MeanOfMeans": {"processes"},
    "DuplicatesAsNegatives": {"duplicates"},
    "LocalNegatives": {"processes"},
    "OwnMargins": {"state"},
    "InPlace": {"inputs_kept"},
    "HalfPrecision": {"precision"},
    "SmallDivision": {"edges"},
    "LogOfSoftmax": {"edges"},
    "DetachedNorm": {"gradients"},
    "HiddenState": {"repeatable"},
    "FakedFoils": {"reference"},
    "DiagonalPairs": {"image_order", "text_order"},
    "ForgottenScale": {"scale"},
    "SilentNeed": {"needs"},
    "OneSided": {"known_answers", "reference"},
}


@dataclass(frozen=True)
class SoundClip:
    """CLIP for any number of captions, in plain matrix form; each bug below changes one step of it."""

    needs: ClassVar[frozenset[str]] = frozenset()
    like: ClassVar[str] = "clip"

    @full_precision
    def __call__(self, image, text, pairing, scale, bias=None, state=None, *, group=None):
        image, text, pairing = self.prepared(image, text, pairing)
        true = pairing.true_N
        pairs = pairing.select_texts(true)
        scale = self.temperature(scale)
        v, t = self.unit(image.pooled_BD), self.unit(text.pooled_ND[true])
        everyone, images = self.gathered(v, t, pairs, group)
        own = everyone.pairing.owner_N[everyone.texts_before : everyone.texts_before + len(t)]
        known_IC = self.known(everyone.pairing)
        score_NC = scale * self.scores(images[own], everyone.vectors_CD)
        score_IN = scale * self.scores(images, t)
        place = torch.arange(len(t)) + everyone.texts_before
        to_text = self.entropy(score_NC, known_IC[own], place)
        to_image = self.entropy(score_IN.T, known_IC[:, place].T, own)
        both = torch.stack([self.mean(x, everyone, group) for x in (to_text, to_image)])
        return LossOutput(self.joined(both))

    def prepared(self, image, text, pairing):
        return image, text, pairing

    def temperature(self, scale):
        return scale.float() if scale.dtype == torch.bfloat16 else scale

    def unit(self, x):
        return unit(x)

    def scores(self, a, b):
        return a @ b.T

    def gathered(self, v, t, pairs, group):
        counts = row_counts(len(v), device=v.device, group=group)[0]
        return gather_texts(t, pairs, group), gather_rows(v, counts, group)

    def known(self, texts) -> Tensor:
        """Images by texts: True where the text is known to be true of the image."""
        same_image = texts.image_id_B[:, None] == texts.image_id_B
        mine = torch.zeros(len(texts.image_id_B), len(texts.owner_N), dtype=torch.bool)
        mine[texts.owner_N, torch.arange(len(texts.owner_N))] = True
        own = (same_image.float() @ mine.float()) > 0
        same_text = texts.text_id_N[:, None] == texts.text_id_N
        return (own.float() @ same_text.float()) > 0

    def entropy(self, score_QC, known_QC, target_Q):
        keep = torch.zeros_like(known_QC)
        keep[torch.arange(len(keep)), target_Q] = True
        floored = score_QC.masked_fill(known_QC & ~keep, torch.finfo(score_QC.dtype).min / 4)
        return -floored.log_softmax(1)[torch.arange(len(keep)), target_Q]

    def mean(self, each, everyone, group):
        return each.sum() / max(len(everyone.pairing.owner_N), 1)

    def joined(self, both):
        return both.mean()


@dataclass(frozen=True)
class ReshapedCaptions(SoundClip):
    """Texts stacked caption by caption, read image by image."""

    def prepared(self, image, text, pairing):
        true = pairing.select_texts(pairing.true_N)
        places = torch.arange(len(true.owner_N)) % len(true.image_id_B)
        return image, text.select(pairing.true_N), replace(true, owner_N=places)


@dataclass(frozen=True)
class GatherWithoutGradient(SoundClip):
    """``torch.distributed.all_gather`` returns constants."""

    def gathered(self, v, t, pairs, group):
        everyone, images = super().gathered(v, t, pairs, group)
        first = everyone.texts_before
        texts = torch.cat([everyone.vectors_CD[:first].detach(), t, everyone.vectors_CD[first + len(t) :].detach()])
        before = everyone.images_before
        images = torch.cat([images[:before].detach(), v, images[before + len(v) :].detach()])
        return replace(everyone, vectors_CD=texts), images


@dataclass(frozen=True)
class LocalNegatives(SoundClip):
    """Every process compares within its own batch alone."""

    def gathered(self, v, t, pairs, group):
        everyone, _ = super().gathered(v, t, pairs, group)
        return replace(everyone, vectors_CD=t, pairing=pairs, images_before=0, texts_before=0), v

    def mean(self, each, everyone, group):
        return each.sum() / sum_over(torch.tensor(float(len(each)), dtype=torch.float64), group).clamp_min(1)


@dataclass(frozen=True)
class MeanOfMeans(SoundClip):
    """The mean of the processes' means, whatever number of texts each has."""

    def mean(self, each, everyone, group):
        world = dist.get_world_size(group) if dist.is_initialized() else 1
        return each.sum() / max(len(each), 1) / world


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, scale, chunks):
        ctx.chunks = chunks
        return scale.clone()

    @staticmethod
    def backward(ctx, *grads):
        return ctx.chunks * grads[0], None


@dataclass(frozen=True)
class ScaleTimesChunks(SoundClip):
    """The batch in chunks; the scale's gradient is that of the whole batch, added once for every chunk."""

    def temperature(self, scale):
        return _Scaled.apply(super().temperature(scale), 4)


@dataclass(frozen=True)
class ForgottenScale(SoundClip):
    """The scale is read as a number."""

    def temperature(self, scale):
        return super().temperature(scale).detach()


@dataclass(frozen=True)
class DoubleTemperature(SoundClip):
    """Features come scaled, and are scaled again."""

    def temperature(self, scale):
        return super().temperature(scale) ** 2


@dataclass(frozen=True)
class DuplicatesAsNegatives(SoundClip):
    """Only the pairs of the batch are known to be true; nothing in the class says so."""

    like: ClassVar[None] = None

    def known(self, texts):
        return torch.arange(len(texts.image_id_B))[:, None] == texts.owner_N


@dataclass(frozen=True)
class DiagonalPairs(SoundClip):
    """Text n belongs to image n, always."""

    like: ClassVar[None] = None

    def prepared(self, image, text, pairing):
        true = pairing.select_texts(pairing.true_N)
        owner = torch.arange(len(true.owner_N)).clamp_max(len(true.image_id_B) - 1)
        return image, text.select(pairing.true_N), replace(true, owner_N=owner)


@dataclass(frozen=True)
class InPlace(SoundClip):
    """Normalises its inputs where they stand."""

    def unit(self, x):
        return x.mul_(1 / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(1e-12).detach()) if x.numel() else x


@dataclass(frozen=True)
class HalfPrecision(SoundClip):
    """Products in the type of the input."""

    like: ClassVar[None] = None

    def unit(self, x):
        return x if x.dtype == torch.float16 else unit(x)

    def scores(self, a, b):
        if a.dtype != torch.float16:
            return a @ b.T
        lengths = torch.linalg.vector_norm(a, dim=1)[:, None] * torch.linalg.vector_norm(b, dim=1)
        return ((a @ b.T) / lengths).float()


@dataclass(frozen=True)
class SmallDivision(SoundClip):
    """A norm without guard."""

    def unit(self, x):
        return x / x.norm(dim=-1, keepdim=True)


@dataclass(frozen=True)
class LogOfSoftmax(SoundClip):
    """log(exp(a) / sum exp(b)): exact at scale 7, infinite at 100."""

    def entropy(self, score_QC, known_QC, target_Q):
        keep = torch.zeros_like(known_QC)
        keep[torch.arange(len(keep)), target_Q] = True
        weight = (score_QC - score_QC.amax(1, keepdim=True) if score_QC.numel() else score_QC).exp() * ~(known_QC & ~keep)
        return -(weight[keep] / weight.sum(1)).log()


@dataclass(frozen=True)
class DetachedNorm(SoundClip):
    """The length is taken for a constant in the backward pass."""

    def unit(self, x):
        return x * unit(x.detach()).norm(dim=-1, keepdim=True) / x.detach().norm(dim=-1, keepdim=True).clamp_min(1e-12)


@dataclass(frozen=True)
class OneSided(SoundClip):
    """Image to text alone, though it calls itself CLIP."""

    def joined(self, both):
        return both[0]


class HiddenState(SoundClip):
    """Counts its calls, and warms up."""

    calls = 0

    def joined(self, both):
        HiddenState.calls += 1
        return both.mean() * min(1.0, 0.5 + HiddenState.calls / 10000)


@dataclass(frozen=True)
class SilentNeed(SoundClip):
    """Reads patches and does not say so."""

    def prepared(self, image, text, pairing):
        return replace(image, pooled_BD=image.pooled_BD + image.patches_BPD.mean(1)), text, pairing


@dataclass(frozen=True)
class FakedFoils(SoundClip):
    """A caption without a hard negative gets an empty text for one, which is a candidate."""

    needs: ClassVar[frozenset[str]] = frozenset({"negatives"})
    like: ClassVar[str] = "negclip"

    def entropy(self, score_QC, known_QC, target_Q):
        return super().entropy(
            torch.cat([score_QC, torch.zeros(len(score_QC), 1, dtype=score_QC.dtype)], 1),
            torch.cat([known_QC, torch.zeros(len(score_QC), 1, dtype=torch.bool)], 1),
            target_Q,
        )


@dataclass(frozen=True)
class ArbitraryTarget:
    """The target of every caption is the first hard negative of the batch."""

    needs: ClassVar[frozenset[str]] = frozenset({"negatives"})
    like: ClassVar[str] = "imc"

    @full_precision
    def __call__(self, image, text, pairing, scale, bias=None, state=None, *, group=None):
        everyone = gather_texts(unit(text.pooled_ND), pairing, group)
        foils = everyone.vectors_CD[~everyone.pairing.true_N]
        caption = unit(text.pooled_ND)[pairing.true_N]
        if len(foils) == 0:
            return LossOutput(0 * everyone.vectors_CD.sum())
        each = -(scale * caption @ foils.T).log_softmax(1)[:, 0]
        return LossOutput(each.sum() / everyone.pairing.true_N.sum().clamp_min(1))


@dataclass(frozen=True)
class SoundMargin:
    """A hinge against each foil, with a margin a kind that follows the last global batch."""

    needs: ClassVar[frozenset[str]] = frozenset({"negatives"})

    def initial_state(self, kinds):
        return {"margin_K": torch.zeros(len(kinds))}

    @full_precision
    def __call__(self, image, text, pairing, scale, bias=None, state=None, *, group=None):
        score_N = scale * (unit(image.pooled_BD)[pairing.owner_N] * unit(text.pooled_ND)).sum(1)
        foil = (~pairing.true_N).nonzero().squeeze(1)
        margin_K = state["margin_K"].to(score_N)
        kind_M, gap_M = pairing.kind_N[foil], score_N[pairing.negative_of_N[foil]] - score_N[foil]
        hinge = (margin_K[kind_M] - gap_M).relu().sum() / sum_over(gap_M.new_tensor(float(len(gap_M))), group).clamp_min(1)
        sums = torch.zeros_like(margin_K).index_add(0, kind_M, gap_M.detach())
        number = torch.zeros_like(margin_K).index_add(0, kind_M, torch.ones_like(gap_M))
        return LossOutput(hinge, {}, {"margin_K": self.next_margin(sums, number, margin_K, group)})

    def next_margin(self, sums, number, before, group):
        sums, number = sum_over(sums, group), sum_over(number, group)
        return torch.where(number > 0, (sums / number.clamp_min(1)).clamp(0, 10), before)


@dataclass(frozen=True)
class AbsentKind(SoundMargin):
    """The mean over no foils of a kind is 0 / 0."""

    def next_margin(self, sums, number, before, group):
        return (sum_over(sums, group) / sum_over(number, group)).clamp(0, 10)


@dataclass(frozen=True)
class OwnMargins(SoundMargin):
    """Every process follows its own foils."""

    def next_margin(self, sums, number, before, group):
        return torch.where(number > 0, (sums / number.clamp_min(1)).clamp(0, 10), before)


@dataclass(frozen=True)
class SoundPooling:
    """A caption's tokens pooled by attention; the caption is compared with its own image alone."""

    needs: ClassVar[frozenset[str]] = frozenset({"tokens"})

    @full_precision
    def __call__(self, image, text, pairing, scale, bias=None, state=None, *, group=None):
        true, mask = pairing.true_N, text.mask_NL[pairing.true_N]
        tokens = self.cleaned(at_least_float32(text.tokens_NLD[true]), mask)
        weight = self.weights((tokens * unit(text.pooled_ND[true])[:, None]).sum(2), mask)
        pooled = (weight[..., None] * tokens).sum(1)
        each = scale * (1 - (unit(pooled) * unit(image.pooled_BD)[pairing.owner_N[true]]).sum(1))
        return LossOutput(each.sum() / sum_over(each.new_tensor(float(len(each))), group).clamp_min(1))

    def cleaned(self, tokens_NLD, mask_NL):
        return torch.where(mask_NL[..., None], tokens_NLD, 0.0)

    def weights(self, score_NL, mask_NL):
        return score_NL.masked_fill(~mask_NL, torch.finfo(score_NL.dtype).min / 4).softmax(1)


@dataclass(frozen=True)
class AddedMask(SoundPooling):
    """A boolean mask cast to the scores' type and added: +1 where it should be -inf."""

    def cleaned(self, tokens_NLD, mask_NL):
        return tokens_NLD

    def weights(self, score_NL, mask_NL):
        return (score_NL + (~mask_NL).to(score_NL.dtype)).softmax(1)


@dataclass(frozen=True)
class UnmaskedPadding(SoundPooling):
    """The mean over all positions, padded ones with them."""

    def cleaned(self, tokens_NLD, mask_NL):
        return tokens_NLD

    def weights(self, score_NL, mask_NL):
        return torch.full_like(score_NL, 1 / score_NL.shape[1])
