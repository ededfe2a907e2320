"""Which weight of a transformers CLIP or SigLIP is which weight of open_clip's and timm's towers: one table for both directions.

A row of a table is two tuples of names, ours and theirs: the same numbers in the same order, cut differently (open_clip keeps queries, keys
and values in one matrix, transformers in three).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from wholegrain.errors import UserError

Pair = tuple[tuple[str, ...], tuple[str, ...]]
PARTS = ("weight", "bias")


def _same(ours: str, theirs: str, parts: tuple[str, ...] = PARTS) -> list[Pair]:
    return [((f"{ours}.{part}",), (f"{theirs}.{part}",)) for part in parts]


def _open_clip_blocks(layers: int, ours: str, theirs: str) -> list[Pair]:
    pairs: list[Pair] = []
    for i in range(layers):
        mine, other = f"{ours}.{i}", f"{theirs}.{i}"
        for part in PARTS:
            pairs.append(((f"{mine}.attn.in_proj_{part}",), tuple(f"{other}.self_attn.{n}_proj.{part}" for n in "qkv")))
        pairs += _same(f"{mine}.attn.out_proj", f"{other}.self_attn.out_proj")
        pairs += _same(f"{mine}.ln_1", f"{other}.layer_norm1") + _same(f"{mine}.ln_2", f"{other}.layer_norm2")
        pairs += _same(f"{mine}.mlp.c_fc", f"{other}.mlp.fc1") + _same(f"{mine}.mlp.c_proj", f"{other}.mlp.fc2")
    return pairs


def clip_image(layers: int) -> list[Pair]:
    """open_clip's ``VisionTransformer`` without projection, and ``CLIPModel.vision_model``."""
    at = "vision_model.embeddings"
    return [
        (("class_embedding",), (f"{at}.class_embedding",)),
        (("positional_embedding",), (f"{at}.position_embedding.weight",)),
        *_same("conv1", f"{at}.patch_embedding", ("weight",)),
        *_same("ln_pre", "vision_model.pre_layrnorm"),
        *_same("ln_post", "vision_model.post_layernorm"),
        *_open_clip_blocks(layers, "transformer.resblocks", "vision_model.encoder.layers"),
    ]


def text(layers: int) -> list[Pair]:
    """open_clip's ``TextTransformer`` without projection, and ``text_model`` of both kinds."""
    return [
        *_same("token_embedding", "text_model.embeddings.token_embedding", ("weight",)),
        (("positional_embedding",), ("text_model.embeddings.position_embedding.weight",)),
        *_same("ln_final", "text_model.final_layer_norm"),
        *_open_clip_blocks(layers, "transformer.resblocks", "text_model.encoder.layers"),
    ]


def siglip_image(layers: int) -> list[Pair]:
    """timm's ``VisionTransformer`` with ``global_pool="map"``, and ``SiglipModel.vision_model``."""
    head = "vision_model.head"
    pairs = [
        *_same("patch_embed.proj", "vision_model.embeddings.patch_embedding"),
        (("pos_embed",), ("vision_model.embeddings.position_embedding.weight",)),
        *_same("norm", "vision_model.post_layernorm"),
        (("attn_pool.latent",), (f"{head}.probe",)),
        *_same("attn_pool.proj", f"{head}.attention.out_proj"),
        *_same("attn_pool.norm", f"{head}.layernorm"),
        *_same("attn_pool.mlp.fc1", f"{head}.mlp.fc1"),
        *_same("attn_pool.mlp.fc2", f"{head}.mlp.fc2"),
    ]
    for part in PARTS:
        pairs.append(((f"attn_pool.q.{part}", f"attn_pool.kv.{part}"), (f"{head}.attention.in_proj_{part}",)))
    for i in range(layers):
        mine, other = f"blocks.{i}", f"vision_model.encoder.layers.{i}"
        for part in PARTS:
            pairs.append(((f"{mine}.attn.qkv.{part}",), tuple(f"{other}.self_attn.{n}_proj.{part}" for n in "qkv")))
        pairs += _same(f"{mine}.attn.proj", f"{other}.self_attn.out_proj")
        pairs += _same(f"{mine}.norm1", f"{other}.layer_norm1") + _same(f"{mine}.norm2", f"{other}.layer_norm2")
        pairs += _same(f"{mine}.mlp.fc1", f"{other}.mlp.fc1") + _same(f"{mine}.mlp.fc2", f"{other}.mlp.fc2")
    return pairs


def inverted(pairs: Iterable[Pair]) -> list[Pair]:
    """The table read the other way: theirs from ours."""
    return [(theirs, ours) for ours, theirs in pairs]


def converted(source: Mapping[str, Tensor], net: nn.Module, pairs: Iterable[Pair], where: str) -> dict[str, Tensor]:
    """The weights of ``net`` from those of ``source``, by a table whose first column is ``net``'s.

    Args:
        where: for messages: what the source is.

    Raises:
        UserError: a weight is missing or has another size.
    """
    shapes = {name: values.shape for name, values in net.state_dict().items()}
    found: dict[str, Tensor] = {}
    for own, others in pairs:
        missing = [name for name in others if name not in source]
        if missing:
            raise UserError(f"{where} lacks the weight {missing[0]}; get the complete model")
        flat = torch.cat([source[name].detach().flatten() for name in others])
        sizes = [shapes[name].numel() for name in own]
        if sum(sizes) != len(flat):
            raise UserError(f"{where}: {others[0]} does not have the size that config.json says; get weights and config together")
        for name, part in zip(own, flat.split(sizes), strict=True):
            found[name] = part.view(shapes[name]).clone()
    return found
