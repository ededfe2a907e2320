"""The comparisons of losses over patches and tokens."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

import sources
import torch
from originals import Originals
from problem import Problem, Shape, unit
from rows import Ours, Row, Theirs, loss, weighted
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from wholegrain.features import TextFeatures
from wholegrain.losses.clip import ClipLoss
from wholegrain.losses.dreamlip import DreamlipLoss
from wholegrain.losses.filip import FilipLoss, filip_scores
from wholegrain.losses.flair import FlairLoss
from wholegrain.losses.gloria import GloriaLoss
from wholegrain.losses.mgca import MgcaLoss
from wholegrain.losses.mgca_prototypes import MgcaPrototypesLoss
from wholegrain.losses.siglip import SiglipLoss
from wholegrain.losses.sparc import SparcLoss
from wholegrain.towers.base import RawImage, RawText
from wholegrain.towers.heads.attention import AttentionSettings
from wholegrain.towers.heads.base import Widths
from wholegrain.towers.heads.flair import FlairHead

FULL = Shape(padded=False)
SEVERAL = Shape(captions=3)


def fine_grained(originals: Originals) -> Iterator[Row]:
    """All of them."""
    yield from sparc()
    yield from filip()
    yield from gloria()
    yield from mgca()
    yield from dreamlip()
    yield from flair(originals)


# ---- SPARC's re-implementations ---------------------------------------------------------------------------------------------


def clip_embeds(m: Any, p: Problem) -> Tensor:
    tower = SimpleNamespace(
        sigma=1 / p.patches.shape[1],
        forward_visual=lambda _: p.patches,
        forward_text=lambda _: (p.tokens, p.mask_NL.to(p.tokens.dtype)),
    )
    _, tokens, grouped, mask = m.sparc.forward(tower, None, None)
    pair = m.SparcLoss(1 / p.scale).masked_pairwise_contrastive_loss
    return (pair(grouped, tokens, mask) + pair(tokens, grouped, mask)) / 2


def finetune(m: Any, p: Problem) -> Tensor:
    config = SimpleNamespace(similarity_threshold=0.5, global_loss_weight=0.0, local_loss_weight=1.0, inverse_temperature=p.scale)
    return m.SPARCLoss(config)(p.patches, p.tokens, p.mask_NL)["local_loss"]


def sparc() -> Iterator[Row]:
    why = "means per caption (eq. 6) here, over all tokens (the paper's listing) there"
    yield Row("sparc (default)", sources.CLIP_EMBEDS, "sparc, SparcLoss", clip_embeds, loss(SparcLoss()), Shape(), False, why)
    token = loss(SparcLoss(reduction="token"))
    yield Row('sparc reduction="token"', sources.CLIP_EMBEDS, "sparc, SparcLoss", clip_embeds, token)
    same = "as many tokens in every text"
    yield Row(
        "sparc (default), equal lengths",
        sources.CLIP_EMBEDS,
        "sparc, SparcLoss",
        clip_embeds,
        loss(SparcLoss()),
        FULL,
        True,
        same,
    )
    ours = loss(SparcLoss(similarity="cosine", sigma=0.5, reduction="token"))
    name = 'sparc similarity="cosine", sigma=0.5, reduction="token"'
    why = "as many tokens in every text: with padding it is NaN; 1e-8 in its denominators"
    yield Row(name, sources.FINETUNE, "SPARCLoss", finetune, ours, FULL, True, why, 1e-8)
    why = "normalises before the similarity, threshold 0.5"
    yield Row("sparc (default)", sources.FINETUNE, "SPARCLoss", finetune, loss(SparcLoss()), FULL, False, why)


# ---- FILIP ------------------------------------------------------------------------------------------------------------------


class _Given(nn.Module):
    """An encoder that gives what it was made with."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features

    def forward(self, *_: Any) -> Tensor:
        return self.features


def x_clip(m: Any, p: Problem) -> Tensor:
    width = p.image.shape[1]
    model = m.CLIP(
        image_encoder=_Given(p.patches),
        text_encoder=_Given(p.tokens),
        dim_text=width,
        dim_image=width,
        dim_latent=width,
        use_all_token_embeds=True,
        text_has_cls_token=False,
        visual_has_cls_token=False,
        text_ssl_loss_weight=0.0,
        image_ssl_loss_weight=0.0,
    )
    model.to_text_latent, model.to_visual_latent = nn.Identity(), nn.Identity()
    del model.temperature
    model.temperature = p.scale.log()
    return model(p.mask_NL.long(), p.patches, return_loss=True)


def over_images_twice(p: Problem) -> Tensor:
    """Our two scores, and both denominators over images."""
    to_text, to_image = filip_scores(unit(p.patches), unit(p.tokens), p.mask_NL)
    own = torch.arange(len(p.image))
    return (cross_entropy(p.scale * to_text.T, own) + cross_entropy(p.scale * to_image.T, own)) / 2


def filip() -> Iterator[Row]:
    why = "both denominators run over images there; the paper contrasts the image's score over texts"
    near = "both denominators over images; it adds 1e-20 to what it takes the logarithm of"
    yield Row("filip (default)", sources.X_CLIP, "CLIP(use_all_token_embeds)", x_clip, loss(FilipLoss()), Shape(), False, why)
    yield Row("filip_scores", sources.X_CLIP, "CLIP(use_all_token_embeds)", x_clip, over_images_twice, Shape(), True, near)


# ---- GLoRIA -----------------------------------------------------------------------------------------------------------------


def gloria_local(**settings: Any) -> Theirs:
    def value(m: Any, p: Problem) -> Tensor:
        image = p.patches.transpose(1, 2)[:, :, None]
        over_texts, over_images, _ = m.local_loss(image, p.tokens.transpose(1, 2), p.mask_NL.sum(1).tolist(), **settings)
        return over_texts + over_images

    return value


def gloria_global(m: Any, p: Problem) -> Tensor:
    return sum(m.global_loss(p.image, p.text), torch.zeros(()))


def at_scale(kind: Any, scale: float) -> Ours:
    """A loss of ours at a fixed scale."""
    return lambda p: kind(*p.features, torch.tensor(scale, dtype=p.image.dtype)).value


def gloria() -> Iterator[Row]:
    twice = "twice ours: it adds the two directions"
    mean = loss(GloriaLoss(aggregate="mean"))
    yield Row("gloria, x 2", sources.GLORIA, "local_loss", gloria_local(), weighted((2, loss(GloriaLoss()))), why=twice)
    yield Row(
        'gloria aggregate="mean", x 2',
        sources.GLORIA,
        "local_loss(agg)",
        gloria_local(agg="mean"),
        weighted((2, mean)),
        why=twice,
    )
    why = "no softmax over words, division by sqrt(D), a learned scale: SPARC's re-implementation"
    other = weighted((2, loss(GloriaLoss(variant="sparc"))))
    yield Row('gloria variant="sparc", x 2', sources.GLORIA, "local_loss", gloria_local(), other, Shape(), False, why)
    fixed = weighted((2, at_scale(ClipLoss(), 10.0)))
    yield Row("clip at scale 10, x 2", sources.GLORIA, "global_loss", gloria_global, fixed, why=twice)


# ---- MGCA -------------------------------------------------------------------------------------------------------------------

PROTOTYPES = 6


def mgca_module(part: int, encoder: str = "resnet_50", attention: str = "even", prototypes: Tensor | None = None) -> Theirs:
    """One of its three losses: 0 of image and text, 1 of tokens, 2 of prototypes."""

    def value(m: Any, p: Problem) -> Tensor:
        width, kind = p.image.shape[1], m.MGCA
        weight = prototype_weights(width) if prototypes is None else prototypes
        layer = nn.Linear(width, PROTOTYPES, bias=False)
        layer.weight = nn.Parameter(weight.to(p.image.dtype))
        seen = (
            torch.rand(p.mask_NL.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(p.image.dtype) + 0.1
        )
        even = p.mask_NL / p.mask_NL.sum(1, keepdim=True)
        words = even if attention == "even" else seen * p.mask_NL
        signs = [["[CLS]", *("word" if real else "[PAD]" for real in row)] for row in p.mask_NL.tolist()]
        places = p.patches.shape[1] + 1
        map_ = SimpleNamespace(attention_map=torch.ones(len(p.image), 1, places, places, dtype=p.image.dtype))
        vit = SimpleNamespace(blocks=[SimpleNamespace(attn=map_)])
        itself = SimpleNamespace(
            hparams=SimpleNamespace(
                softmax_temperature=0.1,
                use_local_atten=False,
                local_temperature=0.1,
                bidirectional=True,
                img_encoder=encoder,
                epsilon=0.05,
                sinkhorn_iterations=3,
                proto_temperature=0.2,
                gpus=0,
            ),
            img_encoder_q=_encoder((p.image, p.patches), model=vit),
            text_encoder_q=_encoder((p.text, p.tokens, words, signs)),
            prototype_layer=layer,
            precision_at_k=kind.precision_at_k,
        )
        itself.get_assignments = partial(kind.sinkhorn, itself)
        batch = {"imgs": p.image, "caption_ids": None, "attention_mask": None, "token_type_ids": None}
        return kind.forward(itself, batch, 0)[part]

    return value


def _encoder(found: tuple[Any, ...], **more: Any) -> Any:
    class Encoder(SimpleNamespace):
        def __call__(self, *_: Any) -> tuple[Any, ...]:
            return found

    return Encoder(local_embed=lambda x: x, global_embed=lambda x: x, **more)


def prototype_weights(width: int) -> Tensor:
    draw = torch.Generator().manual_seed(3)
    return normalize(torch.randn(PROTOTYPES, width, generator=draw, dtype=torch.float64), dim=1)


def mgca_prototypes(p: Problem) -> Tensor:
    image, text, pairing = p.features
    image.learned["prototypes_KD"] = prototype_weights(p.image.shape[1]).to(p.image.dtype)  # type: ignore[index]
    return MgcaPrototypesLoss()(image, text, pairing, p.scale).value


def mgca() -> Iterator[Row]:
    name, tokens = "MGCA.forward, loss_local", loss(MgcaLoss())
    yield Row("mgca, no padding", sources.MGCA, name, mgca_module(1), tokens, FULL)
    why = "padded words are among the rivals there"
    yield Row("mgca, padding", sources.MGCA, name, mgca_module(1), tokens, Shape(), False, why)
    why = "words weighed by the last layer's attention there, equally here"
    yield Row("mgca, word weights", sources.MGCA, name, mgca_module(1, attention="drawn"), tokens, FULL, False, why)
    why = "with a ViT the groups of words are not normalised there"
    yield Row("mgca, ViT", sources.MGCA, name, mgca_module(1, "vit_base"), tokens, FULL, False, why)
    why = "its targets are cast to float32"
    yield Row("mgca_prototypes", sources.MGCA, "MGCA.forward, loss_proto", mgca_module(2), mgca_prototypes, loose=1e-5, why=why)
    both = weighted((2, at_scale(ClipLoss(), 10.0)))
    yield Row(
        "clip at scale 10, x 2",
        sources.MGCA,
        "MGCA.forward, loss_ita",
        mgca_module(0),
        both,
        why="twice ours: it adds the two directions",
    )


# ---- DreamLIP ---------------------------------------------------------------------------------------------------------------


def dreamlip_group(delta: float, norm: str = "minmax", fixed: float | None = None) -> Theirs:
    def value(m: Any, p: Problem) -> Tensor:
        scale = p.scale if fixed is None else fixed
        module = m.ClipLoss(use_finegrained_loss=True, sgl_delta=delta, sgl_norm=norm)
        found = module(unit(p.image), p.by_image(unit(p.captions)), p.scale, scale, local_image_features=p.patches)
        return found["finegrained_loss"]

    return value


def dreamlip() -> Iterator[Row]:
    name = "ClipLoss(use_finegrained_loss)"
    near = "1e-10 in its denominators"
    yield Row("dreamlip, 1 caption", sources.DREAMLIP, name, dreamlip_group(0.0), loss(DreamlipLoss()), why=near)
    share = loss(DreamlipLoss(sigma=None))
    yield Row("dreamlip sigma=None, 1 caption", sources.DREAMLIP, f"{name}, sgl_delta < 0", dreamlip_group(-1.0), share, why=near)
    why = "stacked caption by caption and read image by image there: most captions gather another image's patches"
    yield Row("dreamlip, 3 captions", sources.DREAMLIP, name, dreamlip_group(0.0), loss(DreamlipLoss()), SEVERAL, False, why)
    released = loss(DreamlipLoss(patches_of="released"))
    yield Row(
        'dreamlip patches_of="released", 3 captions', sources.DREAMLIP, name, dreamlip_group(0.0), released, SEVERAL, why=near
    )
    softmax = at_scale(DreamlipLoss(patches_of="released", weights="softmax"), 1.0)
    yield Row(
        'dreamlip patches_of="released", weights="softmax", scale 1',
        sources.DREAMLIP,
        f"{name}, softmax",
        dreamlip_group(0.0, "softmax", 1.0),
        softmax,
        SEVERAL,
        why="its softmax is of bare cosines; ours of scale * cosine",
    )


# ---- FLAIR ------------------------------------------------------------------------------------------------------------------


def flair_pool(m: Any, width: int, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(width)
    pool = m.PureAttentionPoolingBlock(width, next(n for n in range(8, 0, -1) if width % n == 0)).to(dtype)
    for x in pool.parameters():
        nn.init.normal_(x, std=0.5)
    return pool


def flair_theirs(pool: Any, captions: int, *, first: bool, both: bool = False) -> Theirs:
    def value(m: Any, p: Problem) -> Tensor:
        module = m.FlairLoss(num_cap_per_img=captions, added_mps_loss=both)
        given = (p.image, p.captions, p.scale, p.bias, p.patches, flair_pool(pool, p.image.shape[1], p.image.dtype))
        if not first:
            torch.manual_seed(1)
            return module(*given)
        with mock.patch.object(torch, "randint", lambda _low, _high, size, **kind: torch.zeros(size, dtype=torch.int64)):
            return module(*given)

    return value


def flair_ours(pool: Any, captions: int, others: Any = "first", both: bool = False) -> Ours:
    def value(p: Problem) -> Tensor:
        width = p.image.shape[1]
        theirs: Any = flair_pool(pool, width, p.image.dtype)
        settings = AttentionSettings(attention_heads=theirs.attn.num_heads)
        head = FlairHead(Widths(width, width, width, "identity", "identity"), settings).to(p.image.dtype)
        maps = zip(
            (head.query, head.key, head.value),
            theirs.attn.in_proj_weight.chunk(3),
            theirs.attn.in_proj_bias.chunk(3),
            strict=True,
        )
        with torch.no_grad():
            for layer, weight, bias in maps:
                layer.weight.copy_(weight)
                layer.bias.copy_(bias)
        head.mix.load_state_dict(theirs.attn.out_proj.state_dict())
        for own, other in ((head.norm_query, theirs.ln_q), (head.norm_key, theirs.ln_k), (head.norm_value, theirs.ln_v)):
            own.load_state_dict(other.state_dict())
        _, texts, pairing = p.features
        image = head.project_image(RawImage(p.image, p.patches), frozenset({"slots"}))
        text = head.project_text(RawText(texts.pooled_ND, None, p.mask_NL), frozenset({"slots"}))
        value = FlairLoss(others=others)(image, text, pairing, p.scale, p.bias).value
        if both:
            value = (value + SiglipLoss(per="text")(image, TextFeatures(p.text), pairing, p.scale, p.bias).value) / 2
        return value

    return value


def flair(originals: Originals) -> Iterator[Row]:
    from originals import MissingError

    try:
        pool = originals.load(sources.FLAIR_POOL)
    except MissingError:
        pool = None
    name, drawn = "FlairLoss", "the text of another image is drawn there; the draw is set to its first"
    yield Row("flair, 1 caption", sources.FLAIR, name, flair_theirs(pool, 1, first=False), flair_ours(pool, 1))
    yield Row(
        "flair, 3 captions", sources.FLAIR, name, flair_theirs(pool, 3, first=True), flair_ours(pool, 3), SEVERAL, True, drawn
    )
    why = "the text of another image is drawn there and its first here (the loader draws the order)"
    yield Row(
        "flair, 3 captions, drawn",
        sources.FLAIR,
        name,
        flair_theirs(pool, 3, first=False),
        flair_ours(pool, 3),
        SEVERAL,
        False,
        why,
    )
    full, ours = flair_theirs(pool, 3, first=True, both=True), flair_ours(pool, 3, both=True)
    text = "mean of both terms"
    yield Row('(flair + siglip per="text") / 2, 3 captions', sources.FLAIR, f"{name}(added_mps_loss)", full, ours, SEVERAL, True, text)
