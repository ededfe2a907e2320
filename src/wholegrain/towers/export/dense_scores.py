"""Joint scores of all images with all texts in one dense formula, for a graph of fixed form.

``score`` of the heads goes through pairs in blocks, whose number depends on the sizes; a graph must not. These are the same formulas with
the whole ``[B, N, ...]`` in memory. A test and the export compare them with ``score``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wholegrain.errors import UserError
from wholegrain.features import ImageFeatures, TextFeatures
from wholegrain.losses.core.contract import unit
from wholegrain.towers.heads.attention import AttentionHead
from wholegrain.towers.heads.base import Head
from wholegrain.towers.heads.filip import FilipHead
from wholegrain.towers.heads.fusion import FusionHead
from wholegrain.towers.heads.pacl import PaclHead


def dense_score(head: Head, image: ImageFeatures, text: TextFeatures) -> Tensor:
    """``[B, N]``, as the head's ``score``.

    Raises:
        UserError: a head whose score has no dense form here.
    """
    if isinstance(head, FilipHead):
        return _filip(image, text)
    if isinstance(head, PaclHead):
        return _pacl(head, image, text)
    if isinstance(head, AttentionHead):
        return _attention(head, image, text)
    if isinstance(head, FusionHead):
        return _fusion(head, image, text)
    raise UserError(f"the joint score of the {head.kind} head has no form for a graph; export to wholegrain")


def _filip(image: ImageFeatures, text: TextFeatures) -> Tensor:
    patches, tokens, mask_NL = image.patches_BPD, text.tokens_NLD, text.mask_NL
    assert patches is not None
    assert tokens is not None
    assert mask_NL is not None
    tokens = torch.where(mask_NL[..., None], tokens, 0.0)
    near_BNPL = torch.einsum("bpd,nld->bnpl", unit(patches), unit(tokens))
    real_NL = mask_NL.to(near_BNPL.dtype)
    by_patch_BN = near_BNPL.masked_fill(~mask_NL[None, :, None], -2.0).amax(3).mean(2)
    by_token_BN = (near_BNPL.amax(2) * real_NL).sum(2) / real_NL.sum(1)
    return (by_patch_BN + by_token_BN) / 2


def _pacl(head: PaclHead, image: ImageFeatures, text: TextFeatures) -> Tensor:
    assert image.patches_BPD is not None
    patches_BPD, text_ND = unit(image.patches_BPD), unit(text.pooled_ND)
    near_BNP = torch.einsum("bpd,nd->bnp", patches_BPD, text_ND)
    pooled_BND = (near_BNP / head.settings.pool_temperature).softmax(-1) @ image.patches_BPD
    return torch.einsum("bnd,nd->bn", unit(pooled_BND), text_ND)


def _attention(head: AttentionHead, image: ImageFeatures, text: TextFeatures) -> Tensor:
    keys, values, query = image.keys_BGSE, image.values_BGSE, text.query_NGE
    assert keys is not None
    assert values is not None
    assert query is not None
    weight_BNGS = torch.einsum("nge,bgse->bngs", query, keys).softmax(-1)
    pooled = torch.einsum("bngs,bgse->bnge", weight_BNGS, values).flatten(2)
    return torch.einsum("bnd,nd->bn", unit(head.mix(pooled)), unit(text.pooled_ND))


def _fusion(head: FusionHead, image: ImageFeatures, text: TextFeatures) -> Tensor:
    patches, tokens, mask = image.patches_BPD, text.tokens_NLD, text.mask_NL
    assert patches is not None
    assert tokens is not None
    assert mask is not None
    B, N = image.pooled_BD.shape[0], text.pooled_ND.shape[0]

    def rows(x: Tensor) -> Tensor:  # image by image
        return x[:, None].expand(-1, N, *x.shape[1:]).flatten(0, 1)

    def columns(x: Tensor) -> Tensor:
        return x[None].expand(B, *x.shape).flatten(0, 1)

    images = ImageFeatures(rows(image.pooled_BD), patches_BPD=rows(patches))
    texts = TextFeatures(columns(text.pooled_ND), columns(tokens), columns(mask))
    return head.with_cosine(head.fusion(images, texts), images, texts).view(B, N)
