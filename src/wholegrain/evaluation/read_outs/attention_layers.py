"""What the last layers of a Vision Transformer attend to, recorded while it runs, and how what is pooled follows from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeAlias

import torch
from timm.layers.attention_pool import AttentionPoolLatent
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from wholegrain.evaluation.result import NotSupportedError
from wholegrain.towers.base import NOTHING, ImageTower, RawImage
from wholegrain.towers.blocks import Dense, Packed, ResidualBlock
from wholegrain.towers.heads.base import Head
from wholegrain.towers.sources.open_clip import OpenClipImageTower
from wholegrain.towers.sources.timm import TimmImageTower


@dataclass(frozen=True)
class Layer:
    """What a layer's attention gave for B pictures; Q queries count for what is pooled, S tokens were attended to.

    Attributes:
        attended_BQA: what each query attended to, G heads side by side.
        values_BSA: the values of the tokens.
        before_BQV: the queries' tokens before the attention, to which its output is added; ``[B, 0, V]`` where there are none.
        heads: G.
        first: how many tokens stand before the patches.
        read: ``(attended_BQA, before_BQV)`` to what the tower would give, were this its last layer.
        blocked_QS: True where a query may not attend; ``None``: nowhere.
    """

    attended_BQA: Tensor
    values_BSA: Tensor
    before_BQV: Tensor
    heads: int
    first: int
    read: Callable[[Tensor, Tensor], RawImage]
    blocked_QS: Tensor | None = None

    def pictures(self, chosen: slice) -> Layer:
        """The same of some pictures."""
        attended_BQA, values_BSA, before_BQV = self.attended_BQA[chosen], self.values_BSA[chosen], self.before_BQV[chosen]
        return replace(self, attended_BQA=attended_BQA, values_BSA=values_BSA, before_BQV=before_BQV)


Layers: TypeAlias = list[Callable[[], Layer]]
"""What was recorded; each makes its layer when it is called, of ordinary tensors."""


class Recorder(Protocol):
    """Listens to a tower's last layers."""

    @contextmanager
    def recording(self) -> Iterator[Layers]:
        """While open, fills the list with one item a layer for each forward pass."""
        ...


def recorder_of(tower: ImageTower, head: Head, layers: int) -> Recorder:
    """The one that fits the tower.

    Args:
        layers: how many, from the last.

    Raises:
        NotSupportedError: the tower is no plain Vision Transformer of open_clip or timm, or has branches.
    """
    if tower.branches is not None or tower.mlp_branches is not None:
        raise NotSupportedError(
            "The read-out gradient needs an image tower that pools one vector, and this one has branches; use pooled."
        )
    whole = "patches" in head.raw_needs(NOTHING)  # the head pools patches itself
    if isinstance(tower, OpenClipImageTower) and isinstance(tower.net.transformer.resblocks[-1], ResidualBlock):
        return OpenClipRecorder(tower, layers, whole)
    if isinstance(tower, TimmImageTower) and tower.is_vit and all(_is_plain(block) for block in tower.net.blocks):
        if not isinstance(tower.net.attn_pool, AttentionPoolLatent):
            return TimmRecorder(tower, layers, whole)
        if not whole:
            return LatentRecorder(tower, layers)
    raise NotSupportedError(
        "The read-out gradient needs the attention of a plain Vision Transformer of open_clip or timm, which this image tower "
        f"({type(tower.net).__name__ if hasattr(tower, 'net') else type(tower).__name__}) has not; use pooled."
    )


def _is_plain(block: object) -> bool:
    return type(block) is Block and getattr(block.attn, "gate", None) is None and hasattr(block.attn, "qkv")


class OpenClipRecorder:
    """Of open_clip's own Vision Transformer."""

    def __init__(self, tower: OpenClipImageTower, layers: int, whole: bool) -> None:
        self._net = tower.net
        self._blocks = [block for block in tower.net.transformer.resblocks if isinstance(block, ResidualBlock)][-layers:]
        self._queries = slice(None) if whole or tower.net.pool_type == "avg" else slice(0, 1)

    @contextmanager
    def recording(self) -> Iterator[Layers]:
        """By a method of each block in the place of its class's own."""
        recorded: Layers = []
        for block in self._blocks:
            vars(block)["attention"] = self._listening(block, recorded)
        try:
            yield recorded
        finally:
            for block in self._blocks:
                del vars(block)["attention"]

    def _listening(self, block: ResidualBlock, recorded: Layers) -> Callable[..., tuple[Tensor, Tensor]]:
        heads: int = block.attn.num_heads

        def attention(x: Tensor, layout: Dense | Packed, pooled_only: bool) -> tuple[Tensor, Tensor]:
            if pooled_only:
                raise ValueError("the class token alone was asked for, so there is nothing to record; encode with needs={'patches'}")
            q, k, v = block.qkv(x, layout, pooled_only)
            attended = layout.attention(q, k, v, heads, pooled_only)
            recorded.append(partial(self._layer, block, x, attended, v))
            return x, attended

        return attention

    def _layer(self, block: ResidualBlock, x_BSV: Tensor, attended_BSA: Tensor, values_BSA: Tensor) -> Layer:
        def read(attended_BQA: Tensor, before_BQV: Tensor) -> RawImage:
            return self._pool(block.after_attention(before_BQV, attended_BQA))

        queries = (x[:, self._queries].clone() for x in (attended_BSA, x_BSV))
        attended_BQA, before_BQV = queries
        return Layer(attended_BQA, values_BSA.clone(), before_BQV, block.attn.num_heads, 1, read)

    def _pool(self, x_BSV: Tensor) -> RawImage:
        net = self._net
        x = x_BSV if net.final_ln_after_pool else net.ln_post(x_BSV)
        pooled_BV = x[:, 1:].mean(1) if net.pool_type == "avg" else x[:, 0]
        patches = x[:, 1:]
        if net.final_ln_after_pool:
            pooled_BV, patches = net.ln_post(pooled_BV), net.ln_post(patches)
        rows, columns = net.grid_size
        return RawImage(pooled_BV, patches, None, (rows, columns))


class TimmRecorder:
    """Of timm's Vision Transformer that pools a class token or a mean."""

    def __init__(self, tower: TimmImageTower, layers: int, whole: bool) -> None:
        self._net, self._near_SS, self._blocks = tower.net, tower.near_SS, list(tower.net.blocks)[-layers:]
        self._queries = slice(None) if whole or tower.net.global_pool != "token" else slice(0, 1)

    @contextmanager
    def recording(self) -> Iterator[Layers]:
        """By hooks."""
        recorded: Layers = []
        with ExitStack() as hooks:
            for block in self._blocks:
                seen: dict[str, Tensor] = {}
                for module, name in ((block, "before"), (_after_heads(block.attn), "attended")):
                    hooks.callback(module.register_forward_pre_hook(_keep_input(seen, name)).remove)
                hooks.callback(block.attn.qkv.register_forward_hook(_keep_output(seen, "qkv")).remove)
                hooks.callback(block.register_forward_hook(_finish(partial(self._layer, block), seen, recorded)).remove)
            yield recorded

    def _layer(self, block: Any, kept: dict[str, Tensor]) -> Layer:
        net, attention, queries = self._net, block.attn, self._queries

        def read(attended_BQA: Tensor, before_BQV: Tensor) -> RawImage:
            x = before_BQV + block.ls1(attention.proj(getattr(attention, "norm", torch.nn.Identity())(attended_BQA)))
            x = net.norm(x + block.ls2(block.mlp(block.norm2(x))))
            patches = net.fc_norm(x[:, net.num_prefix_tokens :])
            return RawImage(net.forward_head(x, pre_logits=True), patches, None, tuple(net.patch_embed.grid_size))

        before_BQV, attended_BQA = (kept[name][:, queries].clone() for name in ("before", "attended"))
        blocked = None if self._near_SS is None else (self._near_SS == -torch.inf)[queries]
        values_BSA = kept["qkv"].chunk(3, -1)[2].clone()
        return Layer(attended_BQA, values_BSA, before_BQV, attention.num_heads, net.num_prefix_tokens, read, blocked)


class LatentRecorder:
    """Of timm's Vision Transformer that pools by attention of a learned query (SigLIP): the pooling, fed with the tokens of each layer."""

    def __init__(self, tower: TimmImageTower, layers: int) -> None:
        self._net, self._blocks = tower.net, list(tower.net.blocks)[-layers:]

    @contextmanager
    def recording(self) -> Iterator[Layers]:
        """By hooks."""
        recorded: Layers = []
        with ExitStack() as hooks:
            for block in self._blocks:
                hooks.callback(block.register_forward_hook(lambda *found: recorded.append(partial(self._layer, found[2]))).remove)
            yield recorded

    def _layer(self, tokens_BSV: Tensor) -> Layer:
        net, pool = self._net, self._net.attn_pool
        first = net.num_prefix_tokens if net.pool_include_prefix else 0
        x = net.norm(tokens_BSV.clone())[:, net.num_prefix_tokens - first :]
        x = x if pool.pos_embed is None else x + pool.pos_embed
        heads = (pool.num_heads, -1)
        query = pool.q(pool.latent.expand(len(x), -1, -1)).unflatten(-1, heads).transpose(1, 2)
        keys_BSA, values_BSA = pool.kv(x).chunk(2, -1)
        key, value = (part.unflatten(-1, heads).transpose(1, 2) for part in (keys_BSA, values_BSA))
        attended = scaled_dot_product_attention(pool.q_norm(query), pool.k_norm(key), value)

        def read(attended_BQA: Tensor, _: Tensor) -> RawImage:
            y = pool.proj(attended_BQA)
            y = y if pool.mlp is None else y + pool.mlp(pool.norm(y))
            return RawImage(net.fc_norm(y.mean(1) if pool.pool == "avg" else y[:, 0]))

        return Layer(attended.transpose(1, 2).flatten(2), values_BSA, x[:, :0], pool.num_heads, first, read)


def _after_heads(attention: nn.Module) -> nn.Module:
    """The module whose input is what the heads attended to."""
    return getattr(attention, "norm", attention.get_submodule("proj"))


def _keep_input(seen: dict[str, Tensor], name: str) -> Callable[..., None]:
    def hook(module: object, given: tuple[Tensor, ...]) -> None:
        seen[name] = given[0]

    return hook


def _keep_output(seen: dict[str, Tensor], name: str) -> Callable[..., None]:
    def hook(module: object, given: object, found: Tensor) -> None:
        seen[name] = found

    return hook


def _finish(layer: Callable[[dict[str, Tensor]], Layer], seen: dict[str, Tensor], recorded: Layers) -> Callable[..., None]:
    def hook(module: object, given: object, found: Tensor) -> None:
        recorded.append(partial(layer, dict(seen)))

    return hook
