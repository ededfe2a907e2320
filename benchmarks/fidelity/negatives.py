"""The comparisons of losses on a caption's own negatives, and of those with a teacher."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import sources
import torch
from problem import Problem, Shape, unit
from rows import Ours, Row, Theirs, loss
from torch import Tensor

from wholegrain.features import ImageFeatures, TextFeatures
from wholegrain.losses.cosmos import CosmosLoss
from wholegrain.losses.distillation import DistillationLoss
from wholegrain.losses.fsc_local import FscLocalLoss
from wholegrain.losses.own_negatives import OwnNegativesLoss
from wholegrain.losses.paraphrases import ParaphrasesLoss
from wholegrain.losses.tgc import TgcLoss

FOILS = Shape(negatives=4)
SOME_FOILS = Shape(negatives=4, absent=0.4)
FLOAT32 = "its targets are float32"


def negatives_and_teachers() -> Iterator[Row]:
    """All of them."""
    yield from own()
    yield from degla()
    yield from cosmos()


# ---- TSVLC, FSC-CLIP --------------------------------------------------------------------------------------------------------


def tsvlc(m: Any, p: Problem) -> Tensor:
    module = m.ClipLoss(args=SimpleNamespace(device="cpu"))
    return module.get_loss_neg_only(unit(p.image), unit(p.text), p.scale, list(range(len(p.image))))


def tsvlc_paraphrases(m: Any, p: Problem) -> Tensor:
    args = SimpleNamespace(device="cpu", symmetric=False, kl_pos=False, common_batch_pos=False)
    captions, paraphrases = p.by_image(unit(p.captions)).unbind(1)
    return m.ClipLoss(args=args).get_loss_pos_only(unit(p.image), captions, paraphrases, p.scale)


def by_kind(p: Problem, x: Tensor) -> tuple[Tensor, Tensor]:
    """The captions' rows, then the negatives that are there, kind by kind; and where there are such, ``[K * B]``."""
    images, _, kinds = p.sizes
    valid = p.valid_BMK[:, 0].T.flatten()
    foils = x[images:].unflatten(0, (images, kinds)).transpose(0, 1).flatten(0, 1)
    return torch.cat([x[:images], foils[valid]]), valid.long()


def fsc(focal: float, smoothing: float | None, part: str, **more: Any) -> Theirs:
    def value(m: Any, p: Problem) -> Tensor:
        kind = m.Local_HNLoss if part.startswith("local") else m.Global_HNLoss
        name = "focal_loss" if focal else "cross_entropy"
        settings = {"neg_loss_name": name, "focal_gamma": focal, "neg_label_smoothing": smoothing}
        module = kind(local_batch_size=len(p.image), apply_global_neg_loss=True, **settings, **more)
        texts, valid = by_kind(p, unit(p.text))
        words = p.mask_NL & (torch.arange(p.mask_NL.shape[1]) > 0)
        found = module(
            image_features=unit(p.image),
            text_features=texts,
            neg_text_masks=valid,
            logit_scale=p.scale,
            image_tokens=p.patches,
            text_tokens=by_kind(p, p.tokens)[0],
            attn_mask=by_kind(p, words)[0].long(),
            output_dict=True,
        )
        return found[part]

    return value


def own() -> Iterator[Row]:
    plain, calibrated = loss(OwnNegativesLoss()), loss(OwnNegativesLoss(focal=2.0, label_smoothing=0.02))
    yield Row("own_negatives", sources.TSVLC, "get_loss_neg_only", tsvlc, plain, FOILS)
    why = "here every caption of another image is a rival, and either caption looks for the other; there only paraphrases are, and are found"
    two = Shape(captions=2)
    yield Row("paraphrases", sources.TSVLC, "get_loss_pos_only", tsvlc_paraphrases, loss(ParaphrasesLoss()), two, False, why)
    name, part = "Global_HNLoss", "clip_neg_loss"
    yield Row("own_negatives", sources.FSC_CLIP, name, fsc(0, None, part), plain, FOILS)
    settings = "own_negatives focal=2, label_smoothing=0.02"
    yield Row(settings, sources.FSC_CLIP, name, fsc(2.0, 0.02, part), calibrated, FOILS, True, FLOAT32, 1e-6)
    why = "a vector of zeros stands for a negative that is not there, as a candidate of logit 0; here nothing does"
    yield Row(f"{settings}, negatives missing", sources.FSC_CLIP, name, fsc(2.0, 0.02, part), calibrated, SOME_FOILS, False, why)
    name, part = "Local_HNLoss", "local_neg_loss"
    plain = loss(FscLocalLoss(focal=0.0, label_smoothing=0.0))
    yield Row("fsc_local focal=0, label_smoothing=0", sources.FSC_CLIP, name, fsc(0, None, part), plain, FOILS)
    yield Row(
        "fsc_local (default)", sources.FSC_CLIP, name, fsc(2.0, 0.02, part), loss(FscLocalLoss()), FOILS, True, FLOAT32, 1e-6
    )
    for setting, theirs in (
        ({"weights": "softmax"}, {"sim_normalizer": "softmax"}),
        ({"sparsify": True}, {"sim_sparsify": True}),
    ):
        ours = loss(replace(FscLocalLoss(focal=0.0, label_smoothing=0.0), **setting))
        label = ", ".join(f"{k}={v!r}".replace("'", '"') for k, v in setting.items())
        yield Row(
            f"fsc_local focal=0, label_smoothing=0, {label}", sources.FSC_CLIP, name, fsc(0, None, part, **theirs), ours, FOILS
        )


# ---- DeGLA ------------------------------------------------------------------------------------------------------------------


def teachers(p: Problem) -> tuple[Tensor, Tensor]:
    """A teacher's vectors of images and of texts: constants."""
    return p.patches[:, 0].detach(), p.tokens[:, 0].detach()


def degla_text(by_negative: bool) -> Theirs:
    def value(m: Any, p: Problem) -> Tensor:
        images, _, kinds = p.sizes
        text, foils = unit(p.text), unit(p.foils)
        if by_negative:
            foils = foils.unflatten(0, (images, kinds)).transpose(0, 1).flatten(0, 1)
        text = torch.cat([text[:images], foils])
        return m.CLIPloss_DeGLA(neg_text=kinds).get_text_local_loss(p.scale, text, unit(teachers(p)[1][:images]))

    return value


def degla_image(m: Any, p: Problem) -> Tensor:
    return m.CLIPloss_DeGLA(neg_text=p.sizes[2]).get_image_local_loss(p.scale, unit(p.image), unit(p.text))


def degla_distance(m: Any, p: Problem) -> Tensor:
    image, text = teachers(p)
    return m.CLIPloss_DeGLA().get_mse_distill_loss(unit(p.image), unit(p.text), unit(image), unit(text))


def taught(kind: Any) -> Ours:
    """A loss of ours with a teacher."""

    def value(p: Problem) -> Tensor:
        image, text, pairing = p.features
        image = replace(image, teacher=ImageFeatures(teachers(p)[0]))
        text = replace(text, teacher=TextFeatures(teachers(p)[1][p.kept_N]))
        return kind(image, text, pairing, p.scale).value

    return value


def degla() -> Iterator[Row]:
    tgc = taught(TgcLoss())
    why = "its mask and its list of negatives have different orders: a caption meets the negatives of others"
    yield Row("tgc", sources.DEGLA, "get_text_local_loss", degla_text(False), tgc, FOILS, False, why)
    why = "its negatives given in the order of its mask"
    yield Row("tgc", sources.DEGLA, "get_text_local_loss", degla_text(True), tgc, FOILS, True, why)
    yield Row("own_negatives", sources.DEGLA, "get_image_local_loss", degla_image, loss(OwnNegativesLoss()), FOILS)
    total = taught(DistillationLoss(reduction="sum"))
    yield Row('distillation reduction="sum"', sources.DEGLA, "get_mse_distill_loss", degla_distance, total, FOILS)


# ---- COSMOS -----------------------------------------------------------------------------------------------------------------

WHOLE = 2  # of four texts
CROSS_SCALE = 5.0


def cosmos_parts(p: Problem) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    """Two global views and a local one, four texts, and what a teacher sees: two views, two texts."""
    seen = [x.detach() for x in p.patches[:, :2].unbind(1)]
    read = [x.detach() for x in p.by_image(p.tokens[:, 0]).unbind(1)]
    return list(p.branches.unbind(1)), list(p.by_image(p.captions).unbind(1)), seen, read[:WHOLE]


def cosmos_theirs(m: Any, p: Problem) -> Tensor:
    views, texts, seen, read = ([unit(x) for x in part] for part in cosmos_parts(p))
    return m.COSMOSLoss()(views, texts, p.scale, seen, read, False, CROSS_SCALE, views, texts)


def cosmos_ours(p: Problem) -> Tensor:
    """The attention gives nothing, so that a crossed vector is the vector."""
    images, width, count = len(p.image), p.image.shape[1], len(p.captions)
    views, _, seen, _ = cosmos_parts(p)
    nothing = {
        f"cross_{s}_{n}": torch.zeros(width, 1) if n == "DA" else torch.zeros(width)
        for s in ("image", "text")
        for n in ("DA", "D")
    }
    learned = nothing | {"cross_log_scale_1": torch.tensor([math.log(CROSS_SCALE)])}
    made = [
        ImageFeatures(
            view,
            keys_BGSE=torch.ones(images, 1, 1, 1),
            values_BGSE=torch.ones(images, 1, 1, 1),
            query_BGE=torch.ones(images, 1, 1),
            learned=learned,
            teacher=ImageFeatures(seen[n]) if n < len(seen) else None,
        )
        for n, view in enumerate(views)
    ]
    words = torch.ones(count, 1, 1, 1)
    text = TextFeatures(
        p.captions,
        mask_NL=torch.ones(count, 1, dtype=torch.bool),
        query_NGE=torch.ones(count, 1, 1),
        keys_NLGE=words,
        values_NLGE=words,
        teacher=TextFeatures(p.tokens[:, 0].detach()),
    )
    whole = tuple(f"role {n}" for n in range(WHOLE))
    return CosmosLoss(whole=whole)(replace(made[0], views=tuple(made[1:])), text, p.pairing, p.scale).value


def cosmos() -> Iterator[Row]:
    why = "2 of 3 views and 2 of 4 texts seen by the teacher; what crosses them lies in the head and is left out"
    yield Row("cosmos", sources.COSMOS, "COSMOSLoss", cosmos_theirs, cosmos_ours, Shape(captions=4), True, why)
